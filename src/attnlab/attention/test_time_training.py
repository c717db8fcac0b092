"""Test-time training: the memory is a small model, and reading a sequence trains it."""

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.published import ALIKE, Shape, SourceStart, Starts
from attnlab.attention.shared import Shared
from attnlab.attention.signature import with_signature
from attnlab.attention.state import RecurrentState, StateAttention
from attnlab.attention.traits import Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, OptionError, Positive, option

EPS = 1e-6  # added to the variance of an inner prediction, as in the paper's code


class InnerModel(NamedTuple):
    """What `step` keeps, in float32 at least; the last row of each matrix is the bias of the inner model."""

    weight: Float[Tensor, "b h e v"]  # as it was when the running mini-batch began
    update: Float[Tensor, "b h e v"]  # what the running mini-batch has added up so far


class InnerRate(NamedTuple):
    """The learning rate of the inner model at each token, before the sigmoid."""

    rate: Float[Tensor, "b h t 1"]


def inner_start(shape: Shape, generator: torch.Generator) -> Tensor:
    """W_0 and its shift below it."""
    return F.pad(torch.empty(shape).normal_(0.0, 0.02, generator=generator)[:, :-1], (0, 0, 0, 1))


class InnerSlope(torch.autograd.Function):
    """The slope in z of |f - v|^2 / 2, whose f - v, times the gain, is `wrong` + `curve` unit, with unit = norm(z).

    What a norm makes of a slope x is (x - mean(x) - unit mean(unit x)) / spread. This is one, so its own slopes hold
    two more; written out, they take a third of the passes that autograd makes. Double differentiation is refused.
    """

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(z: Tensor, wrong: Tensor, curve: Tensor) -> tuple[Tensor, ...]:
        unit, mean, steep = torch.native_layer_norm(z, z.shape[-1:], None, None, EPS)
        error = torch.addcmul(wrong, unit, curve)
        return through_norm(error, z, mean, steep), unit, mean, steep, error

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], inputs[2], *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, back: Tensor, *_: None) -> tuple[Tensor, Tensor, Tensor]:
        z, curve, slope, unit, mean, steep, error = ctx.saved_tensors
        to_error = through_norm(back, z, mean, steep)
        along, across, spread = (
            (x * y).sum(-1, keepdim=True).mul_(steep) for x, y in ((error, unit), (back, unit), (back, slope))
        )
        share = -1 / z.size(-1)
        to_unit = (to_error * curve).addcmul_(back, along, value=share).addcmul_(error, across, value=share)
        to_z = through_norm(to_unit, z, mean, steep).addcmul_(unit, spread, value=share)
        return to_z, to_error, (to_error * unit).sum(dim=-2, keepdim=True)


def through_norm(slope: Tensor, z: Tensor, mean: Tensor, steep: Tensor) -> Tensor:
    """What the norm of z, without gain, makes of a slope; `steep` is one over the spread."""
    way_back = torch.ops.aten.native_layer_norm_backward
    to_z: Tensor = way_back(slope, z, z.shape[-1:], mean, steep, None, None, [True, False, False])[0]
    return to_z


