"""What a comparison rests on: what was held equal, what it cost, and what it cannot say."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from attnlab.ablation.contenders import Contender
from attnlab.ablation.differences import CONDITIONS, beside_the_variants
from attnlab.ablation.document import Block, table
from attnlab.ablation.groups import changing
from attnlab.ablation.rates import RATE
from attnlab.ablation.reading import Run
from attnlab.ablation.report import Report
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
        found = next((run.summary["match"] for run in c.runs if isinstance(run.summary.get("match"), dict)), None)
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


def costs(report: Report) -> list[Cost]:
    """The cost of every contender, baselines first; what is compared is said relative to the baseline of its block."""
    verdicts = {id(c.contender): c.verdict for c in report.comparisons}
    return [
        _cost(c, report.design.baselines.get(c.block), verdicts.get(id(c), "baseline"))
        for c in report.design.contenders
        if c.finished
    ]


def _cost(contender: Contender, baseline: Contender | None, verdict: str) -> Cost:
    ours, theirs = _numbers(contender), _numbers(baseline) if baseline is not None else {}
    cells = []
    for name, value in ours.items():
        base = theirs.get(name)
        beside = f" ({100 * (value / base - 1):+.1f} %)" if value and base and verdict != "baseline" else ""
        cells.append("" if value is None else short(float(f"{value:.4g}")) + beside)
    mean = float(np.mean([run.final for run in contender.finished.values()]))
    axes = {name: value for name, value in ours.items() if name in AXES and value}
    return Cost(contender.label, contender.place, verdict, mean, list(ours), cells, axes)


AXES = ("forward FLOPs", "state bytes", "tokens/s")


def _numbers(contender: Contender) -> dict[str, float | None]:
    """Means over the finished runs, by name; None where the runs do not tell."""
    runs = list(contender.finished.values())

    def mean(*path: str) -> float | None:
        found = [_inside(run.summary, path) for run in runs]
        known = [float(x) for x in found if isinstance(x, int | float)]
        return float(np.mean(known)) if known else None

    return {
        "parameters": mean("parameters"),
        "forward FLOPs": mean("attention_cost", "forward_flops"),
        "state bytes": mean("attention_cost", "state_bytes"),
        "tokens": mean("tokens"),
        "tokens/s": mean("tokens_per_second"),
        "training seconds": mean("train_seconds"),
        "peak memory bytes": mean("peak_memory_bytes"),
    }


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
