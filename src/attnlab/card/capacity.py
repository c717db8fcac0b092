"""How many pairs a state holds: recall of key-value pairs against the bytes of the decode state.

Every variant is trained at several widths on multi-query recall (arXiv 2312.04927) of n pairs in rows of one length, so
that its state, as the cost table counts it, depends on the width alone. Of one variant, width and seed, recall falls
with the number of pairs as a logistic of its logarithm,

    recall(n) = 1 / (1 + (n / c)^k),    k > 0,

so that c pairs are recalled to a half and c 9^(-1/k) to 90 %: the capacities. Recall is accuracy above the floor of
guessing, (accuracy - floor) / (1 - floor). The frontier is the power law c = e^a bytes^b through the capacities that
none with as few bytes exceeds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from attnlab.analysis.reading import Experiment, Run
from attnlab.store.leaves import leaves
from attnlab.store.status import Status

LEVELS = (0.5, 0.9)  # of recall
STEEPEST = 20.0
TASK, PAIRS = "mqar", "data.n_pairs"
TOKENS_PER_PAIR = 4  # key and value, and as many tokens to ask in


class Band(NamedTuple):
    """The mean over seeds (of logarithms, where it is a capacity), and the lowest and highest of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], *, log: bool = False) -> "Band":
        mean = math.exp(float(np.mean(np.log(values)))) if log else float(np.mean(values))
        return cls(mean, min(values), max(values))


class Capacity(NamedTuple):
    """How many pairs are recalled to a level. Outside what was tried only a bound is known."""

    band: Band | None  # None where a seed lies outside what was tried
    bound: str = ""  # such as "> 32"


class Size(NamedTuple):
    """One variant at one width: the bytes of its state, recall by number of pairs, and its capacities by level."""

    variant: str
    width: int
    state_bytes: int
    recall: dict[int, Band]
    capacities: dict[float, Capacity]
    seeds: int
    lost: int  # runs without a result


class Frontier(NamedTuple):
    """The power law c = e^intercept bytes^slope, fitted to the capacities that lie on the frontier."""

    intercept: float
    slope: float
    points: list[Size]

    def at(self, state_bytes: float) -> float:
        """How many pairs a state of so many bytes holds at best."""
        return math.exp(self.intercept + self.slope * math.log(state_bytes))


def design(
    variants: Sequence[str], pairs: Sequence[int], widths: Sequence[int], seeds: Sequence[int]
) -> dict[str, Any]:
    """The runs, as configs/sweep has designs. All rows are as long as the largest number of pairs needs."""
    settings: dict[str, Any] = {"+card": TASK, "evaluation.lengths": [], "maps.steps": 0, "sample.steps": 0}
    settings |= {"model.context": TOKENS_PER_PAIR * max(pairs), "data.n_vocab": 4 * max(*pairs, 8)}
    axes: dict[str, list[Any]] = {
        "attention": list(variants),
        "data.n_pairs": list(pairs),
        "model.d_model": list(widths),
    }
    varied = {key: values for key, values in axes.items() if len(values) > 1}
    settings |= {key: values[0] for key, values in axes.items() if len(values) == 1}
    return {"design": "grid", "settings": settings, "axes": varied, "seeds": list(seeds)}


