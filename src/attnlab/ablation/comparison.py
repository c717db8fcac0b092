"""A variant against its baseline, seed by seed, and the one word that comes of it.

The paired-t p, corrected by Holm over the declared family, decides between better, worse and neither. Where it decides
nothing, two one-sided t tests, corrected likewise, may say equivalent within a margin that was fixed beforehand. All
else is "cannot tell", which is the answer to expect from few seeds.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from attnlab.ablation import statistics
from attnlab.ablation.contenders import Contender, Design
from attnlab.ablation.statistics import Interval, Pairing

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


@dataclass(frozen=True)
class Comparison:
    """What the seeds that both sides finished say. Differences are variant minus baseline, in the metric's unit."""

    contender: Contender
    baseline: Contender
    seeds: list[int]
    differences: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]
    pairing: Pairing
    verdict: str = CANNOT_TELL
    mean: float | None = None
    sd: float | None = None
    interval: Interval | None = None
    bca: Interval | None = None
    p: float | None = None
    holm_p: float | None = None
    sign_flip_p: float | None = None
    smallest_sign_flip_p: float | None = None
    equivalence_p: float | None = None
    holm_equivalence_p: float | None = None
    detectable: float | None = None  # the smallest effect that these seeds find 4 times in 5, in the metric's unit
    seeds_needed: int | None = None  # how many would tell, the true difference being as seen
    seeds_for_equivalence: int | None = None  # how many would tell, there being no difference
    remarks: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        return len(self.seeds)

    @property
    def lost(self) -> Counter[str]:
        """Runs of the variant without a result, by what became of them."""
        return Counter(run.status for run in self.contender.runs if run.status != "finished")


def compare(design: Design, rules: Rules) -> list[Comparison]:
    """Every contender against the baseline of its block, with a verdict; the family is all of them or those named."""
    measured = [_measured(contender, baseline, rules) for contender, baseline in design.pairs()]
    asked = [i for i, c in enumerate(measured) if _in_family(c, rules)]
    m = len(asked)  # a comparison without a result was asked, too
    p = _corrected([measured[i].p for i in asked])
    q = _corrected([measured[i].equivalence_p for i in asked])
    judged = [replace(c, verdict=NOT_ASKED) for c in measured]
    for i, holm_p, holm_q in zip(asked, p, q, strict=True):
        judged[i] = _judged(replace(measured[i], holm_p=holm_p, holm_equivalence_p=holm_q), rules, m)
    return judged


def _in_family(comparison: Comparison, rules: Rules) -> bool:
    contender = comparison.contender
    return not rules.family or bool({contender.label, contender.variant, contender.folder} & {*rules.family})


def _corrected(p: Sequence[float | None]) -> list[float | None]:
    """Holm over those that have a result, in a family of all."""
    known = statistics.holm([x for x in p if x is not None], len(p))
    return [None if x is None else known.pop(0) for x in p]


def _measured(contender: Contender, baseline: Contender, rules: Rules) -> Comparison:
    ours, theirs = contender.finished, baseline.finished
    seeds = sorted(ours.keys() & theirs.keys())
    a, b = (np.array([runs[seed].final for seed in seeds], dtype=np.float64) for runs in (ours, theirs))
    d = a - b
    if len(seeds) < 2:
        mean = float(d[0]) if seeds else None
        return Comparison(contender, baseline, seeds, d, a, Pairing(None, None), mean=mean)
    low, high = statistics.t_interval(d, rules.alpha)
    return Comparison(
        contender,
        baseline,
        seeds,
        d,
        a,
        statistics.pairing(a, b),
        mean=float(d.mean()),
        sd=float(d.std(ddof=1)),
        interval=Interval(float(low), float(high)),
        bca=statistics.bca_interval(d, rules.alpha) if len(d) >= statistics.BCA_LEAST else None,
        p=float(statistics.t_p(d)),
        sign_flip_p=statistics.sign_flip_p(d),
        smallest_sign_flip_p=statistics.smallest_sign_flip_p(len(d)),
        equivalence_p=None if rules.margin is None else float(statistics.equivalence_p(d, rules.margin)),
    )


