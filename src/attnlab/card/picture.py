"""The card as a picture: four squares for each task and variant, dark where it is solved."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw

from attnlab.card.battery import FACTORS, Result, above
from attnlab.inspection.figures import font, shorten

SQUARE, ROW, GAP, LEFT, TOP, MARGIN = 104, 68, 52, 600, 184, 48  # pixels; twice as many as a page shows, to be sharp
TITLE, NAME, SMALL, SMALLEST = 36, 28, 24, 22  # sizes of letters
INK, SOFT, LINE, PAGE = "#1c2127", "#687079", "#d8dce0", "#ffffff"
SOLVED, FAILED = (31, 110, 140), (250, 246, 232)
NOTE = (
    "Squares: at the trained length, then beyond it in rows 2, 4 and 8 times as long. From the floor (pale) to the "
    "ceiling (dark); framed: above the best control; '-': not measured."
)


def draw(results: Sequence[Result]) -> bytes:
    """The card as a PNG file: a row for each task; a row for each variant where there are more of these."""
    variants = list(dict.fromkeys(r.variant for r in results))
    cells = list(dict.fromkeys(r.cell for r in results))
    by_place = {(r.variant, r.cell): r for r in results}
    tasks = {r.cell: r for r in results if r.is_task}
    upright = len(variants) > len(cells)
    rows, columns = (variants, cells) if upright else (cells, variants)
    block = len(FACTORS) * SQUARE
    width = max(LEFT + len(columns) * (block + GAP), MARGIN + round(font(SMALLEST).getlength(NOTE))) + MARGIN
    height = TOP + len(rows) * ROW + (1 if upright else 4) * ROW + MARGIN
    image = Image.new("RGB", (width, height), PAGE)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, 36), "What each variant can do", fill=INK, font=font(TITLE))
    for column, name in enumerate(columns):
        x = LEFT + column * (block + GAP)
        title = f"{name}, {_bounds(tasks.get(name))}" if upright else name
        pen.text((x, TOP - 88), shorten(title, block, font(NAME)), fill=INK, font=font(NAME))
        for i, factor in enumerate(FACTORS):
            pen.text(
                (x + i * SQUARE + SQUARE // 2, TOP - 28), f"x{factor}", fill=SOFT, font=font(SMALLEST), anchor="mm"
            )
    for row, label in enumerate(rows):
        y = TOP + row * ROW
        pen.text((MARGIN, y + ROW // 2), label, fill=INK, font=font(NAME), anchor="lm")
        if not upright:
            bounds = _bounds(tasks.get(label))
            pen.text((MARGIN + 252, y + ROW // 2), bounds, fill=SOFT, font=font(SMALLEST), anchor="lm")
        for column, name in enumerate(columns):
            x = LEFT + column * (block + GAP)
            at = (label, name) if upright else (name, label)
            result = by_place.get(at, Result(*at, {}))
            for i, factor in enumerate(FACTORS):
                _square(pen, x + i * SQUARE, y, result, factor, framed=above(result, results, factor) is True)
    if not upright:
        _footer(pen, results, variants, TOP + len(cells) * ROW + 20, block)
    pen.text((MARGIN, height - 52), NOTE, fill=SOFT, font=font(SMALLEST))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def figures_of(results: Sequence[Result], variant: str) -> tuple[str, str, str]:
    """Parameters, tokens per second while training on the text, and bytes of state after its context."""
    texts = [r.summary for r in results if r.variant == variant and r.summary and not r.is_task]
    if not texts or not texts[0].get("tokens_per_second"):
        return "", "", ""
    text = texts[0]
    return (
        f"{text['parameters']:,}",
        f"{text['tokens_per_second']:,.0f}",
        f"{text['attention_cost']['state_bytes']:,}",
    )


def _footer(pen: ImageDraw.ImageDraw, results: Sequence[Result], variants: Sequence[str], y: int, block: int) -> None:
    for row, label in enumerate(
        ("parameters, on the text", "tokens/s, training on it", "state, bytes, at its context")
    ):
        pen.text((MARGIN, y + row * 48), label, fill=SOFT, font=font(SMALL))
        for column, variant in enumerate(variants):
            text = figures_of(results, variant)[row] or "-"
            pen.text((LEFT + column * (block + GAP), y + row * 48), text, fill=INK, font=font(SMALL))


def _square(pen: ImageDraw.ImageDraw, x: int, y: int, result: Result, factor: int, *, framed: bool) -> None:
    value, gained = result.value(factor), result.gained(factor)
    box = (x + 2, y + 2, x + SQUARE - 4, y + ROW - 4)
    if value is None:
        pen.rectangle(box, outline=LINE, width=2)
        text, ink = "-", SOFT
    else:
        shade = (0.0 if gained is None else gained) ** 1.2
        colour = tuple(round(low + shade * (high - low)) for low, high in zip(FAILED, SOLVED, strict=True))
        fill, frame = PAGE if gained is None else colour, (INK, 5) if framed else (LINE, 2)
        pen.rectangle(box, fill=fill, outline=frame[0], width=frame[1])
        text, ink = shown(result, factor), PAGE if shade > 0.55 else INK
    pen.text((x + SQUARE // 2, y + ROW // 2), text, fill=ink, font=font(SMALL), anchor="mm")


def shown(result: Result, factor: int) -> str:
    """A value in a few characters: an accuracy in percent, or a loss."""
    value = result.value(factor)
    if value is None:
        return "-"
    return f"{value:.2f}" if result.by_loss else f"{100 * value:.0f}%"


def floor_of(result: Result) -> str:
    """The floor of a task, and the predictor that reaches it."""
    floor = result.floor
    if result.by_loss:
        return f"{floor['loss']:.2f} {floor.get('loss_predictor', '')}".strip()
    return f"{floor['accuracy']:.0%} {floor.get('predictor', '')}".strip()


def _bounds(result: Result | None) -> str:
    if result is None:
        return "loss"
    if result.by_loss:
        return f"loss {result.floor['loss']:.2f} to {result.ceiling['loss']:.2f}"
    return f"{result.floor['accuracy']:.0%} to {result.ceiling['accuracy']:.0%}"
