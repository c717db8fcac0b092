"""Pictures: what is drawn where, that nothing overlaps, and that all sizes stay sane."""

import io

import numpy as np
import pytest
from PIL import Image

from attnlab.inspection import figures
from attnlab.inspection.colours import INK, N_GREYS, NEVER_READ, PAGE, scale_for
from attnlab.inspection.figures import arrange, draw_layer, font, printable, to_png

WORDS = ["Your", "journey", "starts", "with", "one", "step", ".", "It", "was", "a", "cold", "morning", ",", "and"]


def causal_softmax(heads: int, tokens: int, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(heads, tokens, tokens)) * 2
    scores[:, *np.triu_indices(tokens, 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def names(tokens: int) -> list[str]:
    return [("·" if i else "") + WORDS[i % len(WORDS)] for i in range(tokens)]


def cells_of(image: Image.Image, heads: int, labels: list[str], lines: int = 0) -> np.ndarray:
    """The palette number in the middle of every cell of every head."""
    layout = arrange(heads, [printable(label) for label in labels])
    pixels = np.asarray(image)
    top = figures.MARGIN + figures.HEADER + 16 * lines + 16
    found = []
    for head in range(heads):
        x, y = layout.corner(head)
        middle = np.arange(len(labels)) * layout.cell + layout.cell // 2
        found.append(pixels[np.ix_(top + y + middle, figures.MARGIN + x + middle)])
    return np.stack(found)


@pytest.mark.parametrize(("heads", "tokens"), [(1, 2), (4, 12), (6, 32), (12, 40)])
def test_cell_colours(heads: int, tokens: int) -> None:
    """Each cell has the colour of its weight and later tokens are grey."""
    maps = causal_softmax(heads, tokens)
    lines = 1 if arrange(heads, names(tokens)).stride > 1 else 0
    drawn = cells_of(draw_layer(maps, "probability", names(tokens), "t"), heads, names(tokens), lines)
    lower = np.tril(np.ones((tokens, tokens), dtype=bool))
    assert (drawn[:, lower] == scale_for("probability").index(maps)[:, lower]).all()
    assert (drawn[:, ~lower] == NEVER_READ).all()


def test_a_row_is_a_query_and_a_column_is_a_key() -> None:
    maps = np.zeros((1, 5, 5), dtype=np.float32)
    maps[0, 4, 1] = 1.0
    drawn = cells_of(draw_layer(maps, "probability", names(5), "t"), 1, names(5))
    assert np.argwhere(drawn[0] == 255).tolist() == [[4, 1]]


def test_later_weight_is_shown() -> None:
    """A weight on a later token is shown not hidden."""
    maps = causal_softmax(1, 4)
    maps[0, 0, 3] = 0.5
    drawn = cells_of(draw_layer(maps, "probability", names(4), "t"), 1, names(4))
    assert drawn[0, 0, 3] >= N_GREYS and drawn[0, 0, 2] == NEVER_READ


def test_colours_are_the_same() -> None:
    """The same weights get the same colours at every step."""
    weak, strong = (np.tril(np.full((1, 3, 3), w, dtype=np.float32)) for w in (0.2, 0.9))
    strong[0, 2, 0] = 0.2
    drawn = [cells_of(draw_layer(m, "probability", names(3), "t"), 1, names(3))[0, 2, 0] for m in (weak, strong)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 8, 12, 16, 32])
@pytest.mark.parametrize("tokens", [1, 8, 33, 64, 128, 300])
def test_grid_fits(heads: int, tokens: int) -> None:
    """Every grid fits and has a place for every head."""
    maps = np.zeros((heads, tokens, tokens), dtype=np.float32)
    image = draw_layer(maps, "probability", names(tokens), "a title")
    assert image.width <= figures.MAX_WIDTH and image.height <= figures.MAX_HEIGHT + 60
    assert image.width < 4 * image.height
    # The outermost pixels are page: nothing is cut off.
    pixels = np.asarray(image)
    assert all((edge == PAGE).all() for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]))


@pytest.mark.parametrize(("heads", "grid"), [(1, (1, 1)), (2, (2, 1)), (4, (2, 2)), (6, (3, 2)), (12, (4, 3))])
def test_heads_are_arranged_without_empty_places(heads: int, grid: tuple[int, int]) -> None:
    layout = arrange(heads, names(12))
    assert (layout.columns, layout.rows) == grid


def test_labels() -> None:
    """Labels are written beside their row and above their column."""
    labels = ["i", "mmmmmm", "i"]
    layout = arrange(1, labels)
    pixels = np.asarray(draw_layer(np.zeros((1, 3, 3), dtype=np.float32), "probability", labels, "t"))
    left, top = figures.MARGIN + layout.gutter, figures.MARGIN + figures.HEADER + 16 + layout.corner(0)[1]
    for i in range(3):
        near = slice(i * layout.cell, (i + 1) * layout.cell)
        row = pixels[top : top + layout.down][near, figures.MARGIN : left - 6]
        column = pixels[top - layout.gutter : top - 6, left : left + layout.across][:, near]
        widths = [np.ptp(np.flatnonzero((part < PAGE).any(axis=axis))) for part, axis in ((row, 0), (column, 1))]
        assert all((w > 30) == (labels[i] == "mmmmmm") for w in widths)
        # A label touches the end of its gutter that is next to the map.
        assert (row[:, -4:] < PAGE).any() and (column[-4:] < PAGE).any()


