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


def turned(x: Float[np.ndarray, "h t d"], angle: Float[np.ndarray, "h t p"]) -> Float[np.ndarray, "h t d"]:
    """The first p pairs of neighbouring numbers, rotated."""
    turns = x[..., : 2 * angle.shape[-1]]
    pairs = (turns[..., ::2] + 1j * turns[..., 1::2]) * np.exp(1j * angle)
    return np.concatenate([np.stack([pairs.real, pairs.imag], -1).reshape(turns.shape), x[..., turns.shape[-1] :]], -1)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are the same up to rounding."""
    if one.shape != other.shape:
        return False
    top = float(np.abs(np.nan_to_num(other, posinf=0, neginf=0)).max(initial=0.0))
    return bool(np.allclose(one, other, rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"] * max(top, 1e-3)))
