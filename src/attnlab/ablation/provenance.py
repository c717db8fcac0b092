"""What a comparison rests on: what was held equal, what it cost, and what it cannot say."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from attnlab.ablation.comparison import Comparison
from attnlab.ablation.contenders import Contender
from attnlab.ablation.differences import CONDITIONS, beside_the_variants
from attnlab.ablation.document import Block, table
from attnlab.ablation.groups import changing
from attnlab.ablation.rates import RATE
from attnlab.ablation.reading import Run
from attnlab.ablation.report import Report
from attnlab.ablation.statistics import t_interval
from attnlab.ablation.svg import short

USUALLY_VARIED = ("model", "data", "tokenizer", "optimizer", "trainer")
MODES = {
    "params": "parameters",
    "flops": "FLOPs",
    "state": "state bytes",
    "tokens": "tokens",
    "time": "wall-clock time",
}


class Fairness(NamedTuple):
    """What was held equal, in a word, and what was not."""

    mode: str
    problems: list[str]


def fairness(report: Report) -> Fairness:
    """The matching mode of an experiment, and every condition in which compared runs differ."""
    problems = []
    for block, baseline in report.design.baselines.items():
        members = [c for c in report.design.contenders if c.block == block]
        runs = [run for c in members for run in c.finished.values()]
        where = f" ({baseline.place})" if baseline.place else ""
        for key, name in CONDITIONS.items():
            found = {repr(run.summary.get(key)): run.summary.get(key) for run in runs}
            if len(found) > 1:
                problems.append(f"not the same for all compared runs{where}: {name} ({_some(found.values())})")
        steps = {int(run.summary["step"]) for run in runs}
        if len(steps) > 1:
            problems.append(f"not the same for all compared runs{where}: steps ({_some(sorted(steps))})")
        to = baseline.settings.get("match_to")
        if to is not None and to != baseline.variant:
            problems.append(f"variants were brought to the budget of {to}, and are compared with {baseline.label}")
    return Fairness(_mode(report), problems)


def _mode(report: Report) -> str:
    """What was matched; several modes stand in blocks of their own, none of which is compared with another."""
    modes = dict.fromkeys(_mode_of(report, baseline) for baseline in report.design.baselines.values())
    if len(modes) > 1:
        return f"one mode for each setting, never compared with another: {'; '.join(modes)}"
    return next(iter(modes))


def _mode_of(report: Report, baseline: Contender) -> str:
    """What the runs say was matched, or the sweep, else what can be seen to be equal."""
    if stated := baseline.settings.get("match"):
        return MODES.get(str(stated), str(stated))
    if isinstance(declared := report.experiment.declared.get("match"), str):
        return MODES.get(declared, declared)
    runs = [r for c in report.design.contenders if c.block == baseline.block for r in c.finished.values()]
    if len({run.summary.get("tokens") for run in runs}) > 1:
        return "nothing (not even tokens)"
    return "tokens (parameters, FLOPs and state as they fall)"


def _some(values: Iterable[Any]) -> str:
    words = [_brief(value) for value in values]
    return ", ".join(words[:4]) + (", ..." if len(words) > 4 else "")


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {item}" for key, item in value.items())
    text = str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text


def held_equal(report: Report) -> list[Block]:
    """What matching moved, and what it left between a variant and its budget."""
    rows = []
    for c in report.design.contenders:
        found = next((run.summary["match"] for run in c.runs if _is_match(run.summary.get("match"))), None)
        if found is None:
            continue
        moved = ", ".join(f"{key} {_as_typed(old)} to {_as_typed(new)}" for key, (old, new) in found["moved"].items())
        beside = ", ".join(
            f"{name} {100 * (ours / base - 1):+.2f} %" for name, (base, ours) in found["beside"].items() if base
        )
        figures = [f"{found['budget']:,.8g}", f"{found['got']:,.8g}", f"{found['left_percent']:+.3f} %"]
        rows.append([c.label, c.place, found["unit"], found["to"], *figures, moved or "nothing", beside])
    columns = ["variant", "setting", "held equal", "to", "budget", "has", "left", "moved", "not matched"]
    return [table(columns, rows, "Counted before training, on the models that were trained")] if rows else []


def _is_match(content: object) -> bool:
    """Whether this is what matching told of a run: it comes from a file."""
    return isinstance(content, dict) and {"moved", "beside", "budget", "got", "left_percent", "unit", "to"} <= {
        *content
    }


def _as_typed(value: object) -> str:
    return "null" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


class Cost(NamedTuple):
    """What a variant costs, as cells of a table and as numbers of a picture."""

    label: str
    place: str
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


def costs(report: Report) -> list[Cost]:
    """The cost of every contender, baselines first; what is compared is said relative to the baseline of its block."""
    compared = {id(c.contender): c for c in report.comparisons}
    level = report.rules.alpha / max(1, len(MEASURED) * len(report.comparisons))
    return [_cost(c, compared.get(id(c)), level) for c in report.design.contenders if c.finished]


def _cost(contender: Contender, comparison: Comparison | None, level: float) -> Cost:
    counted = {name: _mean(contender, path) for name, path in COUNTED.items()}
    cells = []
    for name, value in counted.items():
        base = _mean(comparison.baseline, COUNTED[name]) if comparison is not None else None
        beside = f" ({100 * (value / base - 1):+.1f} %)" if value and base else ""
        cells.append("" if value is None else short(float(f"{value:.4g}")) + beside)
    cells += [_measured(contender, comparison, key, level) for key in MEASURED.values()]
    mean = float(np.mean([run.final for run in contender.finished.values()]))
    axes = {name: value for name, value in counted.items() if name in PICTURED and value}
    verdict = "baseline" if comparison is None else comparison.verdict
    return Cost(contender.label, contender.place, verdict, mean, [*counted, *MEASURED], cells, axes)


def _mean(contender: Contender, path: tuple[str, ...]) -> float | None:
    """The mean over the finished runs; None where they do not tell."""
    values = [_inside(run.summary, path) for run in contender.finished.values()]
    numbers = [float(x) for x in values if isinstance(x, int | float)]
    return float(np.mean(numbers)) if numbers else None


def _measured(contender: Contender, comparison: Comparison | None, key: str, level: float) -> str:
    """Mean and spread of what was measured, and how it compares with the baseline, by seeds that ran side by side."""
    numbers = [x for run in contender.finished.values() if (x := _positive(run, key)) is not None]
    if not numbers:
        return ""
    spread = f" ± {short(float(f'{np.std(numbers, ddof=1):.2g}'))}" if len(numbers) > 1 else ""
    mean = short(float(f"{np.mean(numbers):.4g}")) + spread
    return mean if comparison is None else f"{mean} ({_ratio(comparison, key, level)})"


def _ratio(comparison: Comparison, key: str, level: float) -> str:
    """By how much a measured cost is more or less than the baseline's, as an interval; never a number without one."""
    ours, theirs = comparison.contender.finished, comparison.baseline.finished
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
    runs = [run for c in report.design.contenders for run in c.finished.values()]
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


