"""The lines of a class that state its rule, without its docstring and the declarations of its options."""

import ast
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path

from docs.website.staged import ROOT

MOST = 60  # lines of a class that are shown whole
# The methods that hold the rule, of a class that is longer: the first two that it writes.
RULES = (
    *("formula", "apply_scores", "apply_weights", "prepare", "explicit_weights", "scores", "visible", "content_mask"),
    *("scan", "mix", "decays", "forward", "step", "project", "update"),
)


def code_of(kind: type) -> str:
    """The class as Python, or its head and the methods that state the rule."""
    source = textwrap.dedent(inspect.getsource(kind))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    lines = source.splitlines()
    body = [part for part in node.body if not is_docstring(part) and not is_option(part)]
    head = lines[node.lineno - 1 : node.body[0].lineno - 1]
    if sum(length(part) for part in body) > MOST:
        methods = {part.name: part for part in body if isinstance(part, ast.FunctionDef)}
        body = [methods[name] for name in RULES if name in methods][:2] or body[:1]
    texts = ["\n".join(lines[first(part) - 1 : part.end_lineno]) for part in body]
    shown = "\n".join([*head, *filter(None, texts[:1])]) if texts else "\n".join([*head, "    ..."])
    return "\n\n".join([shown, *texts[1:]])


def methods_of(kind: type, names: Sequence[str]) -> str:
    """Some methods of a class, below its head."""
    texts = [textwrap.indent(textwrap.dedent(inspect.getsource(getattr(kind, name))), "    ") for name in names]
    return f"class {kind.__name__}(...):\n" + "\n".join(texts).rstrip()


def place(kind: type) -> str:
    """Where the class stands: file and line."""
    file = Path(inspect.getsourcefile(kind) or "").resolve()
    return f"{file.relative_to(ROOT).as_posix()}, line {inspect.getsourcelines(kind)[1]}"


def first(part: ast.stmt) -> int:
    return min([part.lineno, *(decorator.lineno for decorator in getattr(part, "decorator_list", []))])


def length(part: ast.stmt) -> int:
    return (part.end_lineno or part.lineno) - first(part) + 1


def is_docstring(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def is_option(part: ast.stmt) -> bool:
    """Whether a line declares an option or a slot, which stand in a table of their own."""
    call = part.value if isinstance(part, ast.AnnAssign) else None
    return isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("option", "slot", "given")
