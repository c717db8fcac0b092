"""The decay of a recurrent layer's state: how much of it each token leaves."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.decay_start import Range, first_rates, first_steps
from attnlab.attention.feature_map import FeatureMap
from attnlab.attention.position_bias import alibi_slopes
from attnlab.attention.published import ALIKE, Starts, log_of_uniform, steps_between
from attnlab.attention.write import Write
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, NonNegative, OptionError, Positive, given, option


class Decay(Configurable, nn.Module, ABC):
    """Gives the log of a_t in S_t = a_t S_{t-1} + ...; None where the memory never forgets.

    `scale_keys` is for a decay that also says how strongly a token is written.
    `per_channel`: a_t is one number per row of the memory, (b, h, t, d), rather than one per head, (b, h, t).
    """

    per_channel = False

    d_model: Count = given(doc="Width of the model.")
    n_heads: Count = given(doc="Heads.")
    head_dim: Count = given(doc="Width of a query and of a key.")

    def check(self, feature_map: FeatureMap, write: Write) -> None:
        """Refuse a combination that makes no sense."""

    @abstractmethod
    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | Float[Tensor, "b h t d"] | None: ...

    def scale_keys(self, k: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        """Make a token's write stronger or weaker; by default neither."""
        return k


class NoDecay(Decay):
    """Never forgets: a = 1."""

    neutral = True

    def project(self, x: Float[Tensor, "b t c"]) -> None:
        return None


class FixedDecay(Decay):
    """Each head decays at its own constant rate. Rule: a_h = 1 - 2^(-5-h). Source: RetNet, arXiv 2307.08621."""

    first: Positive = option(default=5.0, doc="Of the first head a = 1 - 2^-first.")

    def constants(self, n_heads: int) -> list[float]:
        """The log of a_h for each head."""
        return [math.log1p(-(2.0 ** (-self.first - h))) for h in range(n_heads)]

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        # Made anew, for a buffer would be rounded with the model: in bfloat16 rates would be off by a part in 500.
        work = torch.promote_types(x.dtype, torch.float32)
        rate = torch.tensor(self.constants(self.n_heads), dtype=work, device=x.device)
        return rate[None, :, None].expand(x.size(0), -1, x.size(1))


class SlopeDecay(FixedDecay):
    """Constant rates spread as widely as the slopes of ALiBi.

    Rule: a_h = exp(-2^(-8 h / n)), h = 1 .. n. The first heads see a few tokens, the last hundreds. Source: lightning
    attention, arXiv 2501.08313. Where we differ: there higher layers decay less; here all are alike.
    """

    withdrawn = {"first"}

    def constants(self, n_heads: int) -> list[float]:
        return [-slope for slope in alibi_slopes(n_heads)]


