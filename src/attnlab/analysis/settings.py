"""What a report goes by, resolved once: typed over preregistered over declared by the sweep over the default."""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any, NamedTuple

from attnlab.analysis.metric_names import IN_SUMMARY, PER_TOKEN
from attnlab.analysis.reading import Experiment
from attnlab.config.metric_kinds import parse_metric
from attnlab.store.preregistration import Preregistration
from attnlab.store.status import Status

METRIC_OF_TASKS = "val/accuracy"  # where every run is of a task that is solved or not
USUAL_METRIC, USUAL_ALPHA = PER_TOKEN, 0.05
USUALLY_SOLVED = 0.99  # an accuracy from which a task counts as solved


class Options(NamedTuple):
    """What was typed; None and an empty family leave it to what was preregistered or declared."""

    baseline: str | None = None
    metric: str | None = None
    margin: float | None = None
    alpha: float | None = None
    family: tuple[str, ...] = ()
    solved: float | None = None
    code: str = "same"  # any: runs that differ in nothing but seed and code are averaged


class Settings(NamedTuple):
    """What a report goes by."""

    metric: str
    baseline: str | None  # None: nobody named one
    margin: float | None
    alpha: float
    family: tuple[str, ...]  # empty: all variants


def resolve(typed: Options, registered: Preregistration | None, experiment: Experiment | None) -> Settings:
    """The settings of a report; without an experiment what is known before it is read."""
    layers: list[dict[str, Any]] = [
        {key: value for key, value in typed._asdict().items() if value not in (None, ())},
        {} if registered is None else registered._asdict(),
        {} if experiment is None else declared_settings(experiment),
        {"metric": usual_metric(experiment), "baseline": None, "margin": None, "alpha": USUAL_ALPHA, "family": ()},
    ]
    chosen = ChainMap(*layers)
    return Settings(**{key: chosen[key] for key in Settings._fields})._replace(family=tuple(chosen["family"]))


def usual_metric(experiment: Experiment | None) -> str:
    """The metric of runs that nobody declared one for."""
    if experiment is None:
        return USUAL_METRIC
    summaries = [run.summary for run in experiment.runs if run.summary.get("status") == "finished"]
    declared = [summary.get("solved_at") for summary in summaries]
    return METRIC_OF_TASKS if declared and None not in declared else USUAL_METRIC


def solved_from(experiment: Experiment, typed: float | None = None) -> float | None:
    """From which value seeds are counted as having solved the task: typed, or declared by the task, or the usual."""
    declared = [run.summary.get("solved_at") for run in experiment.runs if run.status == Status.FINISHED]
    usual = next((float(at) for at in declared if isinstance(at, int | float)), USUALLY_SOLVED)
    return typed if typed is not None else usual if parse_metric(experiment.metric).solvable else None


def declared_settings(experiment: Experiment) -> dict[str, Any]:
    """What the sweep's manifest says of metric, margin and alpha, by itself or within its design.

    A metric may be called as in summary.json there. The baseline it names may have failed: see `choose_baseline`.
    """
    design = experiment.declared.get("design")
    declared = ChainMap(dict(experiment.declared), dict(design) if isinstance(design, Mapping) else {})
    numbers = {key: declared.get(key) for key in ("margin", "alpha")}
    settings: dict[str, Any] = {
        key: float(value) for key, value in numbers.items() if isinstance(value, int | float) and value > 0
    }
    if isinstance(metric := declared.get("metric"), str):
        settings["metric"] = IN_SUMMARY.get(metric, metric)
    return settings
