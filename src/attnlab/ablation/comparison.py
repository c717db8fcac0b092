"""A variant against its baseline, seed by seed, and the one word that comes of it.

Two tests have to agree: the paired t test, and an exact test chosen by the number of seeds before any result is known
(`statistics.exact_test`). The larger p of the two, corrected over the declared family, decides between better, worse
and neither. Where it decides nothing, both tests put one-sided to both ends of a margin that was fixed beforehand may
say equivalent. Where runs are lost, a verdict holds only if it survives their worst case. For a task that is solved or
not, Fisher's exact test on the seeds that solved it decides instead. All else is "cannot tell", which is the answer to
expect from few seeds.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnlab.ablation import statistics
from attnlab.ablation.arms import Arm, BlockDesign
from attnlab.ablation.reading import Run
from attnlab.ablation.statistics import ExactTest, Interval, Pairing, Seeds
from attnlab.store.status import Status

BETTER, WORSE, EQUIVALENT, CANNOT_TELL, NOT_ASKED = "better", "worse", "equivalent", "cannot tell", "not in the family"
LOWER = ("loss", "bits_per_byte", "perplexity", "error", "seconds", "bytes")
HIGHER = ("accuracy", "tokens_per_second", "exact_match", "recall")


def lower_is_better(metric: str) -> bool | None:
    """Which way a metric improves, by the last part of its name; None if the name does not tell."""
    last = metric.rpartition("/")[2]
    return True if last.endswith(LOWER) else False if last.endswith(HIGHER) else None


class Rules(NamedTuple):
    """What was fixed before looking at a result."""

    lower_is_better: bool
    alpha: float
    margin: float | None  # differences smaller than this do not matter; None: nothing is called equivalent
    family: tuple[str, ...] = ()  # the variants whose verdicts are corrected together; empty: all
    is_share: bool = False  # the metric lies between 0 and 1, such as an accuracy
    solved_at: float | None = None  # from which share a task counts as solved; None: what the runs' task declared
    is_planned: bool = True  # a manifest lists the runs; without one, a seed that only one arm has counts as lost
    looks: int = 1  # how many times the experiment may be judged, each at alpha / looks
    look: int = 1  # which look this is; beyond `looks`, verdicts are exploratory

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
class Comparison:
    """What the seeds that both sides finished say. Differences are variant minus baseline, in the metric's unit."""

    arm: Arm
    baseline: Arm
    seeds: list[int]
    lost_seeds: list[int]  # planned, and without a result on one side at least
    differences: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    pairing: Pairing
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
    alpha: float = 0.05  # what the smallest p of the family is held against
    interval_alpha: float = 0.05
    margin: float | None = None
    fewest_seeds: int = 0  # with which a verdict is possible
    exploratory: bool = False  # a later look than those that were declared
    last_look: bool = True  # seeds that are added now cannot be judged any more
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
    def lost(self) -> Counter[str]:
        """Runs of the variant without a result, by what became of them."""
        return Counter(run.status for run in self.arm.runs if run.status != Status.FINISHED)

    @property
    def _has_spread(self) -> bool:
        return self.n > 1 and not statistics.without_spread(self.differences)

    @cached_property
    def bca(self) -> Interval | None:
        """A bootstrap interval beside that of t, from ten seeds on."""
        return (
            statistics.bca_interval(self.differences, self.interval_alpha) if self.n >= statistics.BCA_LEAST else None
        )

    @cached_property
    def detectable(self) -> float | None:
        """The smallest true difference that the t test finds with these seeds 4 times in 5, in the metric's unit."""
        if not self._has_spread or self.exact_test is None or self.solved is not None or self.sd is None:
            return None
        return statistics.detectable_effect(self.n, self.alpha) * self.sd

    @cached_property
    def seeds_needed(self) -> Seeds | None:
        """How many would tell, the true difference being as seen."""
        if self.verdict != CANNOT_TELL or self.solved is not None or not self._has_spread or not self.mean:
            return None
        assert self.sd is not None
        return statistics.seeds_to_tell(self.mean, self.sd, self.n, self.alpha)

    @cached_property
    def seeds_for_equivalence(self) -> Seeds | None:
        """How many would tell, there being no difference."""
        if self.verdict != CANNOT_TELL or self.solved is not None or not self._has_spread or self.margin is None:
            return None
        assert self.sd is not None
        return statistics.seeds_to_be_equivalent(self.margin, self.sd, self.n, self.alpha)


def compare(design: BlockDesign, rules: Rules) -> list[Comparison]:
    """Every arm against the baseline of its block, with a verdict; the family is all of them or those named."""
    pairs = design.pairs()
    asked = [i for i, (arm, _) in enumerate(pairs) if _in_family(arm, rules)]
    m = len(asked)  # a comparison without a result was asked, too
    measured = [_measured(arm, baseline, rules, rules.level / max(1, m)) for arm, baseline in pairs]
    p, q = [measured[i].deciding_p for i in asked], [measured[i].equivalence_p for i in asked]
    corrected = _corrected([*p, *q] if rules.margin is not None else p, m)
    judged = [replace(c, verdict=NOT_ASKED) for c in measured]
    for place, i in enumerate(asked):
        holm_q = corrected[m + place] if rules.margin is not None else None
        judged[i] = _judged(replace(measured[i], holm_p=corrected[place], holm_equivalence_p=holm_q), rules)
    return judged


