"""The cells of the notebooks run, in their order, and what they assert is true."""

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SLOW = ("own_variant", "any_model")  # these train, or import transformers


def cells(file: Path) -> list[str]:
    """The code of a notebook, which is kept without outputs."""
    book = json.loads(file.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and not any(cell.get("outputs") for cell in book["cells"])
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def run(codes: list[str]) -> list[str]:
    """What each cell shows as HTML, run as a notebook would: all in one namespace, the last expression displayed."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for number, code in enumerate(codes):
        tree = ast.parse(code, f"cell {number}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
        shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else "")
    return shown


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """What cells set for all of torch ends with them."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(True):
        yield


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=[pytest.mark.slow] * (file.stem in SLOW), id=file.stem) for file in NOTEBOOKS],
)
def test_notebook(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell of the notebook runs; where it ends with maps, they draw themselves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    shown = run(cells(file))
    drawn = {"any_model": 3, "chapter": 2, "own_variant": 1, "verdict": 0}
    assert sum(bool(text) for text in shown) == drawn[file.stem]


def test_wrong_number() -> None:
    """A printed number that is not what comes out ends the notebook."""
    codes = cells(next(file for file in NOTEBOOKS if file.stem == "chapter"))
    assert codes[1].count("1.4754") == 1
    with pytest.raises(AssertionError, match="not close"):
        run([codes[0], codes[1].replace("1.4754", "1.4764")])
