"""A layer's maps as TensorBoard shows pictures: 350 pixels wide in Images, 210 high in Time Series, never smoothed.

So a picture is drawn twice as large, with letters that are still letters when it is halved, and without a label at each
token: the text stands above, and the Attention tab and `attnlab maps` write every token at its row.
"""

import math

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from attnlab.inspection.colours import INK, LINE, NEVER_READ, PAGE, SOFT_INK, palette, scale_for
from attnlab.inspection.figures import font, largest_of, printable, shorten

WIDTH, ASPECT = 700, 2.0  # pixels; across over down
MARGIN, GAP = 12, 10
LETTERS, LINE_OF_TEXT = 24, 30  # pixels of a letter and from line to line: halved, the smallest that can be read
LARGEST_PANEL = 320  # pixels
BAR = 180  # pixels of the colour bar


def draw_overview(maps: Float[np.ndarray, "h t s"], kind: str, title: str, text: str) -> Image.Image:
    """All heads of a layer under a title and the text that they read; rows and columns are its tokens, in order.

    `kind` is the kind of map and decides colours and scale. What comes later and is never read is grey.
    """
    heads, t, s = maps.shape
    scale, face = scale_for(kind), font(LETTERS)

    def panel(columns: int) -> int:
        return min(LARGEST_PANEL, (WIDTH - 2 * MARGIN + GAP) // columns - GAP)

    def height(columns: int) -> int:
        down = round(panel(columns) * t / s) + LINE_OF_TEXT + GAP
        return MARGIN + 2 * LINE_OF_TEXT + GAP + math.ceil(heads / columns) * down

    columns = min(range(1, heads + 1), key=lambda n: abs(math.log(WIDTH / height(n) / ASPECT)))
    across = panel(columns)
    down, block = round(across * t / s), math.ceil(max(t, s) / across)
    maps = largest_of(maps, block) if block > 1 else maps
    top = MARGIN + 2 * LINE_OF_TEXT + GAP
    image = Image.new("L", (WIDTH, height(columns)), PAGE)
    draw = ImageDraw.Draw(image)
    title_width = WIDTH - 2 * MARGIN - BAR - 60
    draw.text((MARGIN, MARGIN), shorten(printable(title), title_width, face), INK, face)
    draw.text((MARGIN, MARGIN + LINE_OF_TEXT), shorten(printable(text), WIDTH - 2 * MARGIN, face), SOFT_INK, face)
    weights = np.linspace(-scale.top if scale.signed else 0, scale.top, BAR)
    bar = Image.fromarray(np.repeat(scale.index(weights)[None], LETTERS, axis=0).astype(np.uint8))
    label = f"{scale.top:.3g}"
    right = WIDTH - MARGIN - math.ceil(face.getlength(label))
    image.paste(bar, (right - BAR - 6, MARGIN + 2))
    draw.text((right, MARGIN), label, INK, face)
    low = f"{weights[0]:.3g}"
    draw.text((right - BAR - 12 - face.getlength(low), MARGIN), low, INK, face)
    cells = np.where(np.triu(maps == 0, 1), NEVER_READ, scale.index(maps)).astype(np.uint8)
    for head in range(heads):
        x, y = MARGIN + head % columns * (across + GAP), top + head // columns * (down + LINE_OF_TEXT + GAP)
        draw.text((x, y - 4), shorten(f"head {head}" if across > 90 else f"{head}", across, face), INK, face)
        image.paste(
            Image.fromarray(cells[head]).resize((across, down), Image.Resampling.NEAREST), (x, y + LINE_OF_TEXT - 4)
        )
        draw.rectangle((x - 1, y + LINE_OF_TEXT - 5, x + across, y + LINE_OF_TEXT - 4 + down), outline=LINE)
    image.putpalette(palette(scale.signed).tobytes())
    return image
