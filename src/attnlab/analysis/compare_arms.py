"""From the numbers of arms to a verdict for each.

Two tests have to agree: the paired t test, and an exact test chosen by the number of seeds before any result is known
(`exact_tests.exact_test`). The larger p of the two, corrected over the declared family, decides between better, worse
and neither. Where it decides nothing, both tests put one-sided to both ends of a margin that was fixed beforehand may
say equivalent. Where runs are lost, a verdict holds only if it survives their worst case. For a task that is solved or
not, Fisher's exact test on the seeds that solved it decides instead. All else is "cannot tell", which is the answer to
expect from few seeds. Steps at which something was reached, or never, are compared by signed ranks.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attnlab.analysis import exact_tests, sequential, statistics
from attnlab.analysis.comparison import (
    CANNOT_TELL,
    EQUIVALENT,
    NOT_ASKED,
    A,
    Comparison,
    Rules,
    SolvedCounts,
)
from attnlab.analysis.samples import PlannedPairs, Sample, paired_seeds, values
from attnlab.analysis.statistics import Interval, SeedPairing
from attnlab.store.status import Status

WIDER = 3  # so many times as widely as another, an arm is of another law
PENDING = (Status.PLANNED, Status.RUNNING, Status.UNFINISHED)  # what may still come to a result


def compare(pairs: Sequence[tuple[A, A]], rules: Rules) -> list[Comparison[A]]:
    """Every arm against its baseline, with a verdict; the family is all of them or those named."""
    asked = [i for i, (arm, _) in enumerate(pairs) if not rules.family or arm.names & {*rules.family}]
    m = len(asked)  # a comparison without a result was asked, too
    asked_in_all = m * rules.metrics
    measured = [_measure(arm, baseline, rules, rules.level / max(1, asked_in_all)) for arm, baseline in pairs]
    p, q = [measured[i].deciding_p for i in asked], [measured[i].equivalence_p for i in asked]
    corrected = _correct([*p, *q] if rules.margin is not None else p, rules.metrics, asked_in_all)
    judged = [replace(c, verdict=NOT_ASKED) for c in measured]
    for row, i in enumerate(asked):
        holm_q = corrected[m + row] if rules.margin is not None else None
        judged[i] = _judge(replace(measured[i], holm_p=corrected[row], holm_equivalence_p=holm_q), rules)
    return judged


def _correct(p: Sequence[float | None], metrics: int, most_true: int) -> list[float | None]:
    """Holm over those that have a result, in a family of all, on each metric that was looked at. With a margin two
    questions are asked of each variant: that there is no difference, and that there is one as large as the margin. At
    most one of the two is true."""
    corrected = statistics.holm([x for x in p if x is not None], len(p) * metrics, most_true)
    return [None if x is None else corrected.pop(0) for x in p]


def _measure(arm: A, baseline: A, rules: Rules, alpha: float) -> Comparison[A]:
    """All numbers of one comparison, before correction and verdict."""
    seeds, lost = paired_seeds(arm, baseline, is_planned=rules.is_planned)
    if rules.sequential:
        seeds, lost = _entered(arm, baseline, seeds, lost)
    a, b = values(arm, seeds), values(baseline, seeds)
    d, n = exact_tests.paired_differences(a, b), len(seeds) + len(lost)
    empty = Comparison(
        *(arm, baseline, seeds, lost, d, a, SeedPairing(None, None)),
        alpha=alpha,
        interval_alpha=rules.alpha,
        margin=rules.margin,
        fewest_seeds=exact_tests.fewest_seeds(alpha),
        exploratory=rules.look > rules.looks,
        last_look=rules.look >= rules.looks,
        sequential=rules.sequential,
    )
    whole = sorted({*seeds, *lost})
    if len(seeds) < 2:
        return replace(empty, mean=float(d[0]) if seeds else None)
    if rules.sequential:
        pairs = PlannedPairs(values(arm, whole), values(baseline, whole), rules.bounds)
        return _compare_in_order(empty, pairs, _solved_at(arm, baseline, rules), rules)
    if rules.censored:
        return _compare_steps(empty, PlannedPairs(values(arm, whole), values(baseline, whole), None))
    low, high = statistics.t_interval(d, rules.alpha)
    mean, p = float(d.mean()), float(statistics.t_p(d))
    measured = replace(
        empty,
        pairing=statistics.pairing(a, b),
        mean=mean,
        sd=float(d.std(ddof=1)),
        interval=Interval(float(low), float(high)),
        p=p,
    )
    pairs = PlannedPairs(values(arm, whole), values(baseline, whole), rules.bounds)
    at = _solved_at(arm, baseline, rules)
    if at is not None:
        return _compare_solved(measured, pairs, at, alpha)
    test, one_sided = exact_tests.exact_test(n, alpha), exact_tests.exact_test(n, alpha, 1)
    q = None if rules.margin is None else pairs.equivalence_p(rules.margin, one_sided)
    if test is None:
        return replace(measured, deciding_p=1.0, equivalence_p=q)
    exact_p = exact_tests.exact_p(a, b, test)
    return replace(
        measured,
        exact_test=test,
        exact_p=exact_p,
        smallest_exact_p=exact_tests.smallest_p(test, n),
        deciding_p=max(p, exact_p, pairs.worst_p(mean, test) if lost else 0.0),
        equivalence_p=q,
    )


def _entered(arm: A, baseline: A, seeds: list[int], lost: list[int]) -> tuple[list[int], list[int]]:
    """Seeds enter in their order: none before one that has not ended yet."""
    pending = [seed for side in (arm, baseline) for seed, fate in side.lost.items() if fate in PENDING]
    first = min(pending, default=math.inf)
    return [seed for seed in seeds if seed < first], [seed for seed in lost if seed < first]


def _compare_in_order(empty: Comparison[A], pairs: PlannedPairs, at: float | None, rules: Rules) -> Comparison[A]:
    """The comparison after each seed, by bets on the signs of the differences; of a task that is solved or not, of
    whether it was solved."""
    d, alpha, margin, counts = empty.differences, empty.alpha, empty.margin, None
    whole = exact_tests.paired_differences(pairs.ours, pairs.theirs)
    if at is not None:
        solved = [np.where(np.isnan(side), np.nan, (side >= at).astype(float)) for side in (pairs.ours, pairs.theirs)]
        whole = solved[0] - solved[1]
        ours, theirs = (int(np.nansum(side)) for side in solved)
        counts = SolvedCounts(at, ours, theirs, len(whole))
    p = sequential.sequential_p(whole, alpha)
    possible, all_came = sequential.fewest_seeds(alpha) <= len(whole), bool(np.isfinite(d).all())
    return replace(
        empty,
        mean=float(d.mean()) if all_came else None,
        sd=float(d.std(ddof=1)) if all_came else None,
        pairing=statistics.pairing(empty.values, empty.values - d) if all_came else empty.pairing,
        interval=sequential.confidence_interval(d, rules.alpha) if all_came and not empty.lost_seeds else None,
        solved=counts,
        rank_sum=float(exact_tests.signed_ranks(d).sum()) if rules.censored else None,
        exact_test="bets on signs" if possible else None,
        exact_p=float(p[-1]),
        smallest_exact_p=max(alpha, 2.0 ** (1 - len(whole))),
        deciding_p=float(p[-1]),
        equivalence_p=None if margin is None else sequential.sequential_equivalence_p(whole, margin, alpha),
        fewest_seeds=sequential.fewest_seeds(alpha),
        remarks=(f"known after {int((p <= alpha).argmax()) + 1} of {len(p)} seeds",) if p[-1] <= alpha else (),
    )


def _compare_steps(empty: Comparison[A], pairs: PlannedPairs) -> Comparison[A]:
    """The comparison of steps, inf where what was waited for never came: sign flips of signed ranks. A mean and a
    verdict of equivalence need that it came in all runs."""
    n, alpha, margin = len(pairs.ours), empty.alpha, empty.margin
    d, test = empty.differences, exact_tests.SIGN_FLIPS
    ranks = exact_tests.signed_ranks(d)
    points = float(ranks.sum())
    all_came = bool(np.isfinite([pairs.ours, pairs.theirs]).all())
    p, least = exact_tests.sign_flip_p(ranks), exact_tests.smallest_p(test, n)
    worst = exact_tests.worst_signed_ranks_p(pairs.ours, pairs.theirs, points > 0) if empty.lost_seeds else 0.0
    one_sided = test if exact_tests.smallest_p(test, n, 1) <= alpha else None
    possible = least <= alpha
    return replace(
        empty,
        mean=float(d.mean()) if np.isfinite(d).all() else None,
        rank_sum=points,
        exact_test="signed ranks" if possible else None,
        exact_p=p,
        smallest_exact_p=least,
        deciding_p=max(p, worst) if possible else 1.0,
        equivalence_p=None if margin is None else pairs.equivalence_p(margin, one_sided) if all_came else 1.0,
        fewest_seeds=exact_tests.fewest_seeds(alpha, test=test),
    )


def _solved_at(arm: Sample, baseline: Sample, rules: Rules) -> float | None:
    """From which share the task counts as solved, if it is one that is solved or not."""
    if rules.bounds is None or not rules.solvable:
        return None
    declared = (rules.solved_at, arm.solved_at, baseline.solved_at)
    return next((at for at in declared if at is not None), None)


def _compare_solved(measured: Comparison[A], pairs: PlannedPairs, at: float, alpha: float) -> Comparison[A]:
    """The same comparison by how many seeds solved the task: Fisher's test, in the worst case of the lost runs."""
    n, margin = len(pairs.ours), measured.margin
    low, high = pairs.ends()
    ends = [pairs.solved(at, end) for end in (low, high)]  # lost runs of ours as unsolved, and as solved
    both = PlannedPairs(measured.values, measured.values - measured.differences, pairs.bounds).solved(at, low)
    more = both[0] > both[1]
    ours, theirs = ends[0] if more else ends[1]
    survives = both[0] != both[1] and ours != theirs and (ours > theirs) == more
    possible = exact_tests.smallest_p(exact_tests.PERMUTATIONS, n)
    p = exact_tests.fisher_p(ours, theirs, n) if survives else 1.0
    q = None if margin is None else max(exact_tests.share_equivalence_p(a, b, n, margin) for a, b in ends)
    unsolved = int((pairs.ours >= at).sum()), int((pairs.theirs >= at).sum())
    return replace(
        measured,
        solved=SolvedCounts(at, *unsolved, n),
        exact_test="Fisher" if possible <= alpha else None,
        exact_p=p,
        smallest_exact_p=possible,
        deciding_p=p,
        equivalence_p=q,
    )