def _in_family(arm: Arm, rules: Rules) -> bool:
    return not rules.family or bool({arm.label, arm.variant, arm.folder} & {*rules.family})


def _corrected(p: Sequence[float | None], variants: int) -> list[float | None]:
    """Holm over those that have a result, in a family of all. With a margin two questions are asked of each variant:
    that there is no difference, and that there is one as large as the margin. At most one of the two is true."""
    known = statistics.holm([x for x in p if x is not None], len(p), variants)
    return [None if x is None else known.pop(0) for x in p]


def planned_seeds(arm: Arm, baseline: Arm, rules: Rules) -> tuple[list[int], list[int]]:
    """The seeds that both sides finished, and those that were planned and have no pair of results."""
    ours, theirs = (
        {run.seed for run in side.runs if run.seed is not None and run.status != Status.REFUSED}
        for side in (arm, baseline)
    )
    both = arm.finished.keys() & baseline.finished.keys()
    return sorted(both), sorted((ours & theirs if rules.is_planned else ours | theirs) - both)


def _measured(arm: Arm, baseline: Arm, rules: Rules, alpha: float) -> Comparison:
    seeds, lost = planned_seeds(arm, baseline, rules)
    a, b = _values(arm.finished, seeds), _values(baseline.finished, seeds)
    d, n = a - b, len(seeds) + len(lost)
    nothing = Comparison(
        *(arm, baseline, seeds, lost, d, a, Pairing(None, None)),
        alpha=alpha,
        interval_alpha=rules.alpha,
        margin=rules.margin,
        fewest_seeds=statistics.fewest_seeds(alpha),
        exploratory=rules.look > rules.looks,
        last_look=rules.look >= rules.looks,
    )
    if len(seeds) < 2:
        return replace(nothing, mean=float(d[0]) if seeds else None)
    low, high = statistics.t_interval(d, rules.alpha)
    mean, p = float(d.mean()), float(statistics.t_p(d))
    known = replace(
        nothing,
        pairing=statistics.pairing(a, b),
        mean=mean,
        sd=float(d.std(ddof=1)),
        interval=Interval(float(low), float(high)),
        p=p,
    )
    whole = sorted({*seeds, *lost})
    arms = _Arms(_values(arm.finished, whole), _values(baseline.finished, whole), rules)
    at = _solved_at(arm, baseline, rules)
    if at is not None:
        return _by_solved(known, arms, at, alpha)
    test, one_sided = statistics.exact_test(n, alpha), statistics.exact_test(n, alpha, 1)
    q = None if rules.margin is None else arms.equivalence_p(rules.margin, one_sided)
    if test is None:
        return replace(known, deciding_p=1.0, equivalence_p=q)
    exact_p = statistics.exact_p(a, b, test)
    return replace(
        known,
        exact_test=test,
        exact_p=exact_p,
        smallest_exact_p=statistics.smallest_p(test, n),
        deciding_p=max(p, exact_p, arms.worst_p(mean, test) if lost else 0.0),
        equivalence_p=q,
    )


def _values(runs: Mapping[int, Run], seeds: Sequence[int]) -> Float[np.ndarray, " n"]:
    """The final values; nan where there is none."""
    return np.array([runs[seed].final if seed in runs else math.nan for seed in seeds], dtype=np.float64)


