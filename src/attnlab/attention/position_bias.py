"""Positions as biases of the scores, which depend on the distance between query and key."""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.position import Position
from attnlab.options import Count, OptionError, option
from attnlab.options.rules import Rule


def alibi_slopes(n_heads: int) -> list[float]:
    """One slope per head: 2^(-8/n), 2^(-16/n), ...; other counts take every second slope of the next power of two."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + finer[: n_heads - power]


class ALiBi(Position):
    """Lowers each score in proportion to the distance. Rule: bias_ij = -slope_h (i - j). Source: arXiv 2108.12409."""

    hooks = frozenset({"bias"})
    of_distance = True

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        slopes = torch.tensor(alibi_slopes(self.n_heads), device=q_pos.device)
        return -slopes[:, None, None] * (q_pos[:, None] - k_pos[None, :])


class T5Bias(Position):
    """Adds a learned number per head and distance; far distances share one in ever wider buckets.

    Rule: bias_ij = table[bucket(i - j)]. The first half of the buckets hold one distance each; the others are spaced
    evenly in the logarithm, and the last holds all from just below `max_distance` on.

    Source: T5, arXiv 1910.10683, its buckets for decoders. Where we differ: T5 shares one table among layers, here each
    has its own; and it does not divide scores by sqrt(d).
    """

    hooks = frozenset({"bias"})
    of_distance = True

    n_buckets: Annotated[int, Rule(int, least=2)] = option(default=32, doc="Distances that are told apart; even.")
    max_distance: Count = option(default=128, doc="Distance from which all share a bucket.")

    def setup(self) -> None:
        self.buckets: Tensor
        n_buckets, max_distance, exact = self.n_buckets, self.max_distance, self.n_buckets // 2
        if n_buckets % 2:
            raise OptionError("n_buckets", n_buckets, "must be even")
        if max_distance <= exact:
            raise OptionError("max_distance", max_distance, f"must be greater than half of n_buckets ({exact})")
        wide = [
            exact + math.floor(math.log(n / exact) / math.log(max_distance / exact) * exact)
            for n in range(exact, max_distance)
        ]
        of_distance = [*range(exact), *(min(bucket, n_buckets - 1) for bucket in wide), n_buckets - 1]
        self.register_buffer("buckets", torch.tensor(of_distance), persistent=False)
        self.table = nn.Embedding(n_buckets, self.n_heads)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(0, self.buckets.numel() - 1)
        return self.table(self.buckets[distance]).movedim(-1, 0)


def softplus_inverse(y: float) -> float:
    """The x whose softplus is y: x = log(e^y - 1)."""
    return math.log(math.expm1(y))


class Kerple(Position):
    """Lowers each score with the logarithm of the distance, by amounts that each head learns.

    Rule: bias_ij = -r1_h log(1 + r2_h (i - j)). r1 and r2 stay positive through a softplus and start at 1.

    Source: arXiv 2205.09921, the logarithmic kernel. Where we differ: their code draws r1 from 0 to 2 and r2 from 0 to
    1 for each head, and holds both above 0.01 by cutting them off.
    """

    hooks = frozenset({"bias"})
    of_distance = True

    def setup(self) -> None:
        self.strength = nn.Parameter(torch.full((self.n_heads,), softplus_inverse(1.0)))
        self.rate = nn.Parameter(torch.full((self.n_heads,), softplus_inverse(1.0)))

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(min=0)  # what a mask hides must have a logarithm, too
        strength, rate = F.softplus(self.strength)[:, None, None], F.softplus(self.rate)[:, None, None]
        return -strength * (rate * distance).log1p()


class FIRE(Position):
    """Adds a learned function of the distance, which is measured in parts of how far back the query could look.

    Rule: bias_ij = f(psi(i - j) / psi(max(L, i))), psi(x) = log(1 + c x). f is a small network with one output per
    head; c and L are learned, stay positive through a softplus, and start at 0.1 and a quarter of the context.

    Source: arXiv 2310.04418. Where we differ: its network has a ReLU, here a SiLU, so that no unit is dead; and a last
    bias, which adds the same number to all scores of a query and is left out. Its code takes absolute values of c and
    L, starts L at 512 tokens, and adds 1e-6 to what it divides by.
    """

    hooks = frozenset({"bias"})

    hidden: Count = option(default=32, doc="Width of the network.")

    def setup(self) -> None:
        self.rate = nn.Parameter(torch.tensor(softplus_inverse(0.1)))
        self.threshold = nn.Parameter(torch.tensor(softplus_inverse(1.0)))  # in quarters of the context
        self.to_hidden = nn.Linear(1, self.hidden)
        self.to_bias = nn.Linear(self.hidden, self.n_heads, bias=False)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(min=0)  # what a mask hides must have a logarithm, too
        rate, threshold = F.softplus(self.rate), F.softplus(self.threshold) * self.context / 4
        reach = torch.maximum(threshold, q_pos[:, None].to(threshold.dtype))
        part = (rate * distance).log1p() / (rate * reach).log1p()
        return self.to_bias(F.silu(self.to_hidden(part[..., None]))).movedim(-1, 0)
