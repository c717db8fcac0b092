"""Ends a sweep early: which runs are not needed any more, because all verdicts are known after the seeds so far."""

from collections.abc import Iterator, Sequence

from attnlab.analysis.analyse import analyse
from attnlab.analysis.comparison import CANNOT_TELL
from attnlab.analysis.settings import Options
from attnlab.errors import AttnlabError
from attnlab.store.status import ENDED, Status
from attnlab.sweep.plan import PlannedRun
from attnlab.sweep.reporting import by_experiment, settings

OVER = (*ENDED, Status.FAILED)


class EarlyStopping:
    """Judges each experiment that asks for it (report.sequential) when another seed has ended in all its settings.

    Seeds count in the order of their numbers, whichever is ready first.
    """

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        experiments = by_experiment(runs)
        self.experiments = {path: each for path, each in experiments.items() if settings(each).sequential}
        self.judged = dict.fromkeys(self.experiments, 0)

    def unneeded(self) -> Iterator[PlannedRun]:
        """The runs that need not begin; each is given once."""
        for experiment, runs in self.experiments.items():
            seeds = _ended(runs)
            if len(seeds) <= self.judged[experiment]:
                continue
            self.judged[experiment] = len(seeds)
            left = [run for run in runs if run.status == Status.PLANNED]
            if not left or not _known(runs):
                continue
            for run in left:
                run.status, run.reason = Status.UNNEEDED, f"all verdicts were known after {len(seeds)} seeds"
                yield run


def _ended(runs: Sequence[PlannedRun]) -> list[int]:
    """The seeds that have ended in all settings, up to the first that has not."""
    seeds = sorted({run.identity.seed for run in runs})
    open_seeds = {run.identity.seed for run in runs if run.status not in OVER}
    return [seed for seed in seeds if seed < min(open_seeds, default=seed + 1)]


def _known(runs: Sequence[PlannedRun]) -> bool:
    """Whether every variant has its verdict."""
    try:
        report = analyse(runs[0].experiment.path, Options(code=runs[0].job.config.code), counts=False)
    except AttnlabError:  # nothing to compare yet
        return False
    return bool(report.comparisons) and all(c.verdict != CANNOT_TELL for c in report.comparisons)