@pytest.mark.parametrize("tokens", [12, 64, 100])
def test_no_two_labels_touch(tokens: int) -> None:
    labels = ["mmm"] * tokens
    layout = arrange(4, labels)
    left, _ = figures._label_strips(tuple(labels), tuple(labels), layout)
    dark = (np.asarray(left)[:, : layout.gutter - 6] < PAGE - 6).any(axis=1)
    starts = np.flatnonzero(np.diff(dark.astype(int)) == 1)
    assert len(starts) == len(range(0, tokens, layout.stride))


def test_cross_figure() -> None:
    """Of a map that is not causal no weight is grey, and rows and columns have labels of their own."""
    maps = np.zeros((2, 2, 5), dtype=np.float32)
    maps[:, 1, 4] = 1
    layout = arrange(2, names(2), names(5))
    pixels = np.asarray(draw_layer(maps, "probability", names(2), "t", keys=names(5), causal=False))
    x, y = layout.corner(0)
    top, left = figures.MARGIN + figures.HEADER + 16 + y, figures.MARGIN + x
    drawn = pixels[top : top + layout.down : layout.cell, left : left + layout.across : layout.cell]
    assert drawn.shape == (2, 5)
    assert (drawn == 255).sum() == 1 and drawn[1, 4] == 255 and (drawn != NEVER_READ).all()
    assert layout.across == 5 * layout.cell and layout.down == 2 * layout.cell


def test_labels_of_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tokens thin the labels and the picture says so."""
    said: list[str] = []
    wrap = figures._wrap
    monkeypatch.setattr(figures, "_wrap", lambda text, width: said.append(text) or wrap(text, width))
    draw_layer(np.zeros((12, 100, 100), dtype=np.float32), "probability", names(100), "t")
    assert said == ["every 4th token is labelled"]
    said.clear()
    draw_layer(np.zeros((4, 64, 64), dtype=np.float32), "probability", names(64), "t")
    assert said == []


def test_notes_say_what_the_colours_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    wrap = figures._wrap
    monkeypatch.setattr(figures, "_wrap", lambda text, width: said.append(text) or wrap(text, width))
    maps = np.tril(np.full((1, 3, 3), 25.0, dtype=np.float32))
    maps[0, 1, 0] = np.nan
    image = draw_layer(maps, "signed", names(3), "t", notes=["mine"])
    assert said == ["mine", "weights beyond 10 get the last colour; the largest here is 25", "black: not a number"]
    assert cells_of(image, 1, names(3), 3)[0, 1, 0] == INK


def test_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens than pixels are pooled to the largest weight."""
    said: list[str] = []
    wrap = figures._wrap
    monkeypatch.setattr(figures, "_wrap", lambda text, width: said.append(text) or wrap(text, width))
    maps = np.zeros((2, 1600, 1600), dtype=np.float32)
    maps[1, 1001, 500] = -0.75
    image = draw_layer(maps, "signed", ["x"] * 1600, "t")
    assert said[0] == "each cell is the largest of 3 x 3 weights"
    assert (np.asarray(image) == scale_for("signed").index(np.array([-0.75]))[0]).any()


def test_pooling_by_size() -> None:
    """Pooling keeps the weight furthest from zero."""
    maps = np.array([[[0.1, -0.9, 0.3], [0.2, 0.4, 0.0], [0.0, 0.0, -0.2]]])
    assert figures.largest_of(maps, 2).tolist() == [[[-0.9, 0.3], [0.0, -0.2]]]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\n", "\\n"),
        ("\t", "\\t"),
        ("é", "\\u00e9"),
        ("日", "\\u65e5"),
        ("·a", "·a"),
        ("😀", "\\U0001f600"),
    ],
)
def test_characters_without_glyph(text: str, shown: str) -> None:
    """Characters the font lacks are spelled out."""
    assert printable(text) == shown


def test_every_ascii_character_can_be_drawn() -> None:
    ascii_characters = "".join(map(chr, range(0x20, 0x7F)))
    assert printable(ascii_characters) == ascii_characters


def test_long_texts_are_cut_with_an_ellipsis() -> None:
    face = font(12)
    cut = figures.shorten("a very long label indeed", 60, face)
    assert cut.endswith("…") and face.getlength(cut) <= 60
    assert figures.shorten("short", 60, face) == "short"


def test_a_picture_becomes_bytes_and_an_array() -> None:
    image = draw_layer(causal_softmax(2, 6), "probability", names(6), "t")
    array, png = np.asarray(image.convert("RGB")), to_png(image)
    assert array.shape == (image.height, image.width, 3) and array.dtype == np.uint8
    assert (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) == array).all()


def test_maps_and_labels_must_agree() -> None:
    with pytest.raises(ValueError, match=r"maps of shape \(1, 3, 3\) need 3 labels, at least 1, but got 2"):
        draw_layer(np.zeros((1, 3, 3), dtype=np.float32), "probability", ["a", "b"], "t")