def limits(report: Report) -> str:
    """What this experiment cannot say, from what it was."""
    contenders = report.design.contenders
    runs = [run for c in contenders for run in c.finished.values()]
    if not runs:
        return "Nothing was finished, so that nothing can be said."
    varied = [key for keys in changing([c.settings for c in contenders]) for key in keys]
    parameters, tokens = _span(runs, "parameters"), _span(runs, "tokens")
    steps, kinds = _span(runs, "step"), _span(runs, "n_vocab")
    data = sorted({str(c.settings.get("data._target_")).rpartition(".")[2] for c in contenders})
    tuned = [c for c in contenders if c.rates is not None]
    rates = sorted({f"{c.settings[RATE]:g}" for c in contenders if isinstance(c.settings.get(RATE), int | float)})
    if len(tuned) == len(contenders):
        tuning = "The learning rate was tuned for each variant on a grid, and nothing else was"
    elif tuned:
        tuning = f"The learning rate was tuned for {', '.join(c.label for c in tuned)} only, which favours them"
    elif len(rates) == 1:
        tuning = f"All variants share one learning rate ({rates[0]}), which may suit one better than another"
    else:
        tuning = f"Learning rates differ ({', '.join(rates)}) and were not tuned here"
    seeds = sorted({c.n for c in report.comparisons})
    fixed = [name for name in USUALLY_VARIED if not any(key.startswith(f"{name}.") for key in varied)]
    beside = [" with ".join(keys) for keys in beside_the_variants(contenders)]
    more = f" Besides the variants, {'; '.join(beside)} differed." if beside else ""
    return (
        f"These are models of {parameters} parameters, trained for {steps} steps on {tokens} tokens of "
        f"{' and '.join(data)} with a vocabulary of {kinds}; larger models, more tokens and other data may turn a "
        f"verdict around. {tuning}. {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else 'No'} "
        "seeds a comparison; seeds vary initial values, batches and dropout together. Not varied: "
        f"{', '.join(fixed) or 'nothing of the usual'}.{more} The metric is {report.experiment.metric} after the "
        "last step, on the validation split that any tuning has seen, too. Verdicts hold for these settings on this "
        f"kind of machine ({_some(dict.fromkeys(str(r.summary.get('device')) for r in runs))}, "
        f"{_some(dict.fromkeys(str(r.summary.get('precision')) for r in runs))})."
    )


def _span(runs: Iterable[Run], key: str) -> str:
    found = [run.summary[key] for run in runs if isinstance(run.summary.get(key), int | float)]
    if not found:
        return "an unknown number of"
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
