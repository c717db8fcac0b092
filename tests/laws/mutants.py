"""Variants that are broken on purpose, each to fail one law each, and the means to bring any class before the laws."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, Shared, State
from attnlab.attention.cost import Cost
from attnlab.attention.documents import Start
from attnlab.attention.embedding import LearnedEmbedding
from attnlab.attention.feature_map import RandomFeatures
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.mask import Mask, Window
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import Normalizer, Softmax, Softmax1
from attnlab.attention.position import Position
from attnlab.attention.recurrent import Matrix, RecurrentAttention
from attnlab.attention.score import SoftCap
from attnlab.attention.score_context import KeyRows, OneScore
from attnlab.build import embedding_factory, instantiate
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.laws import Subject
from attnlab.laws.subject import positions

composed = cache(compose_config)


def subject_from(make: Callable[..., Attention], overrides: Sequence[str] = (), **options: Any) -> Subject:
    """A class with these options as a subject, without a YAML; `position=` among the overrides reaches it."""
    config = composed(tuple(overrides))
    return Subject(
        name=getattr(make, "__name__", "a variant"),
        factory=partial(make, position=instantiate(config, "position.inside"), **({"n_heads": 4} | options)),
        config=config,
        rebuild=lambda more: subject_from(make, [*overrides, *more], **options),
        embed=embedding_factory(config),
        position_names=positions(),
    )


# What follows are the faults, by the law they break.


class NarrowOutput(MultiHeadAttention):
    """Shape: the output is one coordinate short, although d_out says otherwise."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o, heads)[..., :-1]


class TurnedNorms(MultiHeadAttention):
    """Shape: the value norms come as (b, s, h)."""

    def value_norms(self, x: Tensor, shared: Shared | None = None) -> Tensor | None:
        norms = super().value_norms(x, shared)
        return None if norms is None else norms.transpose(1, 2)


class WritesIntoInput(MultiHeadAttention):
    """Shape: the input is scaled in place. The second call then sees another input, so that nothing else holds."""

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        x.detach().mul_(0.5)
        return heads


class NeedsAToken(MultiHeadAttention):
    """Shape: looks at the first token, of which an empty row has none."""

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        assert x.select(1, 0) is not None
        return super().project(x, start, tail)


class OffByOneMask(Mask):
    """Causality: a query reads one key too many."""

    def visible(self, q_pos: Tensor, k_pos: Tensor) -> Tensor:
        return k_pos[None, :] <= q_pos[:, None] + 1


class LeakAfterTheMap(MultiHeadAttention):
    """Causality: the mean of the whole sequence is added after the map, where no picture shows it."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o + 1e-6 * heads.v.mean(dim=2, keepdim=True), heads)


class StatesFormula(MultiHeadAttention):
    """Stated formula: attention without positions, written plainly; another temperature breaks it and no other law."""

    def formula(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(linear(x), self.n_heads) for linear in (self.qkv.to_q, self.qkv.to_k, self.qkv.to_v))
        rows = []
        for i in range(x.size(1)):
            weights = (q[:, :, i : i + 1] @ k[:, :, : i + 1].mT / self.head_dim**0.5).softmax(dim=-1)
            rows.append(weights @ v[:, :, : i + 1])
        return self.to_out(torch.cat(rows, dim=2).transpose(1, 2).flatten(2))


class LeakInTraining(MultiHeadAttention):
    """Causality: the leak is there in training only."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o + heads.v.mean(dim=2, keepdim=True) if self.training else o, heads)


class DriftedMap(MultiHeadAttention):
    """Map: written a second time, and the scale was forgotten."""

    @torch.no_grad()
    def weights(self, x: Tensor, shared: Shared | None = None) -> Tensor | None:
        heads = self.project(x)
        later = torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
        return (heads.q @ heads.k.mT).masked_fill(later, -torch.inf).softmax(dim=-1)


