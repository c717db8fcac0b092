"""The card as a picture, and the words in its squares."""

import io
from typing import Any

from PIL import Image

from attnlab.card.battery import FACTORS, Result
from attnlab.card.picture import FAILED, ROW, SOLVED, SQUARE, draw, figures_of, floor_of, shown

BOUNDS = {"floor": {"accuracy": 0.25, "predictor": "most_frequent"}, "ceiling": {"accuracy": 1.0}}
TEXT = {"parameters": 12345, "tokens_per_second": 6789.4, "attention_cost": {"state_bytes": 4096}}


def task(variant: str, cell: str, accuracy: float) -> Result:
    at: dict[str, Any] = {"1": {"accuracy": accuracy}}
    return Result(variant, cell, {"bounds": BOUNDS, "extrapolation": at, "parameters": 1})


def text(variant: str, loss: float) -> Result:
    return Result(variant, "text", {**TEXT, "extrapolation": {"1": {"loss": loss}}})


def colours(results: list[Result]) -> set[tuple[int, ...]]:
    """The colours that fill more than half a square."""
    image = Image.open(io.BytesIO(draw(results))).convert("RGB")
    return {kind for n, kind in image.getcolors(2**20) or () if n > SQUARE * 30 and isinstance(kind, tuple)}


def test_shades() -> None:
    """The ceiling is dark and the floor pale; what lies between, between."""
    solved, failed = task("a", "mqar", 1.0), task("b", "mqar", 0.2)
    assert SOLVED in colours([solved, failed]) and FAILED in colours([solved, failed])
    assert not {SOLVED, FAILED} & colours([task("a", "mqar", 0.6)])


def test_grows() -> None:
    """A row for each cell and a column for each variant, whatever was measured of it."""
    few = Image.open(io.BytesIO(draw([task("a", "mqar", 1.0)])))
    many = [task(f"v{i}", cell, 0.5) for i in range(4) for cell in ("mqar", "parity", "s3", "text", "needle")]
    more = Image.open(io.BytesIO(draw([*many, Result("v5", "mqar", {}, "failed")])))
    assert more.width > few.width and more.height > few.height


def test_words() -> None:
    """Accuracies in percent, losses as they are, and a floor with the one who reaches it."""
    assert shown(task("a", "mqar", 0.987), 1) == "99%" and shown(task("a", "mqar", 0.9), FACTORS[-1]) == "-"
    assert shown(text("a", 1.234), 1) == "1.23"
    assert floor_of(task("a", "mqar", 1.0)) == "25% most_frequent"


def test_figures() -> None:
    """Sizes and speed are those on the text, and nothing where the text was not run."""
    assert figures_of([task("a", "mqar", 1.0), text("b", 1.0), text("a", 1.0)], "a") == ("12,345", "6,789", "4,096")
    assert figures_of([task("a", "mqar", 1.0)], "a") == ("", "", "")


def test_upright() -> None:
    """Where there are more variants than cells, a row for each variant, and the cells side by side."""
    few = [task(f"v{i}", cell, 1.0) for i in range(2) for cell in ("mqar", "parity")]
    many = [task(f"v{i}", cell, 1.0) for i in range(9) for cell in ("mqar", "parity")]
    wide, tall = (Image.open(io.BytesIO(draw(results))) for results in (few, many))
    assert tall.width == wide.width and tall.height - wide.height == (9 - 2) * ROW - 3 * ROW
    assert SOLVED in colours(many)
