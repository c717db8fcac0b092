"""One picture per layer: every head's map in a grid, with the tokens written on both axes.

Drawn with Pillow alone, because labels in a plotting library take seconds per picture and a run draws dozens.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from attnlab.inspection.colours import INK, LINE, NEVER_READ, PAGE, SOFT_INK, Scale, palette, scale_for

MAX_WIDTH, MAX_HEIGHT, MIN_WIDTH = 1600, 2400, 660  # pixels
MARGIN, GAP = 20, 28  # pixels around the picture, between heads
COMFORTABLE_CELL, USUAL_CELL, LARGE_CELL = 12, 16, 24  # pixels per token
USUAL_SIZE = 1280  # pixels; cells grow beyond the usual only in pictures smaller than this
PAD = 8  # pixels that a label may stand over the end of its map
MAX_LABEL = 92  # pixels; longer labels are cut
LABEL_PITCH = 11  # pixels between two labels that can be told apart
SPACE, SPACE_WIDTH = "·", 5  # how a space in a label is written, and its pixels
FAINT = frozenset(".,:;'`\"-")  # labels of these alone are written larger
HEAD_LINE = 20  # pixels for the name of a head
HEADER = 88  # pixels for title, explanation and colour bar
BAR_WIDTH, BAR_HEIGHT = 360, 12
EXPLANATION = "Each row is a token; its colours show how much it reads of each token named above."


@lru_cache(maxsize=16)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow, at a size in pixels."""
    loaded = ImageFont.load_default(size=size)
    assert isinstance(loaded, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return loaded


@lru_cache(maxsize=4096)
def _drawable(character: str) -> bool:
    """Whether the font has the character: what it lacks comes out as the same box as a character that is none."""
    face = font(12)
    box, mask = face.getbbox(character), face.getmask(character)
    nothing = face.getmask("\uffff")
    return character.isprintable() and (box != face.getbbox("\uffff") or bytes(mask) != bytes(nothing))


def printable(text: str) -> str:
    """The text with every character that the font lacks spelled out: a line break as '\\n', é as '\\u00e9'."""
    shown = []
    for c in text.replace("\n", "\\n").replace("\t", "\\t"):
        shown.append(c if _drawable(c) else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}")
    return "".join(shown)


def shorten(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """The text, or as much of its beginning as fits into `width` pixels, and '…'."""
    if _length(text, face) <= width:
        return text
    while text and _length(text + "…", face) > width:
        text = text[:-1]
    return text + "…"


def _length(text: str, face: ImageFont.FreeTypeFont) -> float:
    """Pixels that `_write` needs for a text in one line."""
    dots = text.count(SPACE)
    return face.getlength(text.replace(SPACE, "")) + dots * SPACE_WIDTH if dots else face.getlength(text)


def _write(draw: ImageDraw.ImageDraw, x: float, y: int, text: str, face: ImageFont.FreeTypeFont) -> None:
    """Write a label from x on, its middle at y; a space is a small square, as the font's '·' is too faint to see."""
    for i, part in enumerate(text.split(SPACE)):
        if i:
            draw.rectangle((x, y, x + 1, y + 1), fill=INK)
            x += SPACE_WIDTH
        if part:
            draw.text((x, y), part, INK, face, anchor="lm")
            x += face.getlength(part)


@dataclass(frozen=True)
class Layout:
    """Where everything goes, in pixels."""

    columns: int
    rows: int
    cell: int  # 0 if not even one pixel per token fits
    stride: int  # every how many tokens one is labelled
    size: int  # of the labels' letters
    gutter: int  # room for the labels, at the left of a map and above it
    n_queries: int
    n_keys: int

    @property
    def across(self) -> int:
        """The width of one map, without labels."""
        return self.cell * self.n_keys

    @property
    def down(self) -> int:
        """The height of one map, without labels."""
        return self.cell * self.n_queries

    def corner(self, head: int) -> tuple[int, int]:
        """Top left corner of a head's map, from the top left corner of the grid."""
        row, column = divmod(head, self.columns)
        x = column * (self.gutter + self.across + GAP) + self.gutter
        return x, row * (HEAD_LINE + self.gutter + self.down + GAP) + HEAD_LINE + self.gutter

    @property
    def width(self) -> int:
        return self.columns * (self.gutter + self.across + GAP) - GAP

    @property
    def height(self) -> int:
        return self.rows * (HEAD_LINE + self.gutter + self.down + GAP) - GAP


def arrange(n_heads: int, names: Sequence[str], keys: Sequence[str] | None = None) -> Layout:
    """Choose the grid: cells as large as is comfortable to read, few empty places, a landscape shape.

    `names` are those of the rows, `keys` those of the columns, if they are others.
    """
    keys = names if keys is None else keys
    n_queries, n_keys, gutter = len(names), len(keys), _gutter([*names, *keys])

    def fitting(columns: int, width: int, height: int) -> int:
        rows = math.ceil(n_heads / columns)
        across = ((width - 2 * MARGIN + GAP) / columns - gutter - GAP) / n_keys
        down = ((height - 2 * MARGIN - HEADER) / rows - HEAD_LINE - gutter - GAP) / n_queries
        return max(0, min(int(across), int(down)))

    def cell_for(columns: int) -> int:
        most = min(USUAL_CELL, fitting(columns, MAX_WIDTH, MAX_HEIGHT))
        return max(most, min(LARGE_CELL, fitting(columns, USUAL_SIZE, USUAL_SIZE)))

    def badness(columns: int) -> float:
        rows, cell = math.ceil(n_heads / columns), cell_for(columns)
        wide, high = (gutter + GAP + cell * n for n in (n_keys, n_queries))
        shape = abs(math.log(columns * wide / (rows * (high + HEAD_LINE)) / 1.3))
        empty = rows * columns - n_heads
        return 4 * max(0, 1 - cell / COMFORTABLE_CELL) + shape + 0.3 * empty / rows

    columns = min(range(1, n_heads + 1), key=badness)
    cell = cell_for(columns)
    stride = 1 if cell >= LABEL_PITCH - 1 else math.ceil(LABEL_PITCH / max(1, cell))
    rows, size = math.ceil(n_heads / columns), min(12, max(10, cell - 1))
    return Layout(columns, rows, cell, stride, size, _gutter([*names[::stride], *keys[::stride]]), n_queries, n_keys)


def _gutter(names: Sequence[str]) -> int:
    """Pixels for the labels beside a map."""
    return 8 + min(MAX_LABEL, max(24, math.ceil(max(_length(n, font(12)) for n in names))))


def draw_layer(
    maps: Float[np.ndarray, "h t s"],
    kind: str,
    labels: Sequence[str],
    title: str,
    *,
    scale: float | None = None,
    notes: Sequence[str] = (),
    captions: Sequence[str] = (),
    heads: Sequence[int] | None = None,
    keys: Sequence[str] | None = None,
    causal: bool = True,
) -> Image.Image:
    """Draw all heads of one layer: a row per query token, its colours saying which key tokens (columns) it reads.

    `kind` is the kind of map (probability, sub_probability, nonnegative or signed) and decides colours and scale;
    `scale` is the weight that gets the last colour, if not the kind's own. `labels` name the tokens, and `keys` those
    that are read, if they are others; `heads` are the numbers of the heads if these are not all of them, `captions` are
    written beside their names. Of a `causal` map what a token can never read, because it comes later, is grey. The
    picture has one byte per pixel and a palette (Pillow's mode P).
    """
    n_heads = len(maps)
    for axis, named in ((1, labels), (2, labels if keys is None else keys)):
        if maps.shape[axis] != len(named) or 0 in maps.shape:
            wrong = f"need {maps.shape[axis]} labels, at least 1, but got {len(named)}"
            raise ValueError(f"maps of shape {maps.shape} {wrong}")
    scaling = scale_for(kind, scale)
    names, read = ([printable(label.replace(" ", SPACE)) for label in each] for each in (labels, keys or labels))
    remarks = list(notes)
    largest = np.where(np.isnan(maps), 0, np.abs(maps)).max()
    if largest > scaling.top * 1.0001:
        remarks.append(f"weights beyond {scaling.top:.3g} get the last colour; the largest here is {largest:.3g}")
    if np.isnan(maps).any():
        remarks.append("black: not a number")
    block, layout = 1, arrange(n_heads, names, read)
    while layout.cell < 1 and block < max(maps.shape[1:]):
        block += 1
        layout = arrange(n_heads, names[::block], read[::block])
    if block > 1:
        maps, names, read = largest_of(maps, block), names[::block], read[::block]
        remarks.append(f"each cell is the largest of {block} x {block} weights")
    if layout.stride > 1:
        nth = {2: "2nd", 3: "3rd"}.get(layout.stride, f"{layout.stride}th")
        remarks.append(f"every {nth} token is labelled")
    numbers = range(n_heads) if heads is None else heads
    called = [f"H{head:02d}  {text}".rstrip() for head, text in zip(numbers, captions or [""] * n_heads, strict=True)]
    return _draw(maps, scaling, layout, (tuple(names), tuple(read)), title, remarks, called, causal)


def largest_of(maps: Float[np.ndarray, "h t s"], n: int) -> Float[np.ndarray, "h i j"]:
    """For each n x n block the weight that is furthest from 0."""
    heads, t, s = maps.shape
    down, across = math.ceil(t / n), math.ceil(s / n)
    padded = np.pad(maps, ((0, 0), (0, down * n - t), (0, across * n - s))).reshape(heads, down, n, across, n)
    flat = padded.transpose(0, 1, 3, 2, 4).reshape(heads, down, across, n * n)
    return np.take_along_axis(flat, np.abs(flat).argmax(axis=-1)[..., None], axis=-1)[..., 0]


def _draw(
    maps: Float[np.ndarray, "h t s"],
    scale: Scale,
    layout: Layout,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    title: str,
    notes: list[str],
    heads: list[str],
    causal: bool,
) -> Image.Image:
    width = max(MIN_WIDTH, layout.width + 2 * MARGIN)
    lines = [line for note in notes for line in _wrap(note, width - 2 * MARGIN)]
    top = MARGIN + HEADER + 16 * len(lines) + 16
    image = Image.new("L", (width, top + layout.height + MARGIN), PAGE)
    draw = ImageDraw.Draw(image)
    heading = font(16)
    draw.text((MARGIN, MARGIN), shorten(printable(title), width - 2 * MARGIN, heading), INK, heading)
    draw.text((MARGIN, MARGIN + 24), EXPLANATION, SOFT_INK, font(12))
    image.paste(_bar_strip(scale, causal), (MARGIN - 1, MARGIN + 47))
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + HEADER + 16 * i), line, SOFT_INK, font(12))

    gutter = layout.gutter
    rows, columns = _label_strips(*names, layout)
    never = np.triu(maps == 0, 1) if causal else np.zeros_like(maps, dtype=bool)
    indices = np.where(never, NEVER_READ, scale.index(maps)).astype(np.uint8)
    cells = np.ascontiguousarray(indices.repeat(layout.cell, axis=1).repeat(layout.cell, axis=2))
    for i, head in enumerate(heads):
        x, y = layout.corner(i)
        x, y = x + MARGIN, y + top
        image.paste(rows, (x - gutter, y - PAD))
        image.paste(columns, (x - PAD, y - gutter))
        draw.text((x, y - gutter - HEAD_LINE), shorten(head, gutter + layout.across, font(14)), INK, font(14))
        image.paste(Image.fromarray(cells[i]), (x, y))
        draw.rectangle((x - 1, y - 1, x + layout.across, y + layout.down), outline=LINE)
    image.putpalette(palette(scale.signed).tobytes())
    return image


