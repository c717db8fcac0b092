"""Which head of one model goes with which of another: models that were trained apart number their heads by chance."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from attnlab.inspection.head_metrics import shares


def overlaps(
    a: Float[np.ndarray, "h t s"], b: Float[np.ndarray, "g t s"], kinds: tuple[str, str]
) -> Float[np.ndarray, "h g"]:
    """For each two heads the share of attention that both give to the same tokens, as mean over rows, 0 .. 1.

    Rule: overlap(A, B) = mean_i sum_j min(a_ij, b_ij), with rows as shares of the sum of their sizes: one minus the
    total variation distance. Rows that give nothing in both maps are left out.
    """
    one, other = (shares(maps, kind) for maps, kind in zip((a, b), kinds, strict=True))
    table = np.zeros((len(one), len(other)))
    for i, rows in enumerate(one):
        for j, others in enumerate(other):
            read = (rows.sum(-1) > 0) | (others.sum(-1) > 0)
            table[i, j] = np.minimum(rows, others).sum(-1)[read].mean() if read.any() else 0.0
    return table


def pair_heads(table: Float[np.ndarray, "h g"]) -> list[int | None]:
    """For each head of the first model one of the other, no two the same, so that the sum of overlaps is largest.

    The assignment problem (Kuhn 1955). With more heads than the other has, some go without (None).
    """
    heads, partners = linear_sum_assignment(table, maximize=True)
    pairs: list[int | None] = [None] * len(table)
    for head, partner in zip(heads, partners, strict=True):
        pairs[head] = int(partner)
    return pairs
