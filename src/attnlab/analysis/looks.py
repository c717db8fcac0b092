"""How often an experiment was looked at: each look at other runs than before is another chance to be fooled.

A look is told by the runs that were planned, not by time: asking again shows what was seen before, and runs that were
lost and are completed had counted at their worst. Added seeds or variants make another look. `report.looks`, set before
the first run, says how many looks are judged, each at alpha / looks (Bonferroni, so that seeds may be added as the
results suggest); later ones are exploratory. The count stands in manifest.json.
"""

import hashlib
from datetime import UTC, datetime
from typing import NamedTuple

from attnlab.analysis.reading import Experiment
from attnlab.errors import AttnlabError
from attnlab.store.status import Status


class Looks(NamedTuple):
    """Which look this is, how many were declared, and those before it, in words."""

    number: int
    declared: int
    earlier: list[str]
    metrics: tuple[str, ...] = ("",)  # that the family counts: all that were looked at, unless this one was declared
    in_order: int = 0  # up to so many seeds are judged after each of them, which takes no look
    problem: str = ""  # why this one could not be counted

    def __str__(self) -> str:
        return " ".join(filter(None, (self._which, self._metrics)))

    @property
    def _metrics(self) -> str:
        if len(self.metrics) == 1:
            return ""
        return (
            f"{len(self.metrics)} metrics were looked at ({', '.join(self.metrics)}), and this one was not declared "
            "beforehand: the family counts each variant on each of them."
        )

    @property
    def _which(self) -> str:
        if self.in_order and self.number == 1:
            return f"Verdicts hold after any number of seeds, in their order; up to {self.in_order} were declared."
        before = f" Before: {'; '.join(self.earlier)}." if self.earlier else ""
        if self.number > self.declared:
            return (
                f"This is look {self.number} at this experiment, and verdicts are judged in {self.declared} "
                f"(report.looks, before the first run): they are exploratory.{before}"
            )
        if self.declared == 1:
            return "This look is the one that is judged: with seeds or variants added, verdicts are exploratory."
        rest = "; seeds may be added for the next one" if self.number < self.declared else ""
        return f"Look {self.number} of {self.declared}, each of which is judged at alpha/{self.declared}{rest}.{before}"


def take_look(experiment: Experiment, metric: str, *, is_declared: bool) -> Looks:
    """Count this look in the experiment's manifest, and the metric that is looked at; where that cannot be written,
    say so. A metric that was declared before the first result needs no correction for the others."""
    runs = sorted({run.name for run in experiment.runs if run.seed is not None and run.status != Status.REFUSED})
    seeds = len({run.seed for run in experiment.runs if run.seed is not None})
    entry = {
        "set": hashlib.sha256("\n".join(runs).encode()).hexdigest(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": len(runs),
        "seeds": seeds,
    }
    manifest, problem = experiment.folder.manifest, ""
    try:
        entries, metrics = manifest.count_look(entry), manifest.count_metric(metric)
    except AttnlabError as error:
        problem = f"this look could not be counted: {error}"
        entries = manifest.looks()
        entries += [] if any(e["set"] == entry["set"] for e in entries) else [entry]
        metrics = list(dict.fromkeys([*manifest.metrics(), metric]))
    number = 1 + next(i for i, e in enumerate(entries) if e["set"] == entry["set"])
    earlier = [f"{e.get('at')} ({e.get('runs')} runs, {e.get('seeds')} seeds)" for e in entries[: number - 1]]
    return Looks(number, _declared(experiment), earlier, (metric,) if is_declared else tuple(metrics), problem=problem)


def _declared(experiment: Experiment) -> int:
    """What the configs of the runs that started first say."""
    started = [(str(run.summary.get("started", "")), run.report) for run in experiment.runs if run.config]
    first = min((when for when, _ in started), default="")
    looks = [report.get("looks") for when, report in started if when == first]
    return min((n for n in looks if isinstance(n, int) and n >= 1), default=1)
