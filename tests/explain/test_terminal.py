"""The worked example in a terminal: every number of what is shown, within its width, and words that are no markup."""

import io

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.explain.example import explained_run
from attnlab.explain.explanations import compared, variant
from attnlab.explain.flow.node import Flow
from attnlab.explain.numbers import MOST_TOKENS
from attnlab.explain.step_parts import LEARNED
from attnlab.explain.steps import Explanation, Step
from attnlab.explain.terminal import DROPPED, show


def printed(e: Explanation, *, width: int = 80, only: bool = False, against: str | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    show(e, console, None if against is None else compared(e.name, against), only=only)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def shown(step: Step, tokens: list[str], *, width: int = 400, only: bool = False) -> list[str]:
    e = Explanation("v", "V", ["about"], [], tokens, 1, [step], Flow([], []), linear=True, notes=["[b]odd"])
    return printed(e, width=width, only=only)


def cells(lines: list[str], first: str) -> list[str]:
    (row,) = [line.split() for line in lines if line.startswith(f"  {first} ")]
    return row[1:]


def test_pairs() -> None:
    """A row for each query and a column for each key; pairs that may not be read are dots, dropped ones crosses."""
    values, later = np.arange(9.0).reshape(1, 3, 3) / 8, np.triu(np.ones((1, 3, 3), dtype=bool), 1)
    lines = shown(Step("s", "weights", "Weights", "text", "pairs", values, later), ["[a]", "b", "c"])
    assert cells(lines, "[a]") == ["0.0000", "·", "·"]
    assert cells(lines, "c") == ["0.7500", "0.8750", "1.0000"]
    assert any("[b]odd" in line for line in lines) and any("following b, token 2 of 3" in line for line in lines)
    lines = shown(Step("s", "dropout", "Dropped", "text", "pairs", values, later), ["[a]", "b", "c"])
    assert cells(lines, "[a]") == [DROPPED, "·", "·"]


@pytest.mark.parametrize("n", [MOST_TOKENS, MOST_TOKENS + 1])
def test_long(n: int) -> None:
    """A text that fills no screen is shown whole, a longer one by the token that is followed."""
    names = [f"t{i}" for i in range(n)]
    step = Step("s", "output", "Outputs", "text", "vectors", np.arange(2.0 * n).reshape(1, n, 2))
    rows = [line.split()[0] for line in shown(step, names) if line.startswith("  t") and ".0000" in line]
    assert rows == (names if n <= MOST_TOKENS else ["t1"])
    assert [line.split()[0] for line in shown(step, names, only=True) if ".0000" in line] == ["t1"]


def test_wide() -> None:
    """Of a wide vector as many numbers as fit, and how many there are; of a state the rows after the followed token."""
    lines = shown(Step("s", "output", "O", "text", "vectors", np.ones((1, 2, 17))), ["a", "b"], width=80)
    assert cells(lines, "a") == ["1.0000"] * 9 and "  the first 9 of 17 numbers" in lines
    state = np.arange(12.0).reshape(2, 1, 2, 3)  # (token, head, row, column)
    lines = shown(Step("s", "state", "S", "text", "state", state), ["a", "b"])
    assert [float(cell) for cell in " ".join(line for line in lines if "row " in line).split() if "." in cell] == [
        *range(6, 12)
    ]


def test_many_columns() -> None:
    """Columns that do not fit side by side stand in a second table, and none is left out."""
    names = [f"token{i}" for i in range(MOST_TOKENS)]
    values = np.arange(float(len(names) ** 2)).reshape(1, len(names), -1)
    lines = shown(Step("s", "scores", "S", "text", "pairs", values), names, width=80)
    rows = [line.split()[1:] for line in lines if line.startswith("  token3 ")]
    assert len(rows) == 2 and [*rows[0], *rows[1]] == [f"{x:.4f}" for x in values[0, 3]]
    assert max(map(cell_len, lines)) <= 80


def test_one_token() -> None:
    """Alone, the followed token has one table: how it looks at each token, and what it takes from it."""
    lines = printed(variant("causal"), only=True)
    text = "\n".join(lines)
    for number in ("0.4656", "0.3293", "0.5517", "0.4483"):  # score, scaled score and weights of the chapter
        assert number in text
    total = next(line.split() for line in lines if line.startswith("  sum of all"))
    context = variant("causal").step("context")
    assert context is not None
    assert [float(x.replace("\N{MINUS SIGN}", "-")) for x in total[3:]] == pytest.approx(context.values[0, 1], abs=6e-5)
    assert len(lines) < len(printed(variant("causal"))) and max(map(cell_len, lines)) <= 80


def test_layer_of_a_model() -> None:
    """A layer as wide as trained ones fits, in steps that can be read: for few tokens and for many."""
    settings = ["model.n_layers=2", "model.d_model=128", "model.n_heads=4", "model.context=64", "attention=multi_head"]
    model = build_model(compose_config(settings), 256).eval()
    for prompt in ("the box.", "Nobody opens the box, said a goat."):
        e = explained_run("run", model, ByteTokenizer(), prompt, layer=2, token=None)
        lines = printed(e)
        assert "run, layer 2 of 2" in lines[0] and max(map(cell_len, lines)) <= 80
        assert sum("numbers" in line and "first" in line for line in lines) >= 3 and len(lines) < 500


def test_steps_apart() -> None:
    """An empty line stands before each step; what repeats the step before says so."""
    e = variant("self")
    lines = printed(e)
    for step in e.steps:
        assert lines[next(i for i, line in enumerate(lines) if line.startswith(f"{step.title}  ")) - 1] == ""
    assert "the numbers of the step before" in lines
    assert "  W_q = qkv.to_q.weight (3 x 2)" in lines


def test_parts() -> None:
    """Of the parts that are named, every step, and nothing of the others."""
    console, e = Console(file=io.StringIO(), width=80, color_system=None), variant("causal")
    show(e, console, parts=["scores", LEARNED])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all((f"\n{step.title}  " in text) == (step.part == "scores") for step in e.steps)
    assert "Learned numbers" in text and e.about[0] not in text


def test_beside() -> None:
    """Of two variants what is the same is a line, and what differs stands there as both have it."""
    lines = printed(variant("self"), against="causal")
    assert lines.count("the same as in causal") == 6 and lines.count("  in self") == lines.count("  in causal") == 2
    assert "only in causal" in lines and max(map(cell_len, lines)) <= 80
    assert len(lines) < len(printed(variant("self"))) + len(printed(variant("causal")))


def test_long_text_read_in_part() -> None:
    """Of a long text an early token is shown with those that it may read alone, and their number."""
    e = variant("causal", prompt=" ".join(f"t{i}" for i in range(20)), token="3")
    lines = printed(e)
    assert e.most_read(2, 0, MOST_TOKENS) == [0, 1, 2]
    assert "  the 3 of 20 tokens that it may read" in lines
    assert not any(line.startswith("  t3 ") for line in lines)


def test_heads_that_differ() -> None:
    """Where heads side by side do different things, the step says which head does what."""
    step = variant("head_mix").step("masked")
    assert step is not None
    assert step.text.startswith("Head 1: Every key up to") and "Head 2: The last `window` keys" in step.text
    weights = variant("head_mix").step("weights")
    assert weights is not None and "Head 1" not in weights.text