class _Arms(NamedTuple):
    """Both sides over all planned seeds, nan where a run is lost."""

    ours: Float[np.ndarray, " n"]
    theirs: Float[np.ndarray, " n"]
    rules: Rules

    @property
    def lost(self) -> Bool[np.ndarray, " n"]:
        return np.isnan(self.ours) | np.isnan(self.theirs)

    def bounded(self, ours: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Lost runs of ours at this end, 0 or 1, and those of theirs at the other."""
        return np.nan_to_num(self.ours, nan=ours), np.nan_to_num(self.theirs, nan=1 - ours)

    def worst_p(self, mean: float, test: ExactTest) -> float:
        """The p of the difference that was seen, where each lost run is as bad for it as can be."""
        higher = mean > 0
        if not self.rules.is_share:
            return statistics.worst_case_p(self.ours, self.theirs, higher, test)
        a, b = self.bounded(0.0 if higher else 1.0)
        return statistics.difference_p(a, b, test) if (a.mean() > b.mean()) == higher else 1.0

    def equivalence_p(self, margin: float, test: ExactTest | None) -> float:
        """The p of both sides of the margin, in the worst case; without bounds no lost run can be close enough."""
        if not self.lost.any():
            return statistics.equivalence_p(self.ours, self.theirs, margin, test)
        if not self.rules.is_share:
            return 1.0
        return max(statistics.equivalence_p(*self.bounded(end), margin, test) for end in (0.0, 1.0))


def _solved_at(arm: Arm, baseline: Arm, rules: Rules) -> float | None:
    """From which share the task counts as solved, if it is one that is solved or not."""
    if not rules.is_share or rules.solved_at is not None:
        return rules.solved_at if rules.is_share else None
    declared = [run.summary.get("solved_at") for side in (arm, baseline) for run in side.finished.values()]
    return next((float(at) for at in declared if isinstance(at, int | float)), None)


def _by_solved(known: Comparison, arms: _Arms, at: float, alpha: float) -> Comparison:
    """The same comparison by how many seeds solved the task: Fisher's test, in the worst case of the lost runs."""
    n, margin = len(arms.ours), known.margin

    def solved(ours: Float[np.ndarray, " _"], theirs: Float[np.ndarray, " _"]) -> tuple[int, int]:
        return int((ours >= at).sum()), int((theirs >= at).sum())

    ends = [solved(*arms.bounded(end)) for end in (0.0, 1.0)]  # lost runs of ours as unsolved, and as solved
    pairs = solved(known.values, known.values - known.differences)
    more = pairs[0] > pairs[1]
    ours, theirs = ends[0] if more else ends[1]
    survives = pairs[0] != pairs[1] and ours != theirs and (ours > theirs) == more
    possible = statistics.smallest_p(statistics.PERMUTATIONS, n)
    p = statistics.fisher_p(ours, theirs, n) if survives else 1.0
    q = None if margin is None else max(statistics.share_equivalence_p(a, b, n, margin) for a, b in ends)
    return replace(
        known,
        solved=SolvedCounts(at, *solved(arms.ours, arms.theirs), n),
        exact_test="Fisher" if possible <= alpha else None,
        exact_p=p,
        smallest_exact_p=possible,
        deciding_p=p,
        equivalence_p=q,
    )


def decide(improved: bool, p: float | None, equivalence_p: float | None, alpha: float) -> str:
    """The word, from the corrected p of both questions."""
    if p is not None and p <= alpha:
        return BETTER if improved else WORSE
    return EQUIVALENT if equivalence_p is not None and equivalence_p <= alpha else CANNOT_TELL


def _judged(c: Comparison, rules: Rules) -> Comparison:
    """The verdict, and what else is to be said."""
    if c.solved is not None:
        improved = c.solved.ours > c.solved.theirs
    else:
        improved = c.mean is not None and (c.mean < 0) == rules.lower_is_better
    verdict, remarks = decide(improved, c.holm_p, c.holm_equivalence_p, rules.level), []
    if c.solved is not None:
        remarks.append(f"solved by {c.solved.ours} seeds against {c.solved.theirs} (at {c.solved.at:g})")
    if c.lost_seeds:
        remarks.append(_lost(c, verdict))
    if c.n < 2:
        remarks.append("no seed in common with the baseline" if not c.seeds else "one seed says nothing of chance")
    elif not c.differences.any():
        remarks.append("the same numbers as the baseline in every seed")
    within = verdict in (BETTER, WORSE) and rules.margin is not None and c.solved is None
    if within and c.mean is not None and rules.margin is not None and abs(c.mean) < rules.margin:
        remarks.append(f"a difference, but within the margin of {rules.margin:g}")
    return replace(c, verdict=verdict, remarks=tuple(remarks))


def _lost(c: Comparison, verdict: str) -> str:
    """How many pairs are lost, by what became of the runs, and what that did to the verdict."""
    fates: list[str] = []
    for side in (c.arm, c.baseline):
        status = {run.seed: run.status for run in side.runs}
        fate = Counter(status.get(seed, "never begun") for seed in c.lost_seeds if seed not in side.finished)
        fates += [f"{count} of {side.label} {what}" for what, count in fate.items()]
    told = f"{len(c.lost_seeds)} of {c.planned} seeds are lost ({', '.join(fates)})"
    return f"{told}; the verdict holds in their worst case" if verdict != CANNOT_TELL else told


class NoiseFloor(NamedTuple):
    """The baseline against itself: what differences mean nothing, pairing apart."""

    n: int
    mean: float
    sd: float
    band: float  # two groups of n runs of the baseline differ by less in mean, with probability 1 - alpha
    largest: float  # the largest difference between two of its runs


def noise_floor(baseline: Arm, alpha: float) -> NoiseFloor | None:
    """The A/A noise floor of a baseline; None below two runs."""
    values = np.array([run.final for run in baseline.finished.values()], dtype=np.float64)
    if len(values) < 2:
        return None
    band = statistics.noise_band(values, len(values), alpha)
    return NoiseFloor(len(values), float(values.mean()), float(values.std(ddof=1)), band, float(np.ptp(values)))
