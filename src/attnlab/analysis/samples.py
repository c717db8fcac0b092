"""The results of arms as numbers: what their seeds came to, which are lost, and how bad those may have been."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnlab.analysis import exact_tests
from attnlab.analysis.exact_tests import ExactTest

Bounds = tuple[float, float]  # the least and the largest that a metric can be


@dataclass(frozen=True)
class Sample:
    """An arm as numbers: what its seeds came to."""

    label: str
    results: Mapping[int, float] = field(repr=False)  # the final value of each seed that has one
    lost: Mapping[int, str] = field(default_factory=dict)  # planned seeds that have none, and what became of them
    solved_at: float | None = None  # from which value a run has solved its task, if that was declared

    @property
    def names(self) -> frozenset[str]:
        """All that a family may call it."""
        return frozenset({self.label})

    @property
    def title(self) -> str:
        """Its label, with the setting that it was compared in, if there are several."""
        return self.label


def paired_seeds(ours: Sample, theirs: Sample, *, is_planned: bool) -> tuple[list[int], list[int]]:
    """The seeds that both sides finished, and those that were planned and have no pair of results.

    Where nobody told what was planned (`is_planned` False), a seed that only one side has counts as lost.
    """
    a, b = ({*side.results, *side.lost} for side in (ours, theirs))
    both = ours.results.keys() & theirs.results.keys()
    return sorted(both), sorted((a & b if is_planned else a | b) - both)


def values(sample: Sample, seeds: Sequence[int]) -> Float[np.ndarray, " n"]:
    """The final values; nan where there is none."""
    return np.array([sample.results.get(seed, math.nan) for seed in seeds], dtype=np.float64)


class PlannedPairs(NamedTuple):
    """Both sides over all planned seeds, nan where a run is lost."""

    ours: Float[np.ndarray, " n"]
    theirs: Float[np.ndarray, " n"]
    bounds: Bounds | None

    @property
    def lost(self) -> Bool[np.ndarray, " n"]:
        return np.isnan(self.ours) | np.isnan(self.theirs)

    def ends(self) -> tuple[Bounds, Bounds]:
        """What lost runs count as, ours and theirs: ours as bad as can be, and ours as good."""
        low, high = self.bounds or (-math.inf, math.inf)
        return (low, high), (high, low)

    def filled(self, end: Bounds) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Both sides, lost runs at one of the two ends."""
        return np.nan_to_num(self.ours, nan=end[0]), np.nan_to_num(self.theirs, nan=end[1])

    def worst_p(self, mean: float, test: ExactTest) -> float:
        """The p of the difference that was seen, where each lost run is as bad for it as can be: at the metric's
        bound, or by rank where it has none."""
        higher = mean > 0
        if self.bounds is None:
            return exact_tests.worst_case_p(self.ours, self.theirs, higher, test)
        low, high = self.ends()
        a, b = self.filled(low if higher else high)
        return exact_tests.difference_p(a, b, test) if (a.mean() > b.mean()) == higher else 1.0

    def equivalence_p(self, margin: float, test: ExactTest | None) -> float:
        """The p of both sides of the margin, in the worst case; without bounds no lost run can be close enough."""
        if not self.lost.any():
            return exact_tests.equivalence_p(self.ours, self.theirs, margin, test)
        if self.bounds is None:
            return 1.0
        return max(exact_tests.equivalence_p(*self.filled(end), margin, test) for end in self.ends())

    def solved(self, at: float, end: Bounds) -> tuple[int, int]:
        """How many seeds of each side solved the task, lost runs at one of the two ends."""
        ours, theirs = self.filled(end)
        return int((ours >= at).sum()), int((theirs >= at).sum())