def decide(improved: bool, p: float | None, equivalence_p: float | None, alpha: float) -> str:
    """The word, from the corrected p of both questions."""
    if p is not None and p <= alpha:
        return BETTER if improved else WORSE
    return EQUIVALENT if equivalence_p is not None and equivalence_p <= alpha else CANNOT_TELL


def _judged(c: Comparison, rules: Rules, family: int) -> Comparison:
    """The verdict, unless runs are missing whose results would have spoken against it, and what else is to be said."""
    improved = c.mean is not None and (c.mean < 0) == rules.lower_is_better
    verdict, remarks = decide(improved, c.holm_p, c.holm_equivalence_p, rules.alpha), []
    diverged = [sum(run.status == "diverged" for run in side.runs) for side in (c.contender, c.baseline)]
    flattered = (verdict in (BETTER, EQUIVALENT) and diverged[0], verdict in (WORSE, EQUIVALENT) and diverged[1])
    if any(flattered):
        who = c.contender.label if flattered[0] else c.baseline.label
        remarks.append(f"would be {verdict}, but runs of {who} diverged, and those that are left flatter it")
        verdict = CANNOT_TELL
    elif diverged[0]:
        remarks.append(f"{diverged[0]} of {len(c.contender.runs)} runs diverged")
    waiting = len(c.contender.runs) - len(c.contender.finished) - diverged[0]
    if waiting:
        remarks.append(f"without {waiting} of {len(c.contender.runs)} planned runs")
    if c.n < 2:
        remarks.append("no seed in common with the baseline" if not c.seeds else "one seed says nothing of chance")
    elif not c.differences.any():
        remarks.append("the same numbers as the baseline in every seed")
    if verdict in (BETTER, WORSE) and rules.margin is not None and c.mean is not None and abs(c.mean) < rules.margin:
        remarks.append(f"a difference, but within the margin of {rules.margin:g}")
    alpha = rules.alpha / family  # what the smallest p of the family is held against
    if c.n < 2 or c.sd is None or c.mean is None:
        return replace(c, verdict=verdict, remarks=tuple(remarks))
    if statistics.without_spread(c.differences):
        needed = statistics.seeds_without_spread(alpha) if verdict == CANNOT_TELL and c.mean else None
        within = verdict == CANNOT_TELL and rules.margin is not None and abs(c.mean) < rules.margin
        equal = statistics.seeds_without_spread(2 * alpha) if within else None  # one-sided: 2^-n must reach alpha
        return replace(c, verdict=verdict, remarks=tuple(remarks), seeds_needed=needed, seeds_for_equivalence=equal)
    needed = statistics.seeds_to_tell(c.mean, c.sd, alpha) if verdict == CANNOT_TELL else None
    margin = rules.margin if verdict == CANNOT_TELL else None
    return replace(
        c,
        verdict=verdict,
        remarks=tuple(remarks),
        detectable=statistics.detectable_effect(c.n, alpha) * c.sd,
        seeds_needed=needed,
        seeds_for_equivalence=None if margin is None else statistics.seeds_to_be_equivalent(margin, c.sd, alpha),
    )


class NoiseFloor(NamedTuple):
    """The baseline against itself: what differences mean nothing, pairing apart."""

    n: int
    mean: float
    sd: float
    band: float  # two groups of n runs of the baseline differ by less in mean, with probability 1 - alpha
    largest: float  # the largest difference between two of its runs


def noise_floor(baseline: Contender, alpha: float) -> NoiseFloor | None:
    """The A/A noise floor of a baseline; None below two runs."""
    values = np.array([run.final for run in baseline.finished.values()], dtype=np.float64)
    if len(values) < 2:
        return None
    band = statistics.noise_band(values, len(values), alpha)
    return NoiseFloor(len(values), float(values.mean()), float(values.std(ddof=1)), band, float(np.ptp(values)))
