"""The worked example in a terminal: every number of what is shown, and words that are no markup."""

import io

import numpy as np
import pytest
from rich.console import Console

from attnlab.explain.numbers import MOST_COLUMNS, MOST_TOKENS
from attnlab.explain.steps import Explanation, Step
from attnlab.explain.terminal import show


def shown(step: Step, tokens: list[str], focus: int = 1) -> list[str]:
    explanation = Explanation("v", "V", ["about"], [], tokens, focus, [step], linear=True, notes=["[b]odd"])
    console = Console(file=io.StringIO(), width=400, color_system=None)
    show(explanation, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def cells(lines: list[str], first: str) -> list[str]:
    (row,) = [line.split() for line in lines if line.startswith(f"{first} ")]
    return row[1:]


def test_pairs() -> None:
    """A row for each query and a column for each key; pairs that may not be read are dots."""
    values = np.arange(9.0).reshape(1, 3, 3) / 8
    step = Step("s", "weights", "Weights", "text", "pairs", values, np.triu(np.ones((1, 3, 3), dtype=bool), 1))
    lines = shown(step, ["[a]", "b", "c"])
    assert cells(lines, "[a]") == ["0.0000", "·", "·"]
    assert cells(lines, "c") == ["0.7500", "0.8750", "1.0000"]
    assert any("[b]odd" in line for line in lines) and any("following b (token 1)" in line for line in lines)


@pytest.mark.parametrize("n", [MOST_TOKENS, MOST_TOKENS + 1])
def test_long(n: int) -> None:
    """A text that fills no screen is shown whole, a longer one by the token that is followed."""
    names = [f"t{i}" for i in range(n)]
    step = Step("s", "output", "Outputs", "text", "vectors", np.arange(2.0 * n).reshape(1, n, 2))
    rows = [line.split()[0] for line in shown(step, names) if line.startswith("t") and ".0000" in line]
    assert rows == (names if n <= MOST_TOKENS else ["t1"])


def test_wide() -> None:
    """Of a wide vector the first numbers, and how many there are; of a state the rows after the followed token."""
    wide = np.ones((1, 2, MOST_COLUMNS + 5))
    line = cells(shown(Step("s", "output", "O", "text", "vectors", wide), ["a", "b"]), "a")
    assert line.count("1.0000") == MOST_COLUMNS and line[-3:] == [str(MOST_COLUMNS + 5), "in", "all"]
    state = np.arange(12.0).reshape(2, 1, 2, 3)  # (token, head, row, column)
    lines = shown(Step("s", "state", "S", "text", "state", state), ["a", "b"])
    assert [float(cell) for cell in " ".join(line for line in lines if "row " in line).split() if "." in cell] == [
        *range(6, 12)
    ]
