"""How much of attention/ hands options on, and how long its files are: python -m tests.attention.test_forwarding"""

import ast
from collections.abc import Iterator
from pathlib import Path

FILES = sorted((Path(__file__).parents[2] / "src" / "attnlab" / "attention").glob("*.py"))
MOST_FORWARDING, LONGEST = 100, 200


def forwarding(source: str) -> set[int]:
    """Lines of constructors' signatures, of calls of others' constructors, of *args and **kwargs, of `withdrawn`."""
    kinds = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return {line for kind in kinds for node in kind.body for line in _lines(node)}


def _lines(node: ast.stmt) -> Iterator[int]:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "withdrawn":
        yield from range(node.lineno, (node.end_lineno or 0) + 1)
    if not isinstance(node, ast.FunctionDef) or node.name == "__init_subclass__":
        return
    if node.name == "__init__":
        yield from range(node.lineno, node.body[0].lineno)
    elif node.args.vararg or node.args.kwarg:
        yield node.lineno
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".__init__"):
            yield from range(call.lineno, (call.end_lineno or 0) + 1)


def test_forwarding() -> None:
    """593 lines before options were written once."""
    assert sum(len(forwarding(file.read_text())) for file in FILES) <= MOST_FORWARDING


def test_length() -> None:
    assert max(len(file.read_text().splitlines()) for file in FILES) <= LONGEST


def test_counting() -> None:
    lines = (
        "class A(B):",
        "    withdrawn = {'x'}",
        "    def __init__(self, a,",
        "        **b):",
        "        super().__init__(",
        "a)",
    )
    source = "\n".join(lines)
    assert forwarding(source) == {2, 3, 4, 5, 6}


if __name__ == "__main__":
    for file in FILES:
        print(len(forwarding(file.read_text())), len(file.read_text().splitlines()), file.name)