class NoisyMap(MultiHeadAttention):
    """Map: taken with dropout when the layer is in training."""

    @torch.no_grad()
    def weights(self, x: Tensor, shared: Shared | None = None) -> Tensor | None:
        heads = self.project(x)
        identity = torch.eye(x.size(1), dtype=x.dtype).expand(x.size(0), self.n_heads, -1, -1)
        return self.mix(heads._replace(v=identity))


class NoMapNoReason(MultiHeadAttention):
    """Map: there is one, but it is not shown."""

    def weights(self, x: Tensor, shared: Shared | None = None) -> Tensor | None:
        return None


class ClaimsProbability(Softmax1):
    """Map: its rows sum to less than one."""

    map_kind = "probability"


class ClaimsNonnegative(Normalizer):
    """Map: its weights may be negative."""

    map_kind = "nonnegative"

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        return scores.tanh().masked_fill(~visible, 0.0)


class ForgetsOffset(MultiHeadAttention):
    """Decode: new tokens are given positions from 0 on."""

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        return super().project(x, 0, tail)


class ShortRing(Window):
    """Decode: the ring is too short, which shows only once it has wrapped around."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.cache_size = window - 2


class Unused(MultiHeadAttention):
    """No dead parameter: one that nothing reads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.temperature = nn.Parameter(torch.ones(()))


class OneHeadCut(MultiHeadAttention):
    """No dead parameter: the last head is computed and thrown away."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(torch.cat([o[:, :-1], torch.zeros_like(o[:, -1:])], dim=1), heads)


class ColumnCut(MultiHeadAttention):
    """No dead parameter: a table whose last column is never read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.table = nn.Embedding(2, self.d_out + 1)

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o, heads) + self.table.weight[0, :-1]


class BatchMean(MultiHeadAttention):
    """Batch independence: the mean over the rows is subtracted."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o - 0.1 * o.mean(dim=0, keepdim=True), heads)


class SeesNeighbours(MultiHeadAttention):
    """Documents: says that it honours them, and mixes whole rows."""

    documents = True

    def forward(self, x: Tensor, shared: Shared | None = None) -> Tensor:
        return super().forward(x)


class ConvolvesOn(MultiHeadAttention):
    """Documents: the convolution does not see where one ends."""

    documents = True

    def project(self, x: Tensor, start: Start = 0, tail: Tensor | None = None) -> Heads:
        return super().project(x, start if isinstance(start, int) else 0, tail)  # of rotations distances count


class CountsOn(LearnedEmbedding):
    """Documents: positions go on where one ends."""

    documents = True

    def forward(self, x: Tensor, start: Start = 0) -> Tensor:
        return super().forward(x, start if isinstance(start, int) else 0)


class LearnsFromWholeRows(MultiHeadAttention):
    """Documents: of several in a row nothing is learned."""

    documents = True

    def forward(self, x: Tensor, shared: Shared | None = None) -> Tensor:
        y = super().forward(x, shared)
        return y if shared is None or shared.documents is None else y.detach()


class LumpedMap(MultiHeadAttention):
    """Documents: the map is that of the row."""

    documents = True

    def weights(self, x: Tensor, shared: Shared | None = None) -> Tensor | None:
        return super().weights(x)


class StaleCost(MultiHeadAttention):
    """Cost: a formula that forgot the output projection."""

    def cost(self, seq_len: int, below: Sequence[Attention] = ()) -> Cost:
        return super().cost(seq_len)._replace(params=3 * self.d_model**2)


class StaleBytes(MultiHeadAttention):
    """Cost: reports keys but not values."""

    def cost(self, seq_len: int, below: Sequence[Attention] = ()) -> Cost:
        cost = super().cost(seq_len)
        return cost._replace(state_bytes=cost.state_bytes // 2)


class KeepsThePrompt(RecurrentAttention):
    """Cost: the state is a view that keeps a whole prompt alive."""

    def step(self, x: Tensor, state: State, shared: Shared | None = None) -> tuple[Tensor, State]:
        y, after = super().step(x, state, shared)
        return y, after._replace(tail=torch.cat([x, x], dim=1)[:, -1:])

    def init_state(self, batch: int, max_len: int) -> State:
        state = super().init_state(batch, max_len)
        return state._replace(tail=self.anchor.new_zeros(batch, 1, self.d_model))

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        return super().project(x, start, None)


class ClaimsWindow(MultiHeadAttention):
    """State growth: says that its state is bounded, and keeps every row."""

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, growth="window")


class SilentlyExplicit(Softmax):
    """Fused == explicit: says that the fused kernel can serve, which knows nothing of the sharpening."""

    def forward(self, scores: Tensor, visible: Tensor) -> Tensor:
        return super().forward(1.5 * scores, visible)


class UnfusableCap(SoftCap):
    """Fused == explicit: says that it leaves scores alone."""

    fusable = True


class OtherCapInKernel(SoftCap):
    """Backend == mix: FlexAttention is told of another cap."""

    def one_score(self, rows: KeyRows) -> OneScore:
        return SoftCap.one_score(SoftCap(cap=0.2, d_model=1, n_heads=1, head_dim=1), rows)


class DrawsByItself(MultiHeadAttention):
    """Reproducible: a parameter starts from the global generator."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.n_heads, 1, 1))

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o * self.gain, heads)


