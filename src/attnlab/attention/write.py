"""How a token is written into the memory of a recurrent layer."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.feature_map import FeatureMap
from attnlab.attention.heads import split_heads
from attnlab.attention.published import ALIKE, Starts, exactly
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, NonNegative, given, option
from attnlab.options.rules import Rule


class Erasure(NamedTuple):
    """The key that a token removes under, where it is not the one that it writes under."""

    erasure: Float[Tensor, "b h t d"]


class Write(Configurable, nn.Module, ABC):
    """Says how strongly a token corrects what is stored under its key; None where it adds to it.

    `early`: what it corrects is read before the memory decays, not after.
    """

    erases = early = False

    d_model: Count = given(doc="Width of the model.")
    n_heads: Count = given(doc="Writes per token.")
    head_dim: Count = given(doc="Width of a query and of a key.")
    value_dim: Count = given(doc="Width of a value in each head.")

    def check(self, feature_map: FeatureMap) -> None:
        """Refuse a combination that makes no sense."""

    @abstractmethod
    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None: ...

    def erasure(self, k: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"] | None:
        """The key to remove under; by default the one to write under."""
        return None

    def values(self, v: Float[Tensor, "b h t v"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t v"]:
        """What is written, by default the values."""
        return v

    def queries(self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b j t d"]) -> Float[Tensor, "b h t d"]:
        """What the memory is read with, by default the queries."""
        return q


class AddWrite(Write):
    """Adds the value under its key, whatever is stored there already.

    Rule: S_t = a_t S_{t-1} + k_t v_t^T. Source: arXiv 2006.16236.
    """

    def project(self, x: Float[Tensor, "b t c"]) -> None:
        return None


class DeltaWrite(Write):
    """Writes only what the memory does not know yet.

    Rule: S_t = a_t S_{t-1} + beta k (v - a_t S_{t-1}^T k)^T, beta = beta_max sigmoid(w . x). With `beta_max` 2 a write
    may also turn a stored value around, which lets the layer count modulo two (arXiv 2411.12537). Source: arXiv
    2102.11174 and 2406.06484.
    """

    erases = True

    beta_max: Annotated[float, Rule(float, above=0, most=2)] = option(
        default=1.0, doc="The largest strength of a write; beyond 2 the memory would grow without bound."
    )

    def setup(self) -> None:
        self.to_beta = nn.Linear(self.d_model, self.n_heads, bias=False)

    def check(self, feature_map: FeatureMap) -> None:
        if not feature_map.unit:
            raise UsageError(
                f"attention/write ({type(self).__name__}) multiplies the memory by I - beta k k^T, which grows without "
                f"bound for keys longer than one, and {type(feature_map).__name__} leaves them so: use "
                "attention/feature_map=unit"
            )

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return self.beta_max * self.to_beta(x).sigmoid().transpose(1, 2)


class ChannelWrite(DeltaWrite):
    """Removes with a strength per channel of the key, and writes with one per channel of the value.

    Rule: S_t = a_t S_{t-1} + k (w * v - a_t S_{t-1}^T (b * k))^T, b = beta_max sigmoid(W_b x), w = sigmoid(W_w x). One
    number for all of b and w is the delta rule. Source: Gated DeltaNet-2, arXiv 2605.22791, whose code starts both
    matrices as any other.
    """

    def setup(self) -> None:
        self.to_erase = nn.Linear(self.d_model, self.n_heads * self.head_dim, bias=False)
        self.to_write = nn.Linear(self.d_model, self.n_heads * self.value_dim, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"]:
        return x.new_ones(x.size(0), self.n_heads, x.size(1))

    def erasure(self, k: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        return k * self.beta_max * split_heads(self.to_erase(x).sigmoid(), self.n_heads)

    def values(self, v: Float[Tensor, "b h t v"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t v"]:
        return v * split_heads(self.to_write(x).sigmoid(), self.n_heads)


class FeedbackWrite(DeltaWrite):
    """Corrects by a share of what the memory answers, and takes a share of the key off the query.

    Rule: S_t = a_t S_{t-1} + beta k (v - S_{t-1}^T p)^T, o_t = S_t^T (q - e p), p = sigmoid(c) k. What it corrects is
    read before the memory decays. c and e are one number per head; c starts at 1, e at `correction`. Source: Comba,
    arXiv 2506.02475. Its code starts both at 1, says that 0.02 is better for e in small models, and scales q - e p and
    p to length one after that, which takes sigmoid(c) off p again; here q and k have length one, as in the formula.
    """

    early = True

    published: ClassVar[Starts] = {"feedback": ALIKE, "correct": exactly(1.0)}
    correction: NonNegative = option(default=1.0, doc="What e starts at.")

    def setup(self) -> None:
        super().setup()
        self.feedback = nn.Parameter(torch.ones(self.n_heads))
        self.correct = nn.Parameter(torch.full((self.n_heads,), float(self.correction)))

    def erasure(self, k: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        return k * self.feedback.sigmoid()[:, None, None]

    def queries(self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return q - k * (self.correct * self.feedback.sigmoid())[:, None, None]
