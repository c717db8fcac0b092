"""Verdicts on plain numbers: no folders, no torch, the same code that a report goes through."""

import io
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from rich.console import Console

from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import Comparison, NoiseFloor, Rules, noise_floor
from attnlab.analysis.report.tables import draw, verdicts_table
from attnlab.analysis.samples import Bounds, Sample
from attnlab.errors import UsageError, nearest
from attnlab.store.terms import LEAST_ALPHA, MOST_ALPHA, MOST_MARGIN, is_alpha, is_margin

BASELINE = "baseline"
WIDTH = 140  # of the table as text

Seeds = Mapping[int, float]


@dataclass(frozen=True)
class Verdicts(Mapping[str, Comparison[Sample]]):
    """The verdict of each variant, by its name. Prints as a table, with what else is to be said below it."""

    comparisons: dict[str, Comparison[Sample]]
    rules: Rules
    noise_floor: NoiseFloor | None  # the baseline against itself; None below two seeds

    def __getitem__(self, variant: str) -> Comparison[Sample]:
        return self.comparisons[variant]

    def __iter__(self) -> Iterator[str]:
        return iter(self.comparisons)

    def __len__(self) -> int:
        return len(self.comparisons)

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDTH)
        draw(verdicts_table(self.comparisons.values()), console)
        for name, comparison in self.comparisons.items():
            for remark in comparison.remarks:
                console.print(f"- {name}: {remark}", markup=False, highlight=False)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().strip("\n")

    __repr__ = __str__


def verdict(
    baseline: Seeds,
    variants: Mapping[str, Seeds],
    *,
    better: str = "lower",
    margin: float | None = None,
    alpha: float = 0.05,
    family: Collection[str] = (),
    lost: Mapping[str, Collection[int]] | None = None,
    bounds: Bounds | None = None,
    solved: float | None = None,
    looks: int = 1,
    look: int = 1,
    sequential: bool = False,
) -> Verdicts:
    """What the seeds can tell of each variant against a baseline: better, worse, equivalent or cannot tell.

    `baseline` is the final result of each seed, `variants` those of each variant by its name; results of one seed are a
    pair. A result that is nan or infinite is that of a lost run.

    `better` says which way the metric improves. Nothing is called equivalent without a `margin`, a difference too small
    to matter, in the metric's unit. `alpha` is how often the whole `family` (left out: all variants) may hold a false
    verdict. `lost` names the seeds that were planned and have no result, by variant, and those of the baseline as
    "baseline"; with it, a seed that only one side has was never planned for the other. Left out, such a seed counts as
    lost. Lost runs count at their worst: by rank, or at `bounds`, the least and the largest that the metric can be,
    such as (0, 1).

    With `solved`, the task is solved or not from this value on: Fisher's exact test on the counts decides, and the
    margin is one of shares. `look` is the number of this look at the experiment and `looks` how many were declared
    before the first, each judged at alpha / looks. With `sequential`, seeds were added one after the other, in their
    order, and whether to go on was decided by what they gave: verdicts and intervals hold at any stopping time.

    Raises UsageError for what makes no sense. The method is that of docs/verdicts.md.
    """
    if better not in ("lower", "higher"):
        raise UsageError(f"better ({better}) must be lower | higher")
    if not is_alpha(alpha):
        raise UsageError(f"alpha ({alpha:g}) must be a number of at least {LEAST_ALPHA:g}, below {MOST_ALPHA}")
    if margin is not None and not is_margin(margin):
        raise UsageError(f"margin ({margin:g}) must be null or a number above 0, at most {MOST_MARGIN:g}")
    if looks < 1 or look < 1:
        raise UsageError(f"look ({look}) and looks ({looks}) must be at least 1")
    if solved is not None and better != "higher":
        raise UsageError("solved needs better='higher': a run has solved its task from that value on")
    _check_names(variants, family, lost or {})
    bounds = (0.0, 1.0) if bounds is None and solved is not None else bounds
    arms = {
        name: _sample(name, results, (lost or {}).get(name, ()), bounds)
        for name, results in {BASELINE: baseline, **variants}.items()
    }
    rules = Rules(
        *(better == "lower", alpha, margin, tuple(family), bounds, solved, lost is not None, looks, look),
        sequential=sequential,
    )
    pairs = [(arms[name], arms[BASELINE]) for name in variants]
    comparisons = {c.arm.label: c for c in compare(pairs, rules)}
    return Verdicts(comparisons, rules, noise_floor(arms[BASELINE].results, alpha))


def _check_names(variants: Mapping[str, Seeds], family: Collection[str], lost: Mapping[str, Collection[int]]) -> None:
    """Refuse a family or lost runs of variants that are not there."""
    if not variants or BASELINE in variants:
        raise UsageError(f"variants ({', '.join(variants)}) must hold at least one, and none called {BASELINE}")
    for key, names, options in (("family", family, [*variants]), ("lost", lost, [BASELINE, *variants])):
        if isinstance(names, str):
            raise UsageError(f"{key} ({names}) must hold names, such as [{names!r}]")
        for name in names:
            if name not in options:
                near = nearest(str(name), options)
                raise UsageError(f"{key} ({name}) is no variant{near} (choose from: {', '.join(options)})")


def _sample(name: str, results: Seeds, lost: Collection[int], bounds: Bounds | None) -> Sample:
    """An arm; what is no number is lost."""
    if both := [seed for seed in lost if math.isfinite(results.get(seed, math.nan))]:
        raise UsageError(f"lost ({name}: {both[0]}) has a result: {results[both[0]]:g}")
    finite = {seed: float(value) for seed, value in results.items() if math.isfinite(value)}
    if bounds is not None:
        low, high = bounds
        outside = [(seed, value) for seed, value in finite.items() if not low <= value <= high]
        for seed, value in outside:
            raise UsageError(f"{name} ({value:g} at seed {seed}) must lie within bounds ({low:g} to {high:g})")
    diverged = {seed: "diverged" for seed in results if seed not in finite}
    return Sample(name, finite, {**diverged, **dict.fromkeys(lost, "lost")})