def decide(improved: bool, p: float | None, equivalence_p: float | None, rules: Rules) -> str:
    """The word, from the corrected p of both questions."""
    alpha = rules.level
    if p is not None and p <= alpha:
        return rules.directions[0 if improved else 1]
    return EQUIVALENT if equivalence_p is not None and equivalence_p <= alpha else CANNOT_TELL


def _judge(c: Comparison[A], rules: Rules) -> Comparison[A]:
    """The verdict, and what else is to be said."""
    if c.solved is not None:
        improved = c.solved.ours > c.solved.theirs
    else:
        points = c.mean if c.rank_sum is None else c.rank_sum
        improved = points is not None and (points < 0) == rules.lower_is_better
    verdict, remarks = decide(improved, c.holm_p, c.holm_equivalence_p, rules), list(c.remarks)
    if c.solved is not None:
        remarks.append(f"solved by {c.solved.ours} seeds against {c.solved.theirs} (at {c.solved.at:g})")
    if c.lost_seeds:
        remarks.append(_lost(c, verdict))
    if c.n < 2:
        remarks.append("no seed in common with the baseline" if not c.seeds else "one seed says nothing of chance")
    elif not c.differences.any():
        remarks.append("the same numbers as the baseline in every seed")
    if c.rank_sum is not None:
        ours, theirs = (sum(map(math.isfinite, side.results.values())) for side in (c.arm, c.baseline))
        remarks.append(f"reached by {ours} of {len(c.arm.results)} seeds against {theirs} of {len(c.baseline.results)}")
    if verdict in rules.directions and c.exact_test == exact_tests.PERMUTATIONS:
        remarks += _spreads(c)
    within = verdict in rules.directions and rules.margin is not None and c.solved is None
    if within and c.mean is not None and rules.margin is not None and abs(c.mean) < rules.margin:
        remarks.append(f"a difference, but within the margin of {rules.margin:g}")
    return replace(c, verdict=verdict, remarks=tuple(remarks))


def _spreads(c: Comparison[A]) -> list[str]:
    """What a verdict by permutations rests on where the arms differ in spread: they are not of one law then, and what
    is left is the t test, whose level is that of normal differences."""
    low, high = sorted(float(side.std(ddof=1)) for side in (c.values, c.values - c.differences))
    if high < WIDER * low:
        return []
    fold = f"{high / low:.3g} times" if low else "infinitely"
    need = exact_tests.fewest_seeds(c.alpha, test=exact_tests.SIGN_FLIPS)
    return [f"one arm scatters {fold} as widely: right if results are roughly normal; {need} seeds need no such law"]


def _lost(c: Comparison[A], verdict: str) -> str:
    """How many pairs are lost, by what became of the runs, and what that did to the verdict."""
    fates: list[str] = []
    for side in (c.arm, c.baseline):
        fate = Counter(side.lost.get(seed, "never begun") for seed in c.lost_seeds if seed not in side.results)
        fates += [f"{count} of {side.label} {what}" for what, count in fate.items()]
    summary = f"{len(c.lost_seeds)} of {c.planned} seeds are lost ({', '.join(fates)})"
    return f"{summary}; the verdict holds in their worst case" if verdict != CANNOT_TELL else summary
