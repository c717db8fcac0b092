"""A step as a picture: every head beside the other, numbers written into the cells where there is room."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from attnlab.explain.numbers import MINUS, MOST_TOKENS, written
from attnlab.explain.steps import Step
from attnlab.inspection.colours import INK, LINE, NEVER_READ, PAGE, SOFT_INK, Scale, palette
from attnlab.inspection.figures import SPACE, font, printable, shorten

MARGIN, GAP, TITLE, NAME = 16, 26, 26, 18  # pixels
CELL = (58, 22)  # of a cell with its number in it
SMALL = ((40, 12), (128, 6), (512, 3))  # up to so many tokens, a cell without its number is this large
BRIGHTNESS, DARK = np.array([0.3, 0.59, 0.11]), 135  # of red, green, blue; letters on less than this are light
LABEL = 110  # pixels at most for the name of a token
MOST_HEADS, MOST_WIDE = 8, 64  # heads and numbers of a vector that are drawn
MOST_CELLS = 60_000  # of all heads of a picture, so that a page of a long text stays small


def draw_step(step: Step, tokens: Sequence[str], title: str = "") -> Image.Image:
    """The picture of a step, in 256 colours: warm is above 0, cold below; weights have one hue."""
    names = [printable(token.replace(" ", SPACE)) for token in tokens]
    grids, labels, hidden = _grids(step, names)
    scale = Scale(top=step.largest, bounded=True, signed=step.diverging)
    numbers = len(tokens) <= MOST_TOKENS and grids[0].shape[1] <= 2 * MOST_TOKENS
    small = next((side for most, side in SMALL if len(tokens) <= most), 1)
    cell = CELL if numbers else (small if step.shape == "pairs" else min(small, 6), small)
    face, rows, columns = font(12), *grids[0].shape
    gutter = 10 + min(LABEL, max(int(face.getlength(name)) for name in labels))
    above = NAME + (18 if step.shape == "pairs" and numbers else 0)
    width_of_one = gutter + columns * cell[0]
    across = max(1, min(len(grids), 1400 // (width_of_one + GAP)))
    down = -(-len(grids) // across)
    heading = f"{title}{': ' if title else ''}{step.title}"
    if step.shape != "state" and len(grids) < len(step.values):
        heading += f" (the first {len(grids)} of {len(step.values)} heads)"
    width = 2 * MARGIN + max(across * (width_of_one + GAP) - GAP, int(font(15).getlength(heading)) + 2)
    colours = palette(scale.signed)
    ink, soft, line, paper = (tuple(int(c) for c in colours[i]) for i in (INK, SOFT_INK, LINE, PAGE))
    image = Image.new("RGB", (width, 2 * MARGIN + TITLE + down * (above + rows * cell[1] + GAP) - GAP), paper)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - 4), heading, ink, font(15))
    for i, grid in enumerate(grids):
        x = MARGIN + (i % across) * (width_of_one + GAP) + gutter
        y = MARGIN + TITLE + (i // across) * (above + rows * cell[1] + GAP) + above
        if len(grids) > 1 or len(step.values) > 1:
            name = f"after {names[i]}" if step.shape == "state" else f"head {i + 1}"
            draw.text((x, y - above), name, soft, face)
        mask = None if hidden is None else hidden[i]
        filled = colours[_cells(grid, mask, scale)]
        image.paste(Image.fromarray(filled.repeat(cell[1], axis=0).repeat(cell[0], axis=1)), (x, y))
        every = 1 if numbers else -(-12 // cell[1])
        for r in range(0, rows, every):
            text = shorten(labels[r], gutter - 8, face)
            draw.text((x - 6, y + r * cell[1] + cell[1] // 2), text, ink, face, anchor="rm")
        if above > NAME:
            for c in range(columns):
                draw.text(
                    (x + c * cell[0] + cell[0] // 2, y - 8),
                    shorten(names[c], cell[0] - 4, face),
                    ink,
                    face,
                    anchor="mm",
                )
        if numbers:
            _write(draw, grid, mask, (x, y), filled, (ink, soft, paper))
        draw.rectangle((x - 1, y - 1, x + columns * cell[0], y + rows * cell[1]), outline=line)
    colour_table = Image.new("P", (1, 1))
    colour_table.putpalette(colours.tobytes())
    return image.quantize(
        palette=colour_table, dither=Image.Dither.NONE
    )  # a third of the bytes; no colour moves by more than 5 of 255


def _grids(step: Step, names: list[str]) -> tuple[list[np.ndarray], list[str], np.ndarray | None]:
    """What is drawn: one grid per head, or for a memory one per token with the heads below each other."""
    if step.shape == "state":
        grids = [grid.reshape(-1, grid.shape[-1])[:MOST_WIDE, :MOST_WIDE] for grid in step.values[:MOST_TOKENS]]
        return grids, [f"{i}" for i in range(len(grids[0]))], None
    grids = [grid[:, :MOST_WIDE] if step.shape == "vectors" else grid for grid in step.values]
    return grids[: max(1, min(MOST_HEADS, MOST_CELLS // grids[0].size))], names, step.hidden


def _cells(grid: np.ndarray, hidden: np.ndarray | None, scale: Scale) -> np.ndarray:
    index = scale.index(np.nan_to_num(grid))
    return index if hidden is None else np.where(hidden, np.uint8(NEVER_READ), index)


def _write(
    draw: ImageDraw.ImageDraw,
    grid: np.ndarray,
    hidden: np.ndarray | None,
    corner: tuple[int, int],
    filled: np.ndarray,
    inks: tuple[tuple[int, ...], ...],
) -> None:
    """The numbers in their cells, in ink, or in the colour of paper where the cell is dark."""
    face, deep, (ink, soft, paper) = font(11), filled @ BRIGHTNESS < DARK, inks
    for (r, c), value in np.ndenumerate(grid):
        never = hidden is not None and bool(hidden[r, c])
        colour = soft if never else paper if deep[r, c] else ink
        middle = (corner[0] + c * CELL[0] + CELL[0] // 2, corner[1] + r * CELL[1] + CELL[1] // 2)
        draw.text(middle, "·" if never else written(float(value)).replace(MINUS, "-"), colour, face, anchor="mm")
