"""A variant against its baseline, as the seeds that both finished tell it: the numbers, and the one word."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from attnlab.analysis import power, statistics
from attnlab.analysis.power import MOST_SEEDS, Seeds
from attnlab.analysis.samples import Bounds, Sample
from attnlab.analysis.statistics import Interval, SeedPairing

BETTER, WORSE, EQUIVALENT, CANNOT_TELL, NOT_ASKED = "better", "worse", "equivalent", "cannot tell", "not in the family"
HIGHER, LOWER = "higher", "lower"  # where neither way is better
FEW_SEEDS = 4  # below, a verdict says on how few it rests
ENOUGH_FOR_A_SPREAD = 6  # seeds; below, what would be needed is known as a range at best

A = TypeVar("A", bound=Sample)


class Rules(NamedTuple):
    """What was fixed before looking at a result."""

    lower_is_better: bool
    alpha: float
    margin: float | None  # differences smaller than this do not matter; None: nothing is called equivalent
    family: tuple[str, ...] = ()  # the variants whose verdicts are corrected together; empty: all
    bounds: Bounds | None = None  # between which the metric lies, such as 0 and 1 for an accuracy
    solved_at: float | None = None  # from which share a task counts as solved; None: what the arms declare
    is_planned: bool = True  # which runs were planned is known; if not, a seed that only one arm has counts as lost
    looks: int = 1  # how many times the experiment may be judged, each at alpha / looks
    look: int = 1  # which look this is; beyond `looks`, verdicts are exploratory
    solvable: bool = True  # whether a share may be that of a task that is solved from some value on
    censored: bool = False  # whether results are steps, inf where what was waited for never came
    judges: bool = True  # whether one way is better
    sequential: bool = False  # whether it is judged after each seed, in their order
    metrics: int = 1  # how many were looked at, of which none was declared beforehand: each is asked of each variant

    @property
    def directions(self) -> tuple[str, str]:
        """What a difference is called that points the right way, and the wrong one."""
        return (BETTER, WORSE) if self.judges else (LOWER, HIGHER) if self.lower_is_better else (HIGHER, LOWER)

    @property
    def level(self) -> float:
        """What the corrected p of this look are held against."""
        return self.alpha / self.looks


class SolvedCounts(NamedTuple):
    """How many of n seeds solved the task, at what threshold; lost runs on neither side."""

    at: float
    ours: int
    theirs: int
    n: int


@dataclass(frozen=True)
class Comparison(Generic[A]):
    """What the seeds that both sides finished say. Differences are variant minus baseline, in the metric's unit."""

    arm: A
    baseline: A
    seeds: list[int]
    lost_seeds: list[int]  # planned, and without a result on one side at least
    differences: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    pairing: SeedPairing
    verdict: str = CANNOT_TELL
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    p: float | None = None  # of the paired t test
    exact_test: str | None = None  # sign flips, permutations or Fisher; None: no verdict is possible
    exact_p: float | None = None
    smallest_exact_p: float | None = None  # what it could be at best
    deciding_p: float | None = None  # what is corrected: the larger one, in the worst case of the lost runs
    holm_p: float | None = None
    equivalence_p: float | None = None
    holm_equivalence_p: float | None = None
    solved: SolvedCounts | None = None
    rank_sum: float | None = None  # of steps: which way they point, though some were never reached
    alpha: float = 0.05  # what the smallest p of the family is held against
    interval_alpha: float = 0.05
    margin: float | None = None
    fewest_seeds: int = 0  # with which a verdict is possible
    exploratory: bool = False  # a later look than those that were declared
    last_look: bool = True  # seeds that are added now cannot be judged any more
    sequential: bool = False  # judged after each seed: the interval and the exact p hold at any stopping time
    remarks: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()  # what stands in its line: that it goes by what was not declared, or was not equal

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def planned(self) -> int:
        """Seeds, with those that are lost."""
        return len(self.seeds) + len(self.lost_seeds)

    @property
    def word(self) -> str:
        """The verdict as a report says it."""
        return f"{self.verdict}, exploratory" if self.exploratory and self.verdict != NOT_ASKED else self.verdict

    @property
    def sentence(self) -> str:
        """The verdict, and where it cannot tell, how many seeds could.

        Who adds seeds after the last look that counts has no verdict to expect, so what is said then is no advice:
        "would have".
        """
        if self.verdict != CANNOT_TELL:
            doubtful = self.verdict != NOT_ASKED and self.n < FEW_SEEDS
            return f"{self.word} (on {self.n} seeds only)" if doubtful else self.word
        if self.exact_test is None and self.n > 1:
            few = f"no verdict is possible with {self.planned} seeds; {self.fewest_seeds} are the fewest"
            return f"{CANNOT_TELL} ({few})"
        would, call = ("would have", "called") if self.last_look else ("would", "call")
        options = []
        if self.seeds_needed is not None:
            options.append(f"{_seeds(self.seeds_needed, self.n)} {would}, if the difference is as seen")
        if self.seeds_for_equivalence is not None:
            needed = _seeds(self.seeds_for_equivalence, self.n)
            options.append(f"{needed} {would} {call} it equivalent, if there is none")
        return f"{self.word} ({'; '.join(options)})" if options else self.word

    @property
    def line(self) -> str:
        """The sentence, and what it goes by that was not declared or not equal."""
        return "; ".join([self.sentence, *self.marks])

    @property
    def _has_spread(self) -> bool:
        return self.n > 1 and self.sd is not None and not statistics.without_spread(self.differences)

    @cached_property
    def bca(self) -> Interval | None:
        """A bootstrap interval beside that of t, from ten seeds on."""
        return (
            statistics.bca_interval(self.differences, self.interval_alpha)
            if self.n >= statistics.BCA_LEAST and self.interval is not None
            else None
        )

    @cached_property
    def detectable(self) -> float | None:
        """The smallest true difference that the t test finds with these seeds 4 times in 5, in the metric's unit."""
        if (
            not self._has_spread
            or self.exact_test is None
            or self.sequential
            or self.solved is not None
            or self.sd is None
        ):
            return None
        return power.detectable_effect(self.n, self.alpha) * self.sd

    @cached_property
    def seeds_needed(self) -> Seeds | None:
        """How many would tell, the true difference being as seen."""
        if self.verdict != CANNOT_TELL or self.sequential or self.solved is not None:
            return None
        if not self._has_spread or not self.mean:
            return None
        assert self.sd is not None
        return power.seeds_to_tell(self.mean, self.sd, self.n, self.alpha)

    @cached_property
    def seeds_for_equivalence(self) -> Seeds | None:
        """How many would tell, there being no difference."""
        if self.verdict != CANNOT_TELL or self.sequential or self.solved is not None:
            return None
        if not self._has_spread or self.margin is None:
            return None
        assert self.sd is not None
        return power.seeds_to_be_equivalent(self.margin, self.sd, self.n, self.alpha)


def _seeds(seeds: Seeds, n: int) -> str:
    """How many seeds: first the number for the spread as seen, or with few seeds the range that the spread leaves."""
    low, as_seen, high = (
        f"more than {MOST_SEEDS:,}" if x is None else str(x) for x in (seeds.low, seeds.as_seen, seeds.high)
    )
    span = low if low == high else f"{low} to {high}"
    if n < ENOUGH_FOR_A_SPREAD:
        return f"{span} seeds ({as_seen} for the spread as seen)"
    return f"{as_seen} seeds ({span} for what the spread may be)"


class NoiseFloor(NamedTuple):
    """The baseline against itself: what differences mean nothing, pairing apart."""

    n: int
    mean: float
    sd: float
    band: float  # two groups of n runs of the baseline differ by less in mean, with probability 1 - alpha
    largest: float  # the largest difference between two of its runs


def noise_floor(results: Mapping[int, float], alpha: float) -> NoiseFloor | None:
    """The A/A noise floor of a baseline, from its results by seed; None below two, or where one is inf."""
    values = np.array(list(results.values()), dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    band = statistics.noise_band(values, len(values), alpha)
    return NoiseFloor(len(values), float(values.mean()), float(values.std(ddof=1)), band, float(np.ptp(values)))