class ScalarDecay(Decay):
    """Each token decides how much each head forgets.

    Rule: log a_t = -exp(A) softplus(w . x_t + b). A starts at log of 1 .. 16 over the heads and b so that softplus(b)
    runs from 0.1 to 0.001, as in Mamba-2 (arXiv 2405.21060). Where we differ: it draws them at random; here they are
    spaced evenly, the same for all seeds.

    Gated DeltaNet (arXiv 2412.06464), and what follows it, draw exp(A) from 0 to 16.
    """

    published: ClassVar[Starts] = {"log_rate": log_of_uniform(0, 16), "bias": steps_between(0.001, 0.1)}
    rates: Range = option(default=(1.0, 16.0), doc="exp(A) at the start, of the first head and of the last.")
    first_step: Range = option(default=(0.1, 0.001), doc="softplus(b) at the start, likewise; of one head the first.")

    def setup(self) -> None:
        self.to_decay = nn.Linear(self.d_model, self.n_heads, bias=False)
        self.log_rate = nn.Parameter(first_rates(self.n_heads, *self.rates))
        self.bias = nn.Parameter(first_steps(self.n_heads, *self.first_step))

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return (-self.log_rate.exp() * self.steps(x)).transpose(1, 2)

    def steps(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t h"]:
        """softplus(w . x + b), in float32 at least."""
        return F.softplus((self.to_decay(x) + self.bias).to(torch.promote_types(x.dtype, torch.float32)))


class StepDecay(ScalarDecay):
    """A scalar decay that writes as strongly as it forgets.

    Rule: S_t = exp(-exp(A) D_t) S_{t-1} + D_t k_t v_t^T. D = softplus(w . x + b) is the time that passes at a token: a
    token for which none passes leaves no trace. Source: Mamba-2, arXiv 2405.21060, some of whose models hold D within
    limits.
    """

    published: ClassVar[Starts] = {"log_rate": log_of_uniform(1, 16)}
    least: NonNegative = option(default=0.0, doc="The shortest step.")
    most: Positive = option(default=None, null="any", doc="The longest step.")

    def setup(self) -> None:
        super().setup()
        if self.most is not None and self.most <= self.least:
            raise OptionError("most", self.most, f"must be greater than least ({self.least})")

    def steps(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t h"]:
        limited = self.least > 0 or self.most is not None
        return super().steps(x).clamp(self.least, self.most) if limited else super().steps(x)

    def check(self, feature_map: FeatureMap, write: Write) -> None:
        if write.erases:
            raise UsageError(
                "attention/decay=step multiplies keys by a step that may exceed one, and attention/write "
                f"({type(write).__name__}) must have keys no longer than one: use attention/decay=scalar"
            )

    def scale_keys(self, k: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        return k * self.steps(x).transpose(1, 2)[..., None]


class ChannelDecay(Decay):
    """Each token decides how much each row of each head's memory forgets.

    Rule: log a_t = logsigmoid(W2 W1 x_t + b) / 16, per channel. The two matrices meet at `rank` numbers. Source: gated
    linear attention, arXiv 2312.06635.
    """

    per_channel, slowness = True, 16.0
    published: ClassVar[Starts] = {"bias": ALIKE}

    rank: Count = option(default=16, doc="Numbers at which the two matrices meet.")
    start: float = option(default=0.0, doc="b at the start: each channel of each head keeps sigmoid(b)^(1/16).")

    def setup(self) -> None:
        self.to_rank = nn.Linear(self.d_model, self.rank, bias=False)
        self.to_decay = nn.Linear(self.rank, self.n_heads * self.head_dim, bias=False)
        self.bias = nn.Parameter(torch.full((self.n_heads, self.head_dim), float(self.start)))

    def check(self, feature_map: FeatureMap, write: Write) -> None:
        if feature_map.width != self.head_dim:
            raise UsageError(
                f"attention/decay ({type(self).__name__}) decays each of the {self.head_dim} channels of a head, but "
                f"attention/feature_map ({type(feature_map).__name__}) makes {feature_map.width} features of them: "
                "use attention/decay=scalar, or attention/feature_map=identity, elu or unit"
            )

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        return F.logsigmoid(self.scores(x)) / self.slowness

    def scores(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        """W2 W1 x + b, in float32 at least."""
        scores = self.to_decay(self.to_rank(x)).unflatten(-1, (-1, self.head_dim)) + self.bias
        return scores.to(torch.promote_types(x.dtype, torch.float32)).transpose(1, 2)


class KimiDecay(ChannelDecay):
    """The scalar decay, row by row. Source: arXiv 2510.26692, whose code draws A and b at random. Where we differ: in
    their code the two matrices meet at as many numbers as a head is wide, here at `rank`.

    Rule: log a_t = -exp(A_h) softplus(W2 W1 x_t + b), per channel. A and b start as they do in the scalar decay, evenly
    spaced over heads and channels. With a bound B (5 in Kimi K3, Ling 3.0) it is -B sigmoid(exp(A_h) (W2 W1 x_t + b)).
    """

    published: ClassVar[Starts] = {"log_rate": log_of_uniform(1, 16), "bias": steps_between(0.001, 0.1)}
    withdrawn = {"start"}
    rates: Range = option(default=(1.0, 16.0), doc="exp(A) at the start, of the first head and of the last.")
    first_step: Range = option(default=(0.1, 0.001), doc="softplus(b) at the start, of the first channel and the last.")
    bound: Positive = option(default=None, null="none", doc="How far below 0 log a_t can be.")

    def setup(self) -> None:
        super().setup()
        steps = first_steps(self.n_heads * self.head_dim, *self.first_step)
        self.log_rate = nn.Parameter(first_rates(self.n_heads, *self.rates))
        self.bias = nn.Parameter(steps.unflatten(0, (self.n_heads, -1)))

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t d"]:
        rate, s = self.log_rate.exp()[:, None, None], self.scores(x)
        return -rate * F.softplus(s) if self.bound is None else -self.bound * torch.sigmoid(rate * s)
