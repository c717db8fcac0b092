"""Numbers per head: how widely it looks, how far back, at which tokens, and in how many independent ways.

They are taken from the share w_ij that row i gives to token j. For `probability` maps that is the map itself; every
other kind is made comparable by w_ij = |A_ij| / sum_j |A_ij|, where a row without any weight has no shares at all. Row
sums and the share of negative weights, which such maps have beside, are taken from the map as it is.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

ENTROPY, FIRST_TOKEN_MASS, DISTANCE = "attention_entropy", "attention_first_token_mass", "attention_distance"
EFFECTIVE_RANK, DIVERSITY = "attention_effective_rank", "attention_diversity"
ROW_SUM, NEGATIVE_SHARE = "attention_row_sum", "attention_negative_share"
PREVIOUS, DUPLICATE, INDUCTION = "attention_previous_token", "attention_duplicate_token", "attention_induction"
SILENCED_ZERO, SILENCED_MEAN = "head_ablation_zero", "head_ablation_mean"  # changes in loss, see head_ablation
LOOKS, SCORES = (ENTROPY, FIRST_TOKEN_MASS, DISTANCE), (PREVIOUS, DUPLICATE, INDUCTION)
PER_HEAD = (*LOOKS, *SCORES, EFFECTIVE_RANK, ROW_SUM, NEGATIVE_SHARE)  # in the order in which people read them
REPEATED = 24  # tokens of the random sequence that is repeated
EMERGENCE_THRESHOLD = 0.3  # a head does what a score measures from the first step at which the score is at least this


def shares(maps: Float[np.ndarray, "h t s"], kind: str) -> Float[np.ndarray, "h t s"]:
    """Which share of its attention each row gives to each token: at least 0, with rows that sum to 1 (or to 0)."""
    exact = maps.astype(np.float64)
    if kind == "probability":
        return exact
    size = np.abs(exact)
    total = size.sum(axis=-1, keepdims=True)
    return np.divide(size, total, out=np.zeros_like(size), where=total > 0)


def attention_entropy(w: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """How many tokens a head looks at, as mean over rows of -sum_j w_ij ln w_ij, in nats: 0 is one token."""
    logs = np.log(w, out=np.zeros_like(w), where=w > 0)
    return -(w * logs).sum(axis=-1).mean(axis=-1)


def uniform_causal_entropy(tokens: int) -> float:
    """The entropy of a head that looks at all it may see alike: the mean of ln(i + 1) over rows i, in nats."""
    return float(np.log(np.arange(1, tokens + 1)).mean())


def first_token_mass(w: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """The share that goes to the first token, as mean over rows of w_i0; the first row has no choice but 1."""
    return w[:, :, 0].mean(axis=-1)


def attention_distance(w: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """How many tokens away a head reads, as mean over rows of sum_j w_ij |i - j|; a causal one reads back."""
    t, s = w.shape[1:]
    away = np.abs(np.arange(t)[:, None] - np.arange(s))
    return (w * away).sum(axis=-1).mean(axis=-1)


def effective_rank(w: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """In how many independent directions a head mixes: exp(-sum_k p_k ln p_k), p_k = s_k / sum s, singular values s.

    1 for a head whose rows are all alike, up to the number of tokens; not a number where the map holds none. Source:
    Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    whole = np.isfinite(w).all(axis=(1, 2))
    sizes = np.linalg.svd(np.where(whole[:, None, None], w, 0), compute_uv=False)
    total = sizes.sum(axis=-1, keepdims=True)
    p = np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0)
    ranks = np.exp(-(p * np.log(p, out=np.zeros_like(p), where=p > 0)).sum(axis=-1))
    return np.where(whole, ranks, np.nan)


