"""How scores become weights. No rule here reads the length of the whole input: that would not be causal."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.attention.published import Starts, normal
from attnlab.attention.traits import MapKind
from attnlab.options import Configurable, Count, given


class Normalizer(Configurable, nn.Module, ABC):
    """Turns scores into weights that are 0 where a key is not visible.

    Keys stand in the order of their positions. Built per layer as factory(n_heads=). `fusable` says that this is the
    plain softmax of the fused kernel, `discontinuous` that weights are not continuous in the scores.
    """

    fusable = False
    discontinuous = False
    map_kind: ClassVar[MapKind]
    n_heads: Count = given(doc="Query heads.")

    def phantom(self, like: Tensor) -> Float[Tensor, " h"] | None:
        """The score of one more key, whose value is zero, where this is a softmax with such a key; None elsewhere."""
        return None

    @abstractmethod
    def forward(
        self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]
    ) -> Float[Tensor, "b h t s"]: ...


def softmax_with_sink(
    scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"], sink: Float[Tensor, "#h 1 1"]
) -> Float[Tensor, "b h t s"]:
    """exp(s_j) / (exp(sink) + sum exp(s)): a softmax with one more key, whose value is zero and whose column is cut."""
    logits = torch.cat([scores.masked_fill(~visible, -torch.inf), sink.expand(*scores.shape[:3], 1)], dim=-1)
    return logits.softmax(dim=-1)[..., :-1]


class SharpSoftmax(torch.autograd.Function):
    """The softmax of the last axis, whose gradient keeps its digits where one weight is nearly 1.

    There p (g - sum p g) is a difference of nearly equal numbers, and a large key makes much of its rounding. A
    gradient of scores sums to zero, so what it does sum to is taken off once more.
    """

    @staticmethod
    def forward(ctx: Any, scores: Float[Tensor, "*rows s"]) -> Float[Tensor, "*rows s"]:
        weights = scores.softmax(dim=-1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx: Any, slope: Float[Tensor, "*rows s"]) -> Float[Tensor, "*rows s"]:
        (weights,) = ctx.saved_tensors
        slope = weights * slope
        for _ in range(2):
            slope.addcmul_(weights, slope.sum(dim=-1, keepdim=True), value=-1)
        return slope


class SharpSigmoid(torch.autograd.Function):
    """The sigmoid, whose gradient keeps its digits where it is nearly 1 and w (1 - w) would have none."""

    @staticmethod
    def forward(ctx: Any, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        weights = logits.sigmoid()
        ctx.save_for_backward(logits, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, slope: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        logits, weights = ctx.saved_tensors
        return (-logits).sigmoid_().mul_(weights).mul_(slope)


class Softmax(Normalizer):
    """Weights are positive and sum to one. Rule: w_j = exp(s_j) / sum exp(s). Source: arXiv 1706.03762."""

    fusable = True
    map_kind = "probability"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        return SharpSoftmax.apply(scores.masked_fill(~visible, -torch.inf))


class Softmax1(Normalizer):
    """A softmax that may attend to nothing, a sink of logit 0.

    Rule: w_j = exp(s_j) / (1 + sum exp(s)). Source: E. Miller, "Attention Is Off By One" (2023).
    """

    map_kind = "sub_probability"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        return softmax_with_sink(scores, visible, scores.new_zeros(1, 1, 1))

    def phantom(self, like: Tensor) -> Float[Tensor, " h"]:
        return like.new_zeros(self.n_heads)


class Sink(Normalizer):
    """A softmax with a learned logit per head for attending to nothing.

    Rule: w_j = exp(s_j) / (exp(b_h) + sum exp(s)). Source: gpt-oss model card, arXiv 2508.10925.
    """

    map_kind = "sub_probability"
    published: ClassVar[Starts] = {"logit": normal(0.02, "normal 0.02, in Granite 0")}  # as in transformers

    def setup(self) -> None:
        self.logit = nn.Parameter(torch.zeros(self.n_heads))

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        return softmax_with_sink(scores, visible, self.logit.to(scores.dtype)[:, None, None])

    def phantom(self, like: Tensor) -> Float[Tensor, " h"]:
        return self.logit.to(like.dtype)


class Sigmoid(Normalizer):
    """Each weight on its own, without competition; n_i is the number of visible keys.

    Rule: w_j = sigmoid(s_j - ln n_i). Source: arXiv 2409.04431. Where we differ: their bias is -ln T, which would read
    the length of the input.
    """

    map_kind = "nonnegative"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        count = visible.sum(dim=-1, keepdim=True).to(scores.dtype)
        logits = scores - count.log()
        return SharpSigmoid.apply(logits).masked_fill(~visible, 0.0)


class ReLU(Normalizer):
    """Negative scores weigh nothing, positive ones in proportion; n_i is the number of visible keys.

    Rule: w_j = relu(s_j) / n_i. Source: arXiv 2309.08586. Where we differ: they divide by the length of the sequence,
    which is not causal.
    """

    map_kind = "nonnegative"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        count = visible.sum(dim=-1, keepdim=True).to(scores.dtype)
        return (scores.relu() / count).masked_fill(~visible, 0.0)


class Softpick(Normalizer):
    """Weights may be exactly 0 and need not sum to one.

    Rule: w_j = relu(e^s_j - 1) / (sum |e^s - 1| + 1e-6). The first token sees one key, whose weight is 1 if its score
    is above 0 and 0 if it is below: near 0 the rounding of bfloat16 decides.

    Source: arXiv 2504.20966. Where we differ: their code divides by e^max first, and then adds 1e-8.
    """

    discontinuous = True
    map_kind = "sub_probability"
    eps = 1e-6

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        scores = scores.masked_fill(~visible, 0.0)  # e^0 - 1 = 0: no part in the sum
        best = scores.amax(dim=-1, keepdim=True).relu().detach()
        # (e^s - 1) / e^best, which cannot overflow, and near 0 keeps its digits.
        rise = torch.where(
            scores < 1, scores.clamp(max=1).expm1() * (-best).exp(), (scores - best).exp() - (-best).exp()
        )
        return rise.relu() / (rise.abs().sum(dim=-1, keepdim=True) + self.eps * (-best).exp())


class Cog(Normalizer):
    """Weights whose sizes sum to one and whose signs are those of the scores.

    Rule: w_j = sign(s_j) e^|s_j| / sum e^|s|. A key that is the opposite of what the query looks for is read as much as
    its match, and subtracted. A score near zero has the least weight of all, e^0, but not none, and the weight jumps
    from one sign to the other there.

    Source: cog attention, arXiv 2411.07176. Where we differ: its models keep the softmax in the first and last layers.
    """

    discontinuous = True
    map_kind = "signed"

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        return scores.sign() * scores.abs().masked_fill(~visible, -torch.inf).softmax(dim=-1)