def sizes_of(experiment: Experiment) -> list[Size]:
    """The sizes of all variants in an experiment of val/accuracy, by variant and state."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in experiment.runs:
        width, pairs = leaf_of(run, "model.d_model"), leaf_of(run, PAIRS)
        if isinstance(width, int) and isinstance(pairs, int):  # other runs may lie in the folder
            groups.setdefault((run.variant, width), []).append(run)
    sizes = [_size(variant, width, runs) for (variant, width), runs in groups.items()]
    return sorted(filter(None, sizes), key=lambda size: (size.variant, size.state_bytes))


def _size(variant: str, width: int, runs: Sequence[Run]) -> Size | None:
    finished = [run for run in runs if run.status == Status.FINISHED and run.seed is not None and _state_bytes(run) > 0]
    if not finished:
        return None
    state_bytes = _state_bytes(finished[0])
    by_pairs: dict[int, dict[int, float]] = {}
    for run in finished:
        assert run.seed is not None
        by_pairs.setdefault(leaf_of(run, PAIRS), {})[run.seed] = recall_of(run.final, run.summary)
    seeds = sorted({seed for each in by_pairs.values() for seed in each})
    whole = [seed for seed in seeds if all(seed in each for each in by_pairs.values())]
    curves = [{n: each[seed] for n, each in sorted(by_pairs.items())} for seed in whole]
    recall = {n: Band.of([*each.values()]) for n, each in sorted(by_pairs.items())}
    capacities = {level: capacity(curves, level) for level in LEVELS}
    return Size(variant, width, state_bytes, recall, capacities, len(whole), len(runs) - len(finished))


def leaf_of(run: Run, key: str) -> Any:
    """A setting of a run by its dotted key; None if it has none of the name."""
    return dict(leaves(run.config)).get(key)


def _state_bytes(run: Run) -> int:
    """The bytes of a run's state; 0 where nothing is kept, or an older attnlab did not say."""
    return int((run.summary.get("attention_cost") or {}).get("state_bytes") or 0)


def recall_of(accuracy: float, summary: Mapping[str, Any]) -> float:
    """Accuracy above the floor of guessing, from 0 to 1."""
    floor = float(((summary.get("bounds") or {}).get("floor") or {}).get("accuracy") or 0.0)
    return min(1.0, max(0.0, (accuracy - floor) / (1 - floor))) if floor < 1 else 0.0


def capacity(curves: Sequence[Mapping[int, float]], level: float) -> Capacity:
    """How many pairs are recalled to a level, by the recall of each seed at each number of pairs."""
    if not curves or len(curves[0]) < 2:
        return Capacity(None)
    fitted = [crossing(curve, level) for curve in curves]
    least, most = min(curves[0]), max(curves[0])
    outside = [f"> {most}" if n > most else f"< {least}" for n in fitted if not least <= n <= most]
    if outside:
        return Capacity(None, outside[0] if len(set(outside)) == 1 and len(outside) == len(fitted) else "seeds differ")
    return Capacity(Band.of(fitted, log=True))


def crossing(curve: Mapping[int, float], level: float) -> float:
    """Where the logistic in log pairs that fits a curve best crosses a level; inf or 0 where no recall does."""
    pairs, recall = np.array([*curve], dtype=float), np.array([*curve.values()])
    if recall.min() > level:
        return math.inf
    if recall.max() < level:
        return 0.0
    middle = float(np.log(pairs).mean())

    def misses(parameters: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(np.clip(parameters[1] * (np.log(pairs) - parameters[0]), -50, 50))) - recall

    bounds = ([math.log(pairs.min()) - 3, 0.05], [math.log(pairs.max()) + 3, STEEPEST])
    log_c, k = least_squares(misses, [middle, 2.0], bounds=bounds).x
    return float(math.exp(log_c + math.log(1 / level - 1) / k))


def frontier_of(sizes: Sequence[Size], level: float = LEVELS[0]) -> Frontier | None:
    """The power law through the capacities that no other exceeds with as few bytes; None below two of them."""
    measured = [(size, band.mean) for size in sizes if (band := size.capacities[level].band) is not None]
    best = [
        (size, c)
        for size, c in measured
        if not any(
            (other.state_bytes <= size.state_bytes and more > c) or (other.state_bytes < size.state_bytes and more >= c)
            for other, more in measured
        )
    ]
    if len({size.state_bytes for size, _ in best}) < 2:
        return None
    logs = np.log([[size.state_bytes, c] for size, c in best])
    slope, intercept = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return Frontier(float(intercept), float(slope), [size for size, _ in best])
