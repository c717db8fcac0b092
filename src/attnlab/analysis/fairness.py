"""What was held equal between the variants of an experiment, and what the experiment cannot say."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.differences import CONDITIONS, beside_the_variants
from attnlab.analysis.groups import RATE, changing
from attnlab.analysis.reading import Run
from attnlab.analysis.report.document import Block, table

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
        members = [c for c in report.design.arms if c.block == block]
        runs = [run for c in members for run in c.finished.values()]
        where = f" ({baseline.setting})" if baseline.setting else ""
        for key, name in CONDITIONS.items():
            values = {repr(run.summary.get(key)): run.summary.get(key) for run in runs}
            if len(values) > 1:
                problems.append(f"not the same for all compared runs{where}: {name} ({_some(values.values())})")
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


def _mode_of(report: Report, baseline: Arm) -> str:
    """What the runs say was matched, or the sweep, else what can be seen to be equal."""
    if stated := baseline.settings.get("match"):
        return MODES.get(str(stated), str(stated))
    if isinstance(declared := report.experiment.declared.get("match"), str):
        return MODES.get(declared, declared)
    runs = [r for c in report.design.arms if c.block == baseline.block for r in c.finished.values()]
    if len({run.summary.get("tokens") for run in runs}) > 1:
        return "nothing (not even tokens)"
    return "tokens (parameters, FLOPs and state as they fall)"


def _some(values: Iterable[Any]) -> str:
    texts = [_brief(value) for value in values]
    return ", ".join(texts[:4]) + (", ..." if len(texts) > 4 else "")


def _brief(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {item}" for key, item in value.items())
    text = str(value)
    return text[:12] if len(text) >= 40 and text.isalnum() else text


def notes(report: Report) -> list[str]:
    """What a reader must know besides the verdicts, a line each."""
    together = [keys for keys in beside_the_variants(report.design.arms) if len(keys) > 1]
    settings = [f"{keys[0]} changes together with {', '.join(keys[1:])}" for keys in together]
    uncounted = [report.looks.problem] if report.looks.problem else []
    return [*uncounted, *report.experiment.problems, *report.design.remarks, *fairness(report).problems, *settings]


def held_equal(report: Report) -> list[Block]:
    """What matching moved, and what it left between a variant and its budget."""
    rows = []
    for c in report.design.arms:
        match = next((run.summary["match"] for run in c.runs if _is_match(run.summary.get("match"))), None)
        if match is None:
            continue
        moved = ", ".join(f"{key} {_as_typed(old)} to {_as_typed(new)}" for key, (old, new) in match["moved"].items())
        beside = ", ".join(
            f"{name} {100 * (ours / base - 1):+.2f} %" for name, (base, ours) in match["beside"].items() if base
        )
        figures = [f"{match['budget']:,.8g}", f"{match['got']:,.8g}", f"{match['left_percent']:+.3f} %"]
        rows.append([c.label, c.setting, match["unit"], match["to"], *figures, moved or "nothing", beside])
    columns = ["variant", "setting", "held equal", "to", "budget", "has", "left", "moved", "not matched"]
    return [table(columns, rows, "Counted before training, on the models that were trained")] if rows else []


def _is_match(content: object) -> bool:
    """Whether this is what matching told of a run: it comes from a file."""
    return isinstance(content, dict) and {"moved", "beside", "budget", "got", "left_percent", "unit", "to"} <= {
        *content
    }


def _as_typed(value: object) -> str:
    return "null" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _tried(arms: Sequence[Arm]) -> list[int]:
    """How many settings were tried for each of these."""
    curves = [c.lr_curve for c in arms if c.lr_curve is not None]
    return [curve.search.tried if curve.search is not None else len(curve.points) for curve in curves]


def _judged_on(report: Report) -> str:
    """On which part of the data, and how often that was touched."""
    if not report.experiment.metric.startswith("test/"):
        return "on the validation split that any tuning has seen, too"
    n = len(report.experiment.folder.manifest.touches())
    if n == 1:
        return "on the test part, which was touched once"
    return f"on the test part, which was touched {n} times: later runs were added with its verdicts in sight"


def limits(report: Report) -> str:
    """What this experiment cannot say, from what it was."""
    arms = report.design.arms
    runs = [run for c in arms for run in c.finished.values()]
    if not runs:
        return "Nothing was finished, so that nothing can be said."
    varied = [key for keys in changing([c.settings for c in arms]) for key in keys]
    parameters, tokens = _span(runs, "parameters"), _span(runs, "tokens")
    steps, kinds = _span(runs, "step"), _span(runs, "n_vocab")
    data = sorted({str(c.settings.get("data._target_")).rpartition(".")[2] for c in arms})
    tuned = [c for c in arms if c.lr_curve is not None]
    rates = sorted({f"{c.settings[RATE]:g}" for c in arms if isinstance(c.settings.get(RATE), int | float)})
    keys = sorted({key for c in tuned if c.lr_curve is not None for key in c.lr_curve.tuned_keys} - {RATE})
    what = " and ".join(["The learning rate", *([f"what else is named above ({', '.join(keys)})"] if keys else [])])
    if len(tuned) == len(arms):
        n = " to ".join(dict.fromkeys(str(x) for x in (min(_tried(tuned)), max(_tried(tuned)))))
        tuning = f"{what} was tuned for each variant ({n} settings tried), and nothing else was"
    elif tuned:
        tuning = f"{what} was tuned for {', '.join(c.label for c in tuned)} only, which favours them"
    elif len(rates) == 1:
        tuning = f"All variants share one learning rate ({rates[0]}), which may suit one better than another"
    else:
        tuning = f"Learning rates differ ({', '.join(rates)}) and were not tuned here"
    seeds = sorted({c.n for c in report.comparisons})
    fixed = [name for name in USUALLY_VARIED if not any(key.startswith(f"{name}.") for key in varied)]
    beside = [" with ".join(keys) for keys in beside_the_variants(arms)]
    more = f" Besides the variants, {'; '.join(beside)} differed." if beside else ""
    return (
        f"These are models of {parameters} parameters, trained for {steps} steps on {tokens} tokens of "
        f"{' and '.join(data)} with a vocabulary of {kinds}; larger models, more tokens and other data may turn a "
        f"verdict around. {tuning}. {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1])))) if seeds else 'No'} "
        "seeds a comparison; seeds vary initial values, batches and dropout together. Not varied: "
        f"{', '.join(fixed) or 'nothing of the usual'}.{more} The metric is {report.experiment.metric} after the "
        f"last step, {_judged_on(report)}. Verdicts hold for these settings on this "
        f"kind of machine ({_some(dict.fromkeys(str(r.summary.get('device')) for r in runs))}, "
        f"{_some(dict.fromkeys(str(r.summary.get('precision')) for r in runs))})."
    )


def _span(runs: Iterable[Run], key: str) -> str:
    numbers = [run.summary[key] for run in runs if isinstance(run.summary.get(key), int | float)]
    if not numbers:
        return "an unknown number of"
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
