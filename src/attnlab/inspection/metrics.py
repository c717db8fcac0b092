"""Three numbers per head: how widely it looks, how much goes to the first token, and how far back it reads.

They are taken from the share w_ij that row i gives to token j. For `probability` maps that is the map itself; every
other kind is made comparable by w_ij = |A_ij| / sum_j |A_ij|, where a row without any weight has no shares at all.
"""

import numpy as np
from jaxtyping import Float

ENTROPY, FIRST_TOKEN_MASS, DISTANCE = "attention_entropy", "attention_first_token_mass", "attention_distance"


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
    """How many tokens back a head reads, as mean over rows of sum_j w_ij (i - j)."""
    t, s = w.shape[1:]
    back = np.arange(t)[:, None] - np.arange(s)
    return (w * back).sum(axis=-1).mean(axis=-1)


def head_metrics(maps: Float[np.ndarray, "h t s"], kind: str, layer: int) -> dict[str, float]:
    """The numbers of every head of one layer under the tags they are logged by, such as attention_entropy/L00H01."""
    w = shares(maps, kind)
    numbers = {
        ENTROPY: attention_entropy(w),
        FIRST_TOKEN_MASS: first_token_mass(w),
        DISTANCE: attention_distance(w),
    }
    return {
        f"{name}/L{layer:02d}H{head:02d}": float(number)
        for name, per_head in numbers.items()
        for head, number in enumerate(per_head)
    }
