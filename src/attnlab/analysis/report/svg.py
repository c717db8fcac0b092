"""Drawings as SVG text: axes, lines, bands and dots, in colours that follow the page they stand on."""

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

# The drawing's own colours where it is a file of its own; in a page those of the page win, dark ones included.
COLOURS = {
    "ink": "#1c2127",
    "soft": "#5b6570",
    "line": "#d9dee3",
    "accent": "#1f7fa3",
    "accent-soft": "#1f7fa333",
    "base": "#8a939c",
    "base-soft": "#8a939c33",
    "better": "#1a7f4b",
    "worse": "#b3362b",
    "equivalent": "#4b57a8",
}


def colour(name: str) -> str:
    """A colour by its role."""
    return f"var(--{name}, {COLOURS[name]})"


class PlotAxis(NamedTuple):
    """Maps numbers to pixels, straight or by their logarithm."""

    low: float
    high: float
    start: float  # pixel of `low`
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._inner(self.low), self._inner(self.high)
        return self.start + (self._inner(value) - low) / (high - low) * (self.end - self.start)

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, n: int = 5) -> list[float]:
        """About `n` round numbers within the axis."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            factors = (1,) if len(decades) > n + 1 else (1, 3) if len(decades) > 2 else (1, 2, 5)
            values = [f * 10.0**d for d in decades for f in factors]
        else:
            rough = (self.high - self.low) / n
            size = 10.0 ** math.floor(math.log10(rough))
            step = next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= rough)
            values = [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [t for t in values if self.low <= t * (1 + 1e-9) and t <= self.high * (1 + 1e-9)]


def axis(values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.06) -> PlotAxis:
    """An axis that holds all values with some room around them."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        room = max(1.15, (high / low) ** pad)
        return PlotAxis(low / room, high * room, start, end, True)
    room = (high - low) * pad or abs(high) * 0.05 or 1.0
    return PlotAxis(low - room, high + room, start, end)


def short(value: float) -> str:
    """A number as it stands at an axis: 1.2k, 3M, 0.002."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{round(value, 10):.6g}" if value else "0"


def text(x: float, y: float, content: str, *, anchor: str = "start", role: str = "soft", size: int = 12) -> str:
    """Words; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour(role)}">'
        f"{escape(content)}</text>"
    )


def width_of(content: str, size: int = 12) -> float:
    """About how wide a text is, rather too wide than too narrow: fonts differ."""
    return 0.6 * size * len(content)


def title(x: float, y: float, content: str, room: float) -> str:
    """A heading whose last line stands at y, in as many lines as the room takes; it breaks at blanks and plus signs."""
    lines = [""]
    for piece in re.findall(r"[^ +]+[ +]*|[ +]+", content):
        if lines[-1] and width_of(lines[-1] + piece.rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    first = y - 14 * (len(lines) - 1)
    return "".join(text(x, first + 14 * i, each.rstrip(), role="ink") for i, each in enumerate(lines))


def line(x1: float, y1: float, x2: float, y2: float, *, role: str = "line", width: float = 1, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour(role)}" '
        f'stroke-width="{width}"{dashes}/>'
    )


def path(points: Sequence[tuple[float, float]], *, role: str, width: float = 1.5, opacity: float = 1) -> str:
    """A line through points."""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{where}" fill="none" stroke="{colour(role)}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}" stroke-linejoin="round"/>'
    )


def area(points: Sequence[tuple[float, float]], *, role: str) -> str:
    """A filled shape."""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{where}" fill="{colour(role)}"/>'


def dot(x: float, y: float, *, role: str, radius: float = 3, hint: str = "", filled: bool = True) -> str:
    """A dot, with words that come up under the mouse."""
    title = f"<title>{escape(hint)}</title>" if hint else ""
    fill = colour(role) if filled else "none"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{colour(role)}">{title}</circle>'


def target(x: float, y: float, hint: str) -> str:
    """An unseen dot that says something under the mouse."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="transparent"><title>{escape(hint)}</title></circle>'


def drawing(width: float, height: float, parts: Sequence[str], *, label: str) -> str:
    """A whole drawing; `label` is read out to those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="{escape(label)}">' + "".join(parts) + "</svg>"
    )


def x_ticks(across: PlotAxis, y: float, top: float, show: Callable[[float], str] = short, n: int = 4) -> str:
    """Numbers below a panel, with thin lines through it."""
    parts = []
    for tick in across.ticks(n):
        x = across(tick)
        parts += [line(x, top, x, y), text(x, y + 14, show(tick), anchor="middle", size=11)]
    return "".join(parts)


def y_ticks(up: PlotAxis, x: float, right: float, show: Callable[[float], str] = short, n: int = 4) -> str:
    """Numbers at the left of a panel, with thin lines through it."""
    parts = []
    for tick in up.ticks(n):
        y = up(tick)
        parts += [line(x, y, right, y), text(x - 6, y + 4, show(tick), anchor="end", size=11)]
    return "".join(parts)