class TTTAttention(StateAttention):
    """Its memory is a small linear model per head, trained by gradient descent while the sequence is read.

    Rule: W_t = W_{t-1} - eta grad |f(k_t; W) - v_t|^2, o_t = f(q_t; W_t), f(k) = k + norm(k W + b). The inner model f
    is to reproduce v from k. Tokens come in mini-batches; each takes the gradient of |f(k) - v|^2 / 2 at the W with
    which its mini-batch began, times the rate eta_t = `rate` * sigmoid(w . x_t) / d. Within a mini-batch all tokens are
    handled by matrix products (the paper's dual form). The norm makes the gradient depend on W and the output on a sum
    of values in a way that is not linear: there is no map to show.

    Source: arXiv 2407.04620 (TTT-Linear). Where we differ: W_0 starts as the identity; the rate of the i-th token of a
    mini-batch has no factor of 1/i plus a learned number; the output's own norm and gate are left out.
    """

    documents = True
    withdrawn = {"value_dim"}
    minibatch: Count = option(default=16, short=2, doc="Tokens that take their gradients at the same weights.")
    rate: Positive = option(default=1.0, doc="The largest learning rate of the inner model, times head_dim.")

    published: ClassVar[Starts] = {
        "weight": SourceStart("normal 0.02, its shift 0", inner_start),
        "gain": ALIKE,
        "offset": ALIKE,
    }
    traits = Traits("none", "constant")

    def setup(self) -> None:
        super().setup()
        if self.head_dim < 3:  # two numbers are 1 and -1 after a norm, whatever they were
            raise OptionError("head_dim", self.head_dim, "must be at least 3: a norm leaves fewer no slope")
        n_heads, d = self.n_heads, self.head_dim
        self.qkv = QKV(self)
        self.to_rate = nn.Linear(self.d_model, n_heads)
        self.weight = nn.Parameter(torch.eye(d + 1, d).repeat(n_heads, 1, 1))
        self.gain, self.offset = nn.Parameter(torch.ones(n_heads, 1, d)), nn.Parameter(torch.zeros(n_heads, 1, d))
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, _ = self.qkv(x, tail)
        rate = InnerRate(self.to_rate(x).mT[..., None])
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v, own=rate)

    @uncompiled  # as in scan.py: a loop over mini-batches
    def scan(self, heads: Heads, memory: InnerModel, start: int) -> tuple[Float[Tensor, "b h n v"], InnerModel]:
        """What the inner model answers to each query while it learns from the keys and values, and what it became.

        Only weights go from one mini-batch to the next; the queries of all are answered at once, after that.
        """
        b, h, n, _ = heads.q.shape
        if not n:
            return heads.v, memory
        size, over = self.minibatch, start % self.minibatch  # of the first mini-batch, `over` tokens came before
        # The first and the last of several are filled up with zeros, which at a rate of zero teach nothing.
        filled = (over, -(over + n) % size) if over + n > size else (0, 0)
        with full_precision(heads.q.device):
            work = memory.weight.dtype
            q, k, v = (part.to(work) for part in heads[:3])
            rate = self.rate * heads.own.rate.to(work).sigmoid() / self.head_dim
            gain, offset = self.gain.to(work), self.offset.to(work)
            q1, k1 = (F.pad(part, (0, 1), value=1.0) for part in (q, k))  # a column of ones reads the bias
            parts = [q1, k1, rate * k1, torch.addcmul(offset * gain, k - v, gain)]
            parts = [F.pad(x, (0, 0, *filled)) for x in parts] if any(filled) else parts
            q1, k1, taught, error = (x.unflatten(2, (-1, size if over + n > size else n)).flatten(0, 1) for x in parts)
            asked, slopes, memory = self.learn(q1, k1, taught, error, gain.square().repeat(b, 1, 1), memory)
            if not (start + n) % size:
                memory = InnerModel(memory.weight + memory.update, torch.zeros_like(memory.update))
            changed = ((q1 @ taught.mT).tril(), slopes)
            answer = torch.baddbmm(*(x.flatten(0, 1) for x in (asked, *changed)), alpha=-1).view(b, h, -1, v.size(-1))
            answer = answer[:, :, filled[0] : filled[0] + n] if any(filled) else answer
            o = torch.addcmul(q, F.layer_norm(answer, answer.shape[-1:], eps=EPS), gain) + offset
            return o.to(heads.v.dtype), memory

    def learn(
        self,
        q1: Float[Tensor, "g n m e"],
        k1: Float[Tensor, "g n m e"],
        taught: Float[Tensor, "g n m e"],
        wrong: Float[Tensor, "g n m v"],
        curve: Float[Tensor, "g 1 v"],
        inner: InnerModel,
    ) -> tuple[Float[Tensor, "g n m v"], Float[Tensor, "g n m v"], InnerModel]:
        """What queries of n mini-batches find in W as these begin, the slopes of their losses, and W in the last.

        Slopes are those in z = k W + b, before rates; `taught` are keys times rates. A loss, times the gain of the
        norm, is off by `wrong` + `curve` norm(z), where `curve` is the square of the gain.
        """
        at, update = inner.weight.flatten(0, 1), inner.update.flatten(0, 1)
        last, after, answers, slopes = at, at + update, list[Tensor](), list[Tensor]()
        parts = (torch.cat([q1, k1], dim=2), taught.mT, wrong)
        for ask, lesson, error in zip(*(x.unbind(1) for x in parts), strict=True):
            answer, z = (ask @ at).chunk(2, dim=1)
            answers.append(answer)
            slopes.append(InnerSlope.apply(z, error, curve)[0])
            last, at = at, (after := torch.baddbmm(after, lesson, slopes[-1], alpha=-1))
        answers[0] = answers[0] + q1[:, 0] @ update  # of a mini-batch that began before
        update = update * (len(slopes) == 1) - taught[:, -1].mT @ slopes[-1]
        inner = InnerModel(*(x.view_as(inner.weight) for x in (last, update)))
        return torch.stack(answers, dim=1), torch.stack(slopes, dim=1), inner

    def empty(self, batch: int, value_dim: int) -> InnerModel:
        """The inner model before the first token."""
        weight = self.weight.to(torch.promote_types(self.anchor.dtype, torch.float32)).expand(batch, -1, -1, -1)
        return InnerModel(weight, torch.zeros_like(weight, memory_format=torch.contiguous_format))

    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> None:
        return None

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))

    def init_state(self, batch: int, max_len: int) -> RecurrentState:
        state = super().init_state(batch, max_len)
        own = state.memory.weight.detach().clone(memory_format=torch.contiguous_format)
        return state._replace(memory=state.memory._replace(weight=own))
