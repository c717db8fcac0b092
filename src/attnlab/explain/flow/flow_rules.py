"""How a number is made of others, rule by rule, for whole arrays: a node gets a rule only if it gives its numbers.

The page writes the same sums out for one number. `x`, `q`, ... are values of nodes as `Node` describes them.
"""

import numpy as np
from jaxtyping import Float

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32: sums in another order


def flat(x: Float[np.ndarray, "h t d"]) -> Float[np.ndarray, "t hd"]:
    """The heads of each token side by side."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def per_head(x: Float[np.ndarray, "g t d"], heads: int) -> Float[np.ndarray, "h t d"]:
    """What each of so many heads reads of fewer: several neighbours share one."""
    return x.repeat(heads // len(x), axis=0) if heads % len(x) == 0 else x


def linear(
    x: Float[np.ndarray, "g t c"], w: Float[np.ndarray, "h r d"], b: Float[np.ndarray, "h 1 d"] | None = None
) -> Float[np.ndarray, "h t d"]:
    """x W + b."""
    y = np.einsum("tr,hrd->htd", flat(x), w)
    return y if b is None else y + b


def dot(q: Float[np.ndarray, "h t d"], k: Float[np.ndarray, "g s d"]) -> Float[np.ndarray, "h t s"]:
    """q . k."""
    return q @ per_head(k, len(q)).swapaxes(1, 2)


def mix(a: Float[np.ndarray, "h t s"], v: Float[np.ndarray, "g s d"]) -> Float[np.ndarray, "h t d"]:
    """Values by their weights, added up."""
    return a @ per_head(v, len(a))


def outer(k: Float[np.ndarray, "h t r"], v: Float[np.ndarray, "h t c"]) -> Float[np.ndarray, "t h r c"]:
    """Every number of a key times every number of a value."""
    return np.einsum("htr,htc->thrc", k, v)


def keep(
    decay: Float[np.ndarray, "h t r"], written: Float[np.ndarray, "t h r c"], state: Float[np.ndarray, "t h r c"]
) -> Float[np.ndarray, "t h r c"]:
    """decay of each row times the state before, plus what is written."""
    return decayed(decay, state) + written


def decayed(decay: Float[np.ndarray, "h t r"], state: Float[np.ndarray, "t h r c"]) -> Float[np.ndarray, "t h r c"]:
    """What the decay of each token leaves of the state before it."""
    before = np.concatenate([np.zeros_like(state[:1]), state[:-1]])
    return decay.transpose(1, 0, 2)[..., None] * before


def correct(
    v: Float[np.ndarray, "h t c"],
    k: Float[np.ndarray, "h t r"],
    left: Float[np.ndarray, "t h r c"],
    beta: Float[np.ndarray, "h t 1"],
) -> Float[np.ndarray, "h t c"]:
    """beta (v - what k reads of the state that is left): the delta rule."""
    return beta * (v - np.einsum("htr,thrc->htc", k, left))


def read(q: Float[np.ndarray, "h t r"], state: Float[np.ndarray, "t h r c"]) -> Float[np.ndarray, "h t c"]:
    """q S."""
    return np.einsum("htr,thrc->htc", q, state)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same up to rounding."""
    if one.shape != other.shape:
        return False
    top = float(np.abs(np.nan_to_num(other, posinf=0, neginf=0)).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"] * max(top, 1e-3)))
