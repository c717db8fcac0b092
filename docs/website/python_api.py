"""The page of the Python interface, from signatures and docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from docs.website.config_keys import cell

from attnlab.errors import shown
from attnlab.options import Configurable, settable

# Sections, with a sentence and what stands in them: module and name, and the methods of a class that matter.
SECTIONS: tuple[tuple[str, str, tuple[tuple[str, str, tuple[str, ...]], ...]], ...] = (
    (
        "Train, load, judge, look",
        "Four functions of the package itself: `import attnlab`.",
        (
            ("attnlab", "train", ()),
            ("attnlab", "load", ()),
            ("attnlab", "verdict", ()),
            ("attnlab", "inspect", ()),
        ),
    ),
    (
        "Maps",
        "What every head read, as arrays.",
        (
            ("attnlab.runs", "maps_of", ()),
            ("attnlab.inspection.prompt_maps", "PromptMaps", ()),
            ("attnlab.inspection.records", "LayerMap", ()),
            ("attnlab.inspection.prompt_maps", "load_prompt_maps", ()),
            ("attnlab.inspection.export", "for_bertviz", ()),
            ("attnlab.inspection.export", "for_circuitsvis", ()),
        ),
    ),
    (
        "The chapter's classes",
        "From no weights at all to several heads; each is a layer like every other, x (batch, tokens, d_model).",
        (
            ("attnlab.attention.simple", "SimpleAttention", ()),
            ("attnlab.attention.self_attention", "SelfAttention", ()),
            ("attnlab.attention.head_wrapper", "HeadWrapper", ()),
            ("attnlab.attention.multi_head", "MultiHeadAttention", ()),
        ),
    ),
    (
        "The model",
        "What `load` gives.",
        (("attnlab.model", "GPT", ("forward", "attention_maps", "init_state", "step")),),
    ),
    (
        "A variant of your own",
        "What a layer must have, and the two families most are made of.",
        (
            ("attnlab.attention.base", "Attention", ("forward", "weights", "init_state", "step", "cost")),
            ("attnlab.attention.base", "HeadedAttention", ("project", "mix", "merge", "share")),
            ("attnlab.attention.softmax", "SoftmaxAttention", ("scores", "explicit_weights")),
            ("attnlab.attention.state", "StateAttention", ("empty", "scan")),
            ("attnlab.attention.traits", "Traits", ()),
            ("attnlab.attention.shared", "Shared", ()),
            ("attnlab.options", "option", ()),
            ("attnlab.options", "slot", ()),
        ),
    ),
    (
        "Worked examples",
        "The numbers of `attnlab explain`.",
        (
            ("attnlab.explain.explanations", "variant", ()),
            ("attnlab.explain.explanations", "compared", ()),
            ("attnlab.explain.steps", "Explanation", ("step", "map")),
        ),
    ),
)


def page() -> str:
    """The page."""
    lines = [
        "# Python",
        "",
        "What the commands do can be done from Python. Shapes stand in the annotations, with the letters of the",
        "[design](DESIGN.md): `b` batch, `t` queries, `s` keys, `c` model width, `h` heads, `d` and `v` their widths.",
    ]
    for title, sentence, members in SECTIONS:
        lines += ["", f"## {title}", "", sentence]
        for module, name, methods in members:
            lines += ["", *entry(module, name, methods)]
    return "\n".join([*lines, ""])


def entry(module: str, name: str, methods: tuple[str, ...]) -> Iterator[str]:
    """A function, or a class with its options and some of its methods."""
    thing = getattr(import_module(module), name)
    yield from (f"### {module}.{name}", "", "```python", signature(thing), "```", "", prose(thing))
    if inspect.isclass(thing) and issubclass(thing, Configurable):
        yield from options(thing)
    for method in methods:
        static = inspect.getattr_static(thing, method)
        inner = static.fget if isinstance(static, property) else getattr(static, "func", static)
        yield from ("", f"**{method}**", "", "```python", signature(inner), "```", "", prose(inner))


def signature(thing: Callable[..., Any]) -> str:
    """How a function is called, and what a record holds, as the source says it."""
    source = textwrap.dedent(inspect.getsource(thing))
    node, lines = ast.parse(source).body[0], source.splitlines()
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    head = lines[node.lineno - 1 : node.body[0].lineno - 1]
    if not inspect.isclass(thing):
        return "\n".join(head).rstrip().removesuffix(":")
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    if issubclass(thing, Configurable):  # whose options stand in a table
        fields = []
    return "\n".join([*head, *(line for part in fields for line in lines[part.lineno - 1 : part.end_lineno])]).rstrip(
        ":"
    )


def prose(thing: Any) -> str:
    """Its own docstring as Markdown, in which nothing but backticks means anything."""
    parts = re.split(
        r"(`[^`]+`)", inspect.cleandoc((vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__) or "")
    )
    parts[::2] = [re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def options(thing: type[Configurable]) -> Iterator[str]:
    """What a class itself declares."""
    own = settable(vars(thing)["_declared"])
    if own:
        yield from ("", "| option | default | may hold | what it is |", "|---|---|---|---|")
    for name, each in own.items():
        default = getattr(each.default, "__name__", shown(each.default))
        yield f"| `{name}` | `{cell(str(default))}` | {cell(each.allowed)} | {cell(each.doc)} |"
