"""The pictures that TensorBoard makes small: their size, their letters, and weights that can be found in them."""

import numpy as np
import pytest
from tests.inspection.tab_server import weights_of

from attnlab.inspection.colours import NEVER_READ, scale_for
from attnlab.inspection.overview import GAP, LETTERS, LINE_OF_TEXT, MARGIN, WIDTH, draw_overview


@pytest.mark.parametrize(("heads", "tokens"), [(1, 8), (4, 17), (12, 64), (32, 40), (2, 600)])
def test_fits(heads: int, tokens: int) -> None:
    """No wider than twice what Images gives it, and low enough for letters of 9 pixels in a card of Time Series."""
    image = draw_overview(weights_of(tokens, heads, 0), "probability", "gqa seed 0 · layer 2 · step 9", "Your journey")
    assert image.width == WIDTH and LETTERS * min(420 / image.width, 210 / image.height) >= 9


@pytest.mark.parametrize("kind", ["probability", "signed"])
def test_weights(kind: str) -> None:
    """Each weight has its colour where its row and its column cross; what is never read is grey."""
    maps = weights_of(7, 2, 1, kind)
    pixels = np.asarray(draw_overview(maps, kind, "title", "text"))
    side = min(320, (WIDTH - 2 * MARGIN + GAP) // 2 - GAP)
    top = MARGIN + 3 * LINE_OF_TEXT + GAP - 4
    for head in (0, 1):
        left = MARGIN + head * (side + GAP)
        at = ((np.arange(7) + 0.5) * side / 7).astype(int)
        cells = pixels[top + at[:, None], left + at]
        lower = np.tril_indices(7)
        assert (cells[lower] == scale_for(kind).index(maps[head])[lower]).all()
        assert (cells[np.triu_indices(7, 1)] == NEVER_READ).all()
