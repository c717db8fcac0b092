"""Evidence that may be looked at after every seed: bets on the signs of paired differences.

Where differences are symmetric about 0, as those of a variant and its equal are, each sign is a coin toss, whatever the
sizes are. Who bets on the next sign at even odds, with a stake that follows from what came before and from the size of
the next difference, owns a martingale, so the chance that the wealth ever reaches 1 / alpha is at most alpha (Ville
1939): one over the largest wealth so far is a p at any stopping time. Stakes are those by which wealth grows fastest
if differences are normal, tanh(effect |d| / sd): the likelihood ratio of a sign, given the size (Koning, arXiv
2310.01153). Both directions and two effects are mixed, weighted by how well each has bet so far. No more is staked
than what is lacking.
"""

import numpy as np
from jaxtyping import Float

from attnlab.analysis.statistics import Interval

EFFECTS = (1.6, 0.7)  # in standard deviations of the differences
WEIGHTS = (0.75, 0.25)  # differences of one sign reach 1 / 0.05 with 6 seeds and 10 / 0.05 with 9; no bets do sooner
ROUNDING = 1e-9
MOST_SEEDS = 200  # beyond which no level is asked for
STEPS, WIDEST = 400, 30  # candidates for an end of an interval, and up to how many standard deviations off


def wealth(d: Float[np.ndarray, "*batch n"], target: float, sides: int = 2) -> Float[np.ndarray, "*batch n"]:
    """What 1 has become after each difference, in their order; with one side, of bets on positive signs alone.

    Where a difference is not known (nan: a run was lost) every bet is lost; one that is inf is as large as the largest.
    """
    effects = np.array([*EFFECTS, *(-effect for effect in EFFECTS)][: sides * len(EFFECTS)])
    shape = d.shape[:-1]
    weights = np.broadcast_to(np.array(WEIGHTS * sides) / sides, (*shape, len(effects))).copy()
    now, after = np.ones(shape), np.ones(d.shape)
    squares, largest = np.zeros(shape), np.zeros(shape)
    for i in range(d.shape[-1]):
        size, sign = np.abs(d[..., i]), np.sign(d[..., i])
        largest = np.fmax(largest, np.where(np.isfinite(size), size, 0.0))
        size = np.where(np.isfinite(size), size, np.where(largest > 0, largest, 1.0))
        squares = squares + size**2
        spread = np.sqrt(squares / (i + 1))
        z = size / np.where(spread > 0, spread, 1.0)  # of all sizes so far, in which effects count, too
        each = np.tanh(effects * np.sqrt(1 + effects**2) * z[..., None])
        lacking = np.maximum(target * (1 + ROUNDING) / np.maximum(now, 1e-300) - 1, 0.0)
        stake = np.clip((weights * each).sum(axis=-1), -lacking, lacking)
        lost = np.isnan(sign)
        now = now * np.where(lost, 1 - np.abs(stake), 1 + np.where(lost, 0.0, sign) * stake)
        weights = weights * (1 + np.where(lost, 0.0, sign)[..., None] * each)
        weights = weights / np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
        after[..., i] = now
    return after


def sequential_p(d: Float[np.ndarray, " n"], alpha: float, sides: int = 2) -> Float[np.ndarray, " n"]:
    """A p after each difference that holds whenever one stops; bets end at alpha, for nothing is gained by more."""
    return 1 / np.maximum(1.0, np.maximum.accumulate(wealth(d, 1 / alpha, sides)))


def sequential_equivalence_p(d: Float[np.ndarray, " n"], margin: float, alpha: float) -> float:
    """The larger of two p: that differences lie at the margin or above, and at minus the margin or below."""
    if np.isnan(d).any():
        return 1.0
    sides = [sequential_p(each, alpha, sides=1) for each in (margin - d, d + margin)]
    return float(max(p[-1] for p in sides))


def fewest_seeds(alpha: float, sides: int = 2) -> int:
    """The fewest differences, all of one sign and size, that reach alpha."""
    reached = wealth(np.ones(MOST_SEEDS), 1 / alpha, sides) >= 1 / alpha
    return int(reached.argmax()) + 1


def confidence_interval(d: Float[np.ndarray, " n"], alpha: float) -> Interval | None:
    """All centres of symmetry that no bets have ruled out so far, from the least to the largest; at any stopping time
    the true one is among them with probability 1 - alpha. None as long as there is no end to them."""
    d = d[np.isfinite(d)]
    spread = float(np.ptp(d)) if len(d) else 0.0
    if not spread:
        return None
    ends = []
    for way in (-1, 1):
        steps = np.linspace(0, WIDEST, STEPS + 1)
        for _ in range(2):  # coarse, then fine
            out = wealth(d - (d.mean() + way * steps[:, None] * spread), 1 / alpha).max(axis=-1) >= 1 / alpha
            last = int(np.flatnonzero(~out).max(initial=0))
            if last == STEPS:
                return None
            steps = np.linspace(steps[last], steps[last + 1], STEPS + 1)
        ends.append(float(d.mean() + way * steps[-1] * spread))
    return Interval(*ends)
