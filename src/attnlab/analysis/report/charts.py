"""The pictures of a report: learning curves, paired differences, learning rates, quality against cost."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from attnlab.analysis.arms import Arm
from attnlab.analysis.comparison import BETTER, EQUIVALENT, WORSE, Comparison
from attnlab.analysis.lr_curve import LRCurve
from attnlab.analysis.report import svg
from attnlab.analysis.report.document import Picture
from attnlab.analysis.statistics import t_interval

PANEL_WIDTH, PANEL_HEIGHT, PANELS_IN_A_ROW = 250, 170, 3
LEFT, TOP, GAP, BOTTOM = 56, 40, 30, 34
BETWEEN = 76  # rows of panels: numbers below the upper, two lines of heading above the lower
MOST_PANELS = 24
MOST_HINTS = 60  # on a curve
WIDTH = LEFT + PANELS_IN_A_ROW * (PANEL_WIDTH + GAP)
ROLES = {BETTER: "better", WORSE: "worse", EQUIVALENT: "equivalent"}


def band(arm: Arm, alpha: float) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "3 n"]]:
    """Mean, low and high end over seeds at every step that all finished runs have; the ends are the mean for one."""
    curves = [run.curve for run in arm.finished.values() if run.curve is not None]
    if not curves:
        return np.zeros(0, dtype=np.int64), np.zeros((3, 0))
    steps = curves[0].steps
    for curve in curves[1:]:
        steps = np.intersect1d(steps, curve.steps)
    values = np.stack([c.values[np.isin(c.steps, steps)] for c in curves])
    mean = values.mean(axis=0)
    low, high = t_interval(values.T, alpha) if len(curves) > 1 else (mean, mean)
    return steps, np.stack([mean, low, high])


def _grid(n: int) -> tuple[list[tuple[float, float]], float]:
    """Top left corners of n panels, and the height of the drawing."""
    corners = [
        (
            float(LEFT + (i % PANELS_IN_A_ROW) * (PANEL_WIDTH + GAP)),
            float(TOP + (i // PANELS_IN_A_ROW) * (PANEL_HEIGHT + BETWEEN)),
        )
        for i in range(n)
    ]
    return corners, corners[-1][1] + PANEL_HEIGHT + BOTTOM + 8


def learning_curves(pairs: Sequence[tuple[Arm, Arm]], metric: str, alpha: float) -> Picture | None:
    """One panel per variant: every seed thin, the mean thick, its interval shaded, the baseline's mean in grey."""
    drawn = [(c, b) for c, b in pairs if c.finished][:MOST_PANELS]
    if not drawn:
        return None
    corners, height = _grid(len(drawn))
    runs = [run.curve for c, b in drawn for side in (c, b) for run in side.finished.values() if run.curve]
    top_of_all = np.concatenate([curve.values for curve in runs])
    steps = np.concatenate([curve.steps for curve in runs]).astype(float)
    parts = []
    for i, ((arm, baseline), (x, y)) in enumerate(zip(drawn, corners, strict=True)):
        across = svg.PlotAxis(0.0, max(1.0, float(steps.max())), x, x + PANEL_WIDTH)
        up = svg.axis(list(top_of_all), y + PANEL_HEIGHT, y)
        parts.append(svg.x_ticks(across, y + PANEL_HEIGHT, y))
        parts.append(svg.y_ticks(up, x, x + PANEL_WIDTH, svg.short if i % PANELS_IN_A_ROW == 0 else lambda _: ""))
        for run in arm.finished.values():
            assert run.curve is not None
            points = [(across(float(s)), up(float(v))) for s, v in zip(run.curve.steps, run.curve.values, strict=True)]
            parts.append(svg.path(points, role="accent", width=0.8, opacity=0.45))
        at, (mean, low, high) = band(arm, alpha)
        xs = [across(float(s)) for s in at]
        lower, upper = [up(max(up.low, v)) for v in low], [up(min(up.high, v)) for v in high]
        parts.append(
            svg.area([*zip(xs, upper, strict=True), *zip(xs[::-1], lower[::-1], strict=True)], role="accent-soft")
        )
        at_base, (base, _, _) = band(baseline, alpha)
        parts.append(
            svg.path([(across(float(s)), up(v)) for s, v in zip(at_base, base, strict=True)], role="base", width=2)
        )
        parts.append(svg.path([(a, up(v)) for a, v in zip(xs, mean, strict=True)], role="accent", width=2))
        every = max(1, len(at) // MOST_HINTS)
        for step, here, value, ends in list(zip(at, xs, mean, zip(low, high, strict=True), strict=True))[::every]:
            parts.append(svg.target(here, up(value), f"step {step}: {value:.4g}, {ends[0]:.4g} to {ends[1]:.4g}"))
        parts.append(svg.title(x, y - 8, _name(arm), PANEL_WIDTH))
    caption = (
        f"{metric} over steps: every seed (thin), the mean (thick) with its {100 * (1 - alpha):g} % t interval, "
        "and the baseline's mean (grey)."
    )
    if len(pairs) > len(drawn):
        caption += f" The first {len(drawn)} of {len(pairs)} variants."
    return Picture("learning_curves", svg.drawing(WIDTH, height, parts, label=caption), caption)


def differences(
    comparisons: Sequence[Comparison[Arm]], metric: str, alpha: float, bands: Sequence[float | None]
) -> Picture | None:
    """The forest plot: a dot per seed, the mean with its interval, and the noise of the baseline against itself."""
    shown = [(c, b) for c, b in zip(comparisons, bands, strict=True) if c.n]
    if not shown:
        return None
    left = 20 + max(svg.width_of(_name(c.arm)) for c, _ in shown)
    right, row = left + 390, 30
    ends = [x for c, _ in shown for x in (*c.differences, *(c.interval or ())) if math.isfinite(x)]
    noise = [sign * b for _, b in shown if b is not None for sign in (-1, 1)]
    widest = max((abs(x) for x in ends), default=1.0) or 1e-9
    noise = [max(-1.5 * widest, min(1.5 * widest, x)) for x in noise]  # wide noise must not squeeze all dots into one
    across = svg.axis([0.0, *ends, *noise], left, right)
    bottom = TOP + row * len(shown)
    parts = []
    for i, (_, b) in enumerate(shown):
        if b is not None:
            x1, x2 = (max(left, min(right, across(sign * b))) for sign in (-1, 1))
            y = float(TOP + row * i)
            parts.append(svg.area([(x1, y), (x2, y), (x2, y + row), (x1, y + row)], role="base-soft"))
    parts.append(svg.x_ticks(across, bottom, TOP, n=5))
    parts.append(svg.line(across(0), TOP, across(0), bottom, role="soft", width=1.5))
    for i, (c, _) in enumerate(shown):
        y, role = TOP + row * (i + 0.5), ROLES.get(c.verdict, "accent")
        parts.append(svg.text(left - 10, y + 4, _name(c.arm), anchor="end", role="ink"))
        for seed, d in zip(c.seeds, c.differences, strict=True):
            if not math.isfinite(d):  # a step that was never reached
                continue
            parts.append(svg.dot(across(float(d)), y, role="base", radius=2.5, hint=f"seed {seed}: {d:+.4g}"))
        if c.interval is not None:
            parts.append(svg.line(across(c.interval.low), y, across(c.interval.high), y, role=role, width=2.5))
        if c.mean is not None:
            span = f", {c.interval.low:+.4g} to {c.interval.high:+.4g}" if c.interval is not None else ""
            parts.append(svg.dot(across(c.mean), y, role=role, radius=4.5, hint=f"mean {c.mean:+.4g}{span}"))
        parts.append(svg.text(right + 14, y + 4, _verdict(c), role=role if role != "accent" else "soft"))
    parts.append(svg.text((left + right) / 2, bottom + 32, f"{metric}, variant minus baseline", anchor="middle"))
    kind = "interval at any stop" if any(c.sequential for c, _ in shown) else "t interval"
    caption = (
        f"Paired differences: a grey dot per seed, the mean with its {100 * (1 - alpha):g} % {kind}. The grey band "
        "is the A/A noise floor: how far two groups of as many runs of the baseline lie apart, if nothing but the "
        "seeds differ. Pairing by seed can see below it."
    )
    width = right + 24 + max(svg.width_of(_verdict(c)) for c, _ in shown)
    return Picture("differences", svg.drawing(width, bottom + 42, parts, label=caption), caption)


def lr_curves(curves: Sequence[tuple[str, LRCurve]], metric: str) -> Picture | None:
    """One panel per variant: the tuning seeds at each rate, their mean, and the rate that was chosen."""
    drawn = [(label, r) for label, r in curves if r.points][:MOST_PANELS]
    if not drawn:
        return None
    corners, height = _grid(len(drawn))
    values = [v for _, r in drawn for p in r.points for v in p.values if math.isfinite(v)]
    grid = [p.rate for _, r in drawn for p in r.points]
    parts = []
    for i, ((label, curve), (x, y)) in enumerate(zip(drawn, corners, strict=True)):
        across = svg.axis(grid, x, x + PANEL_WIDTH, log=True)
        up = svg.axis(values, y + PANEL_HEIGHT, y, pad=0.1)
        parts.append(svg.x_ticks(across, y + PANEL_HEIGHT, y))
        parts.append(svg.y_ticks(up, x, x + PANEL_WIDTH, svg.short if i % PANELS_IN_A_ROW == 0 else lambda _: ""))
        if curve.fitted is not None:
            parts.append(
                svg.line(across(curve.fitted), y, across(curve.fitted), y + PANEL_HEIGHT, role="soft", dash="4 3")
            )
        means = [(across(p.rate), up(p.mean)) for p in curve.points if math.isfinite(p.mean)]
        parts.append(svg.path(means, role="accent", width=2))
        for p in curve.points:
            ends = filter(math.isfinite, p.values)
            parts += [svg.dot(across(p.rate), up(v), role="accent", radius=2, filled=False) for v in ends]
            if p.diverged:
                parts.append(svg.text(across(p.rate), y + 12, "diverged", anchor="middle", role="worse", size=11))
            elif p.rate == curve.best:
                parts.append(svg.dot(across(p.rate), up(p.mean), role="accent", radius=4.5, hint=f"best: {p.rate:g}"))
        parts.append(svg.title(x, y - 8, label, PANEL_WIDTH))
    caption = (
        f"{metric} against the learning rate (log scale), tuning seeds only: every seed, the mean, the best rate (full "
        "dot) and the lowest point of a parabola in log rate (dashed)."
    )
    return Picture("learning_rates", svg.drawing(WIDTH, height, parts, label=caption), caption)


def against_cost(points: Sequence[tuple[str, str, dict[str, float], float]], metric: str) -> Picture | None:
    """Quality against each cost: (label, verdict, costs by name, mean of the metric) for every variant;
    a cost that all share tells nothing."""
    names = (
        [name for name in points[0][2] if len({costs.get(name) for _, _, costs, _ in points} - {None}) > 1]
        if points
        else []
    )
    if not names:
        return None
    corners, height = _grid(len(names))
    parts = []
    for i, (name, (x, y)) in enumerate(zip(names, corners, strict=True)):
        here = [
            (label, verdict, costs[name], value) for label, verdict, costs, value in points if costs.get(name, 0) > 0
        ]
        if not here:
            continue
        across = svg.axis([cost for _, _, cost, _ in here], x, x + PANEL_WIDTH, log=True, pad=0.15)
        up = svg.axis([value for *_, value in here], y + PANEL_HEIGHT, y, pad=0.15)
        parts.append(svg.x_ticks(across, y + PANEL_HEIGHT, y, n=3))
        parts.append(svg.y_ticks(up, x, x + PANEL_WIDTH, svg.short if i % PANELS_IN_A_ROW == 0 else lambda _: ""))
        taken: list[tuple[float, float]] = []
        for label, verdict, cost, value in here:
            at, height_of = across(cost), up(value)
            role = "base" if verdict == "baseline" else ROLES.get(verdict, "accent")
            parts.append(svg.dot(at, height_of, role=role, radius=4, hint=f"{label}: {svg.short(cost)}, {value:.4g}"))
            if all(abs(height_of - b) > 11 or abs(at - a) > 120 for a, b in taken):
                end = at > x + 0.6 * PANEL_WIDTH
                parts.append(
                    svg.text(
                        at - 7 if end else at + 7,
                        height_of + 4,
                        _cut(label, 28),
                        anchor="end" if end else "start",
                        size=11,
                    )
                )
                taken.append((at, height_of))
        parts.append(svg.text(x, y - 8, f"{metric} against {name}", role="ink"))
    caption = (
        "Quality against cost (log scale), means over seeds; the baseline in grey. FLOPs and state are those of all "
        "attention layers. Labels that would cover each other are left out; hold the mouse over a dot to read it."
    )
    return Picture("cost", svg.drawing(WIDTH, height, parts, label=caption), caption)


def _name(arm: Arm) -> str:
    return f"{arm.label}, {arm.setting}" if arm.setting else arm.label


def _verdict(c: Comparison[Arm]) -> str:
    return f"{c.word} (n = {c.n})"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