def diversity(w: Float[np.ndarray, "h t s"]) -> float | None:
    """How much the heads of a layer differ: the mean over pairs of heads of 1 - cos(map, map); None with one head.

    0 where all heads look alike, 1 where no two of them look at the same tokens.
    """
    heads = len(w)
    if heads < 2:
        return None
    flat = w.reshape(heads, -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 0)
    likeness = unit @ unit.T
    return float(1 - (likeness.sum() - np.trace(likeness)) / (heads * (heads - 1)))


def row_sum(maps: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """What the weights of a row add up to, as mean over rows: below 1 where a head may stay silent."""
    return maps.astype(np.float64).sum(axis=-1).mean(axis=-1)


def negative_share(maps: Float[np.ndarray, "h t s"]) -> Float[np.ndarray, " h"]:
    """Which part of the total size of all weights is negative: sum of |A_ij| with A_ij < 0, over sum of |A_ij|."""
    exact = maps.astype(np.float64)
    size, total = np.minimum(exact, 0).sum(axis=(1, 2)), np.abs(exact).sum(axis=(1, 2))
    return -np.divide(size, total, out=np.zeros_like(size), where=total > 0)


def head_metrics(maps: Float[np.ndarray, "h t s"], kind: str, layer: int, *, cross: bool = False) -> dict[str, float]:
    """The numbers of one layer under the tags they are logged by, such as attention_entropy/L00H01.

    Row sums only where they can differ from 1, negative shares only where weights may be negative, and no distance
    across from one text to another (`cross`).
    """
    w = shares(maps, kind)
    numbers = {
        ENTROPY: attention_entropy(w),
        FIRST_TOKEN_MASS: first_token_mass(w),
        DISTANCE: attention_distance(w),
        EFFECTIVE_RANK: effective_rank(w),
    }
    if cross:
        del numbers[DISTANCE]
    if kind != "probability":
        numbers[ROW_SUM] = row_sum(maps)
    if kind == "signed":
        numbers[NEGATIVE_SHARE] = negative_share(maps)
    spread = diversity(w)
    return tagged(numbers, layer) | ({} if spread is None else {f"{DIVERSITY}/L{layer:02d}": spread})


def repeat_metrics(maps: Float[np.ndarray, "h t t"], kind: str, layer: int) -> dict[str, float]:
    """What a head does with a random sequence that is followed by itself: the shares of three places.

    previous token: w_i,i-1 over all rows but the first. duplicate token: w_i,i-n over the second copy, the same token
    in the first. induction: w_i,i-n+1, the token that followed it there, which is the one to predict. `maps` are those
    of 2 n tokens. Source: arXiv 2209.11895.
    """
    w, n = shares(maps, kind), maps.shape[-1] // 2
    rows = np.arange(n, 2 * n)
    after = np.arange(1, 2 * n)
    numbers = {
        PREVIOUS: w[:, after, after - 1].mean(axis=-1),
        DUPLICATE: w[:, rows, rows - n].mean(axis=-1),
        INDUCTION: w[:, rows, rows - n + 1].mean(axis=-1),
    }
    return tagged(numbers, layer)


def repeated_sequence(n_vocab: int, context: int) -> list[int]:
    """Random tokens, then the same tokens again: `REPEATED` of them, or as many as fit twice into the context.

    Always the same ones for a vocabulary, and no token twice while there are enough kinds. Empty if not even two fit.
    """
    n = min(REPEATED, context // 2)
    if n < 2:
        return []
    draw = np.random.default_rng(0)
    once = draw.choice(n_vocab, size=n, replace=n > n_vocab).tolist()
    return [*once, *once]


def of_heads(tag: str) -> bool:
    """Whether a number is one of many that heads or layers have, such as attention_entropy/L00H01."""
    return tag.startswith(("attention_", "head_ablation_")) and "/" in tag


def tagged(numbers: Mapping[str, Float[np.ndarray, " h"]], layer: int) -> dict[str, float]:
    """Numbers of all heads of a layer under one tag each."""
    return {
        f"{name}/L{layer:02d}H{head:02d}": float(number)
        for name, per_head in numbers.items()
        for head, number in enumerate(per_head)
    }
