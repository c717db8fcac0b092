"""Capacities as one figure and one table, in SVG, CSV and Markdown."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from attnlab.analysis.report import svg
from attnlab.analysis.report.document import Table, markdown_table, table
from attnlab.analysis.report.format import as_csv, number
from attnlab.analysis.report.svg import short
from attnlab.analysis.report.tables import draw as print_table
from attnlab.card.capacity import LEVELS, Band, Capacity, Frontier, Size, frontier_of
from attnlab.store.files import write_atomically

ROLES = ("accent", "better", "worse", "equivalent", "base", "ink")
PANEL, LEFT, GAP, TOP, HEIGHT, FOOT = 300, 60, 110, 46, 250, 60  # pixels
WIDTH_OF_A_COLUMN = 18  # of a table that goes into a file or a pipe
MODEL = (
    "Recall is accuracy above guessing, (accuracy - floor) / (1 - floor): mean over seeds, lowest to highest. "
    "Capacities are where a logistic in log pairs, 1 / (1 + (n / c)^k), fitted to each seed, crosses 50 % and 90 %; "
    "'> 32' or '< 4': outside what was tried, so nothing is fitted. State: bytes that decoding keeps after a row, as "
    "the cost table counts them."
)
LIMITS = (
    "One learning rate for all unless tuned= names others, and short training: that a variant did not recall does not "
    "say that its state could not hold the pairs."
)


def capacity_table(sizes: Sequence[Size], frontier: Frontier | None) -> Table:
    """A row for each variant and width."""
    pairs = _pairs(sizes)
    columns = ["variant", "d_model", "state bytes", *(f"recall of {n}" for n in pairs)]
    columns += [*(f"pairs at {level:.0%}" for level in LEVELS), "of the frontier", "seeds", "lost runs"]
    rows = []
    for size in sizes:
        recall = [_percent(size.recall.get(n)) for n in pairs]
        held = [_pairs_held(size.capacities[level]) for level in LEVELS]
        rows.append([size.variant, str(size.width), f"{size.state_bytes:,}", *recall, *held, _rank(size, frontier)])
        rows[-1] += [str(size.seeds), str(size.lost)]
    return table(columns, rows, MODEL)


def _percent(band: Band | None) -> str:
    return "" if band is None else f"{band.mean:.0%} ({band.low:.0%} to {band.high:.0%})"


def _pairs_held(capacity: Capacity) -> str:
    band = capacity.band
    return capacity.bound if band is None else f"{band.mean:.3g} ({band.low:.3g} to {band.high:.3g})"


def _rank(size: Size, frontier: Frontier | None) -> str:
    """A capacity as a part of what the frontier holds in as many bytes."""
    band = size.capacities[LEVELS[0]].band
    return "" if band is None or frontier is None else f"{band.mean / frontier.at(size.state_bytes):.2f}"


def frontier_line(frontier: Frontier | None) -> str:
    """The fitted frontier in words."""
    if frontier is None:
        return "no frontier: fewer than two states of different size have a capacity within what was tried"
    names = ", ".join(f"{size.variant} at {size.state_bytes:,} bytes" for size in frontier.points)
    return f"frontier: pairs at 50 % = {np.exp(frontier.intercept):.3g} bytes^{frontier.slope:.2f}, through {names}"


def show(sizes: Sequence[Size], console: Console) -> None:
    """The table in a terminal, and the frontier in words."""
    frontier = frontier_of(sizes)
    shown = capacity_table(sizes, frontier)
    print_table(shown, console, piped=WIDTH_OF_A_COLUMN)
    console.print(frontier_line(frontier), soft_wrap=True)


def draw(sizes: Sequence[Size], frontier: Frontier | None) -> str:
    """Recall against state, recall against pairs at a like state, and capacity against state with its frontier."""
    pairs, variants = _pairs(sizes), list(dict.fromkeys(size.variant for size in sizes))
    roles = {variant: ROLES[i % len(ROLES)] for i, variant in enumerate(variants)}
    states = [float(size.state_bytes) for size in sizes]
    like = float(np.exp(np.median(np.log(states))))
    nearest = [
        min((s for s in sizes if s.variant == variant), key=lambda s: abs(np.log(s.state_bytes / like)))
        for variant in variants
    ]
    middle = pairs[len(pairs) // 2]
    whole = [size for size in sizes if middle in size.recall]
    by_state = {
        variant: [(float(s.state_bytes), s.recall[middle]) for s in whole if s.variant == variant]
        for variant in variants
    }
    by_pairs = {f"{s.variant}, {short(s.state_bytes)} B": [(float(n), b) for n, b in s.recall.items()] for s in nearest}
    held = {
        variant: [(float(s.state_bytes), b) for s in sizes if s.variant == variant and (b := s.capacities[0.5].band)]
        for variant in variants
    }
    panels = [
        (f"recall of {middle} pairs against state bytes", by_state, None),
        ("recall against pairs, at the nearest states", by_pairs, None),
        ("pairs at 50 % against state bytes", held, frontier),
    ]
    parts = []
    for i, (title, lines, fitted) in enumerate(panels):
        x = LEFT + i * (PANEL + GAP)
        parts += _panel(x, title, lines, lambda name: roles[name.partition(",")[0]], fitted, share=i < 2)
    width = LEFT + 3 * (PANEL + GAP)
    return svg.drawing(width, TOP + HEIGHT + FOOT, parts, label=f"Capacities of {', '.join(variants)}")


def _panel(
    x: float,
    title: str,
    lines: dict[str, list[tuple[float, Band]]],
    role: Callable[[str], str],
    frontier: Frontier | None,
    *,
    share: bool,
) -> list[str]:
    parts = [svg.text(x, TOP - 14, title, role="ink")]
    points = [point for line in lines.values() for point in line]
    if not points:
        return [*parts, svg.text(x, TOP + 20, "nothing within what was tried")]
    across = svg.axis([at for at, _ in points], x, x + PANEL, log=True)
    held = [0.0, 1.0] if share else [v for _, band in points for v in band]
    up = svg.axis(held, TOP + HEIGHT, TOP, log=not share)
    parts += [svg.x_ticks(across, TOP + HEIGHT, TOP, n=3), svg.y_ticks(up, x, x + PANEL)]
    if frontier is not None:
        ends = [min(at for at, _ in points), max(at for at, _ in points)]
        parts.append(svg.path([(across(at), up(frontier.at(at))) for at in ends], role="soft", width=4, opacity=0.4))
    taken: list[float] = []
    for name, line in sorted(lines.items(), key=lambda item: -item[1][-1][1].mean if item[1] else 0.0):
        for at, band in line:
            parts.append(svg.line(across(at), up(band.low), across(at), up(band.high), role=role(name), width=1.5))
            hint = f"{name}: {short(at)}, {number(band.mean)} ({number(band.low)} to {number(band.high)})"
            parts.append(svg.dot(across(at), up(band.mean), role=role(name), radius=3.5, hint=hint))
        if line:
            parts.append(svg.path([(across(at), up(band.mean)) for at, band in line], role=role(name)))
            y = max([up(line[-1][1].mean) + 4, *(each + 13 for each in taken)])
            taken.append(y)
            parts.append(svg.text(x + PANEL + 6, y, name, role=role(name), size=11))
    return parts


def _pairs(sizes: Sequence[Size]) -> list[int]:
    return sorted({n for size in sizes for n in size.recall})


def save(sizes: Sequence[Size], folder: Path, command: str) -> list[Path]:
    """Write capacity.svg, capacity.csv and capacity.md; returns where they are."""
    frontier = frontier_of(sizes)
    shown = capacity_table(sizes, frontier)
    page = "\n\n".join(
        [
            "# Capacity: recall against the bytes of the state",
            "![Recall against state and pairs, and the fitted frontier](capacity.svg)",
            markdown_table(shown),
            *(frontier_line(frontier), LIMITS, f"Made by `{command}`."),
        ]
    )
    contents = {
        "capacity.svg": draw(sizes, frontier),
        "capacity.csv": as_csv(shown.columns, shown.rows),
        "capacity.md": f"{page}\n",
    }
    for name, content in contents.items():
        write_atomically(folder / name, content.encode(), key="folder")
    return [folder / name for name in contents]