class ForgottenNumber(MultiHeadAttention):
    """Reproducible: a number that matters is neither a parameter nor saved."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = 1.0 + float(torch.rand(()))

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o * self.gain, heads)


class CoarseMemory(RecurrentAttention):
    """Half precision: the memory is kept in the type of the weights."""

    def empty(self, batch: int, value_dim: int) -> Matrix:
        memory = super().empty(batch, value_dim)
        return memory._replace(matrix=memory.matrix.to(self.anchor.dtype))


class LosesDigits(MultiHeadAttention):
    """Half precision: a number that float32 can tell from one and bfloat16 cannot."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o * (((1 + 1e-3 * torch.ones_like(o)) - 1) * 1e3), heads)


class JumpsOverLostDigits(LosesDigits):
    """Half precision: says that it jumps, which excuses a few outputs and not all of them."""

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, discontinuous=True)


class LeavesTheRange(RandomFeatures):
    """Extreme inputs: exponentials as they are, of which float32 holds those from e^-103 to e^88."""

    exponential = False


class KernelAtAnyScore(MultiHeadAttention):
    """Extreme inputs: the fused kernel serves, whatever becomes of its gradients."""

    def _beyond_kernel(self, o: Tensor) -> bool:
        return False


class IgnoresPosition(MultiHeadAttention):
    """Every position: takes a position and does without."""

    def __init__(self, *args: Any, position: Callable[..., Position], **options: Any) -> None:
        super().__init__(*args, **options)


class RefusesWithoutName(MultiHeadAttention):
    """Every position: says no, and not to what."""

    def __init__(self, *args: Any, position: Callable[..., Position], **options: Any) -> None:
        if position(head_dim=2, n_heads=1, context=2).hooks == {"bias"}:
            raise UsageError("this cannot work")
        super().__init__(*args, position=position, **options)


class DoesNotLearn(MultiHeadAttention):
    """Learns: drops nearly every weight in training."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, dropout=0.995)


class FalselyModest(MultiHeadAttention):
    """Learns: says that it cannot."""

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, can_recall=False)


class Undocumented(MultiHeadAttention):
    pass


class NoSource(MultiHeadAttention):
    """Looks at every token and takes the best of them: y = A v."""


# Faults that the small sizes of the laws do not show: the fuzz must find them.


class LeaksInOddChunks(RecurrentAttention):
    """Sees the last value of the sequence, but only with a chunk of an odd size, which no preset has."""

    def mix(self, heads: Heads) -> Tensor:
        o = super().mix(heads)
        return o + 1e-3 * heads.v[:, :, -1:] if self.chunk % 2 else o


class DropsARow(Window):
    """Decoding keeps too few rows of a window."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.cache_size = max(1, window - 2)