def _wrap(text: str, width: int) -> list[str]:
    lines, face = [""], font(12)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


@lru_cache(maxsize=8)
def _label_strips(names: tuple[str, ...], keys: tuple[str, ...], layout: Layout) -> tuple[Image.Image, Image.Image]:
    """The labels for the left side of a map, and those for its top, which read upwards; both are `PAD` too long."""
    gutter, cell = layout.gutter, layout.cell
    left, upright = (Image.new("L", (gutter, side + 2 * PAD), PAGE) for side in (layout.down, layout.across))
    for strip, labels in ((left, names), (upright, keys)):
        on_strip = ImageDraw.Draw(strip)
        for i in range(0, len(labels), layout.stride):
            face = font(layout.size + (4 if set(labels[i]) <= FAINT else 0))
            text, y = shorten(labels[i], gutter - 8, face), PAD + (i * cell + cell // 2)
            x, tick = (gutter - 7 - _length(text, face), gutter - 4) if strip is left else (7.0, 1)
            _write(on_strip, x, y, text, face)
            on_strip.line((tick, y, tick + 2, y), fill=LINE)
    # Turned by 90 degrees against the clock, the top becomes the left and the text reads upwards.
    return left, upright.transpose(Image.Transpose.ROTATE_90)


@lru_cache(maxsize=8)
def _bar_strip(scale: Scale, causal: bool) -> Image.Image:
    """The colour bar with its numbers, what it measures, and the grey of what is never read; drawn once for all."""
    low = -1.0 if scale.signed else 0.0
    # Each pixel of the bar takes its colour by its place, so that the numbers below stand where their colour is.
    ends = np.linspace(low, 1.0, BAR_WIDTH)
    fine = np.concatenate([[0.0], np.geomspace(scale.top * 1e-7, scale.top, 4000)])
    weights = np.sign(ends) * np.interp(np.abs(ends), scale.normalize(fine), fine)
    bar = np.repeat(scale.index(weights)[None], BAR_HEIGHT, axis=0)
    strip, x, y = Image.new("L", (MIN_WIDTH - 2 * MARGIN + 1, HEADER - 48), PAGE), 1, 1  # one pixel for the outline
    draw = ImageDraw.Draw(strip)
    strip.paste(Image.fromarray(bar), (x, y))
    draw.rectangle((x - 1, y - 1, x + BAR_WIDTH, y + BAR_HEIGHT), outline=LINE)
    small = font(11)
    for tick in scale.ticks:
        at = x + (float(scale.normalize(np.array(tick))) - low) / (1 - low) * (BAR_WIDTH - 1)
        draw.line((at, y + BAR_HEIGHT + 1, at, y + BAR_HEIGHT + 4), fill=SOFT_INK)
        anchor = "lt" if tick == low * scale.top else "mt"  # the first must not stand over the margin
        draw.text((at, y + BAR_HEIGHT + 6), f"{tick:.3g}", SOFT_INK, small, anchor=anchor)
    face = font(12)
    right = x + BAR_WIDTH + 16
    draw.text((right, y + 6), scale.caption, SOFT_INK, face, anchor="lm")
    if causal:
        draw.rectangle((right, y + 18, right + 11, y + 29), fill=NEVER_READ, outline=LINE)
        draw.text((right + 18, y + 24), "later tokens: never read", SOFT_INK, face, anchor="lm")
    return strip


def to_png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=3)
    return file.getvalue()
