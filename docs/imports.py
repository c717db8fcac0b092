"""Writes the table of docs/interchange.md from the types that are read and tested: python -m docs.imports"""

from pathlib import Path

from tests.interchange.tiny import TYPES

from attnlab.interchange.families.registry import FAMILIES

PAGE = Path(__file__).parent / "interchange.md"
BEGIN, END = "<!-- types: written by docs/imports.py -->", "<!-- end of types -->"


def rows() -> list[tuple[str, str, str]]:
    """Each type with its architecture, and with what is told apart of it in the tests."""
    tested: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for name, (model_type, _) in TYPES.items():
        tested[model_type].append(name.partition(", ")[2])
    return [(name, FAMILIES[name].architecture, "; ".join(filter(None, tested[name]))) for name in sorted(FAMILIES)]


def page(text: str) -> str:
    """The page with its table anew."""
    before, rest = text.split(BEGIN)
    lines = [BEGIN, "", "| `model_type` | architecture | tested besides |", "|---|---|---|"]
    lines += [f"| {name} | {architecture} | {tested} |" for name, architecture, tested in rows()]
    return before + "\n".join([*lines, "", END]) + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{len(FAMILIES)} types in {PAGE}")
