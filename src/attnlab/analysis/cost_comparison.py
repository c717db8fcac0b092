"""What each variant costs: counted exactly, or measured side by side and compared as an interval of the ratio."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.comparison import Comparison
from attnlab.analysis.reading import Run
from attnlab.analysis.report import charts
from attnlab.analysis.report.document import Block, some, table
from attnlab.analysis.report.format import number
from attnlab.analysis.report.svg import short
from attnlab.analysis.statistics import t_interval


class ArmCost(NamedTuple):
    """What a variant costs, as cells of a table and as numbers of a picture."""

    label: str
    setting: str
    verdict: str
    mean: float
    columns: list[str]
    cells: list[str]
    axes: dict[str, float]


COUNTED = {
    "parameters": ("parameters",),
    "forward FLOPs": ("attention_cost", "forward_flops"),
    "state bytes": ("attention_cost", "state_bytes"),
    "tokens": ("tokens",),
}
MEASURED = {"tokens/s": "tokens_per_second", "peak memory of the run": "run_memory_bytes"}
PICTURED = ("forward FLOPs", "state bytes")


def cost(report: Report) -> list[Block]:
    """The section of a report: what was measured and how, a table, and a picture of the metric against each cost."""
    shown = costs(report)
    if not shown:
        return []
    columns = ["variant", "setting", report.experiment.metric, *shown[0].columns]
    rows = [[c.label, c.setting, number(c.mean), *c.cells] for c in shown]
    points = [(c.label, c.verdict, c.axes, c.mean) for c in shown if math.isfinite(c.mean)]
    picture = charts.against_cost(points, report.experiment.metric)
    return [measuring(report), table(columns, rows, "Means over seeds"), *some(picture)]


def costs(report: Report) -> list[ArmCost]:
    """The cost of every arm, baselines first; what is compared is said relative to the baseline of its block."""
    compared = {id(c.arm): c for c in report.comparisons}
    level = report.rules.alpha / max(1, len(MEASURED) * len(report.comparisons))
    return [_cost(c, compared.get(id(c)), level) for c in report.design.arms if c.finished]


def _cost(arm: Arm, comparison: Comparison[Arm] | None, level: float) -> ArmCost:
    counted = {name: _mean(arm, path) for name, path in COUNTED.items()}
    cells = []
    for name, value in counted.items():
        base = _mean(comparison.baseline, COUNTED[name]) if comparison is not None else None
        beside = f" ({100 * (value / base - 1):+.1f} %)" if value and base else ""
        cells.append("" if value is None else short(float(f"{value:.4g}")) + beside)
    cells += [_measured(arm, comparison, key, level) for key in MEASURED.values()]
    mean = float(np.mean([run.final for run in arm.finished.values()]))
    axes = {name: value for name, value in counted.items() if name in PICTURED and value}
    verdict = "baseline" if comparison is None else comparison.verdict
    return ArmCost(arm.label, arm.setting, verdict, mean, [*counted, *MEASURED], cells, axes)


def _mean(arm: Arm, path: tuple[str, ...]) -> float | None:
    """The mean over the finished runs; None where they do not tell."""
    values = [_inside(run.summary, path) for run in arm.finished.values()]
    numbers = [float(x) for x in values if isinstance(x, int | float)]
    return float(np.mean(numbers)) if numbers else None


def _measured(arm: Arm, comparison: Comparison[Arm] | None, key: str, level: float) -> str:
    """Mean and spread of what was measured, and how it compares with the baseline, by seeds that ran side by side."""
    numbers = [x for run in arm.finished.values() if (x := _positive(run, key)) is not None]
    if not numbers:
        return ""
    spread = f" ± {short(float(f'{np.std(numbers, ddof=1):.2g}'))}" if len(numbers) > 1 else ""
    mean = short(float(f"{np.mean(numbers):.4g}")) + spread
    return mean if comparison is None else f"{mean} ({_ratio(comparison, key, level)})"


def _ratio(comparison: Comparison[Arm], key: str, level: float) -> str:
    """By how much a measured cost is more or less than the baseline's, as an interval; never a number without one."""
    ours, theirs = comparison.arm.finished, comparison.baseline.finished
    seeds = [seed for seed in comparison.seeds if _side_by_side(ours[seed], theirs[seed])]
    pairs = [(_positive(ours[seed], key), _positive(theirs[seed], key)) for seed in seeds]
    ratios = [math.log(a / b) for a, b in pairs if a is not None and b is not None]
    if not ratios:
        return "not measured side by side"
    if len(ratios) < 2:
        return "cannot tell from one pair"
    low, high = (math.exp(float(end)) for end in t_interval(np.array(ratios), level))
    return f"{'cannot tell: ' if low <= 1 <= high else ''}{low:.2f} to {high:.2f} times"


def _positive(run: Run, key: str) -> float | None:
    value = run.summary.get(key)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _side_by_side(a: Run, b: Run) -> bool:
    """Whether two runs were made by one command, as many at once, on one kind of device."""
    ours, theirs = (
        (_inside(run.summary, ("beside", "session")), _inside(run.summary, ("beside", "workers"))) for run in (a, b)
    )
    same = all(a.summary.get(key) == b.summary.get(key) for key in ("device", "devices", "threads", "precision"))
    return None not in ours and ours == theirs and same


def measuring(report: Report) -> str:
    """Under which conditions costs were measured."""
    runs = [run for c in report.design.arms for run in c.finished.values()]
    beside = [run.summary["beside"] for run in runs if isinstance(run.summary.get("beside"), Mapping)]
    workers = sorted({each["workers"] for each in beside if isinstance(each.get("workers"), int)})
    others = [100 * each["others_cpu"] for each in beside if isinstance(each.get("others_cpu"), int | float)]
    loads = [each["load"][0] for each in beside if isinstance(each.get("load"), list) and each["load"]]
    loads = [load for load in loads if isinstance(load, int | float)]
    parts = [f"{' or '.join(map(str, workers))} at a time" if workers else "side by side or not is unknown"]
    parts += [f"load at the start {min(loads):g} to {max(loads):g}"] if loads else []
    parts += (
        [f"other processes, further runs among them, took {min(others):.0f} to {max(others):.0f} % of the machine"]
        if others
        else []
    )
    unknown = len(runs) - len(beside)
    parts += [f"unknown for {unknown} runs"] if unknown and beside else []
    return (
        f"Runs were made {'; '.join(parts)}. Speed and memory are means with the standard deviation over seeds; they "
        "are compared only between runs that one command made side by side, seed by seed, as an interval for the ratio "
        f"({100 * (1 - report.rules.alpha):g} % for all of the table together). The memory of a run is its peak above "
        "what the process held at its start; on a CPU that counts the whole process, and the first run of a process "
        "takes more."
    )


def _inside(summary: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = summary
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
