"""The reduction lattice: X with setting S is Y. One table; each row holds with the setting, and fails without it."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.block_topk import BlockTopKAttention
from attnlab.attention.contextual_position import CoPE
from attnlab.attention.controls import IdentityAttention, UniformAttention
from attnlab.attention.decay import ChannelDecay, FixedDecay, KimiDecay, NoDecay, ScalarDecay, SlopeDecay, StepDecay
from attnlab.attention.entmax import Entmax, Sparsemax
from attnlab.attention.feature_map import RandomFeatures, UnitLength
from attnlab.attention.forgetting import Forget
from attnlab.attention.gate import Elementwise, Exclusive, Headwise
from attnlab.attention.head_wrapper import HeadWrapper, layered
from attnlab.attention.indexed import IndexedAttention
from attnlab.attention.layer_sharing import CrossLayerAttention, ValueResidualAttention
from attnlab.attention.log_linear import LogLinearAttention
from attnlab.attention.mamba import Mamba2Attention
from attnlab.attention.mask import Chunked, Dilated, LocalGlobal, Strided, Window, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.multi_token import MultiToken
from attnlab.attention.native_sparse import NativeSparseAttention
from attnlab.attention.normalizer import Sigmoid, Sink, Softmax1
from attnlab.attention.output_norm import RMSOutputNorm, SumNorm
from attnlab.attention.path import Path
from attnlab.attention.position import NoPE
from attnlab.attention.position_bias import FIRE, ALiBi, Kerple, T5Bias, alibi_slopes
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import LinearRoPE, Llama3RoPE, RoPE, YaRN
from attnlab.attention.scalable_softmax import SSMax
from attnlab.attention.score import QKNorm, Scaled, SoftCap, Unscaled
from attnlab.attention.selective import Selective
from attnlab.attention.self_attention import SelfAttention
from attnlab.attention.simple import SimpleAttention
from attnlab.attention.synthesizer import DenseSynthesizer, RandomSynthesizer
from attnlab.attention.talking_heads import TalkingHeads
from attnlab.attention.tensor_product import TensorProductAttention
from attnlab.attention.tied import TiedAttention
from attnlab.attention.write import DeltaWrite
from attnlab.laws.layer_in_stack import LayerInStack
from attnlab.laws.subject import BATCH, D_MODEL, SAME, gap, perturbed, subject_of, tokens

T, H, W = 13, 4, D_MODEL // 4
Make = Callable[..., Attention]
# What a parameter becomes: one number, or what a function of the parameter and of the whole layer says.
Numbers = Mapping[str, float | Tensor | Callable[[Tensor, Any], Tensor]]


# How numbers go from X to Y


def by_name(one: Any, other: Any) -> None:
    """Y has the numbers of X wherever a parameter has the same name."""
    mine = dict(one.named_parameters())
    for name, parameter in other.named_parameters():
        if name in mine and mine[name].shape == parameter.shape:
            parameter.copy_(mine[name])


def renamed(**names: str) -> Callable[[Any, Any], None]:
    """Y has the numbers of X, some of them under another name: y = x, with __ for a dot."""

    def carry(one: Any, other: Any) -> None:
        by_name(one, other)
        for theirs, mine in names.items():
            other.get_parameter(theirs.replace("__", ".")).copy_(one.get_parameter(mine.replace("__", ".")))

    return carry


def selected(rows: Callable[[Tensor], Tensor], *names: str) -> Callable[[Any, Any], None]:
    """Y has the numbers of X, and of these parameters some of the rows."""

    def carry(one: Any, other: Any) -> None:
        by_name(one, other)
        for name in names:
            other.get_parameter(name).copy_(rows(one.get_parameter(name)))

    return carry


def one_more(one: Any, other: Any) -> None:
    """Gains stored less one to gains."""
    by_name(one, other)
    for name in QK_GAINS:
        other.get_parameter(name).copy_(one.get_parameter(name) + 1)


def first_half_of_values(one: Any, other: Any) -> None:
    """Of each head's values the first half of the rows, and of the output the columns that read them."""
    by_name(one, other)
    other.qkv.to_v.weight.copy_(one.qkv.to_v.weight.unflatten(0, (H, W))[:, : W // 2].flatten(0, 1))
    other.to_out.weight.copy_(one.to_out.weight.unflatten(1, (H, W))[:, :, : W // 2].flatten(1))


def gain_of_a_head(one: Any, other: Any) -> None:
    """Gains of all values to those of one head."""
    by_name(one, other)
    other.output_norm.norm.weight.copy_(one.gain[:W])


QK_GAINS = ("score.0.q_norm.weight", "score.0.k_norm.weight")
VALUES_ONLY = renamed(to_v__weight="qkv__to_v__weight")
KEYS_VALUES = ("qkv.to_k.weight", "qkv.to_v.weight")


def to_heads(one: Any, other: Any) -> None:
    """Rows of joint projections to heads that stand alone."""
    for i, head in enumerate(other.parts):
        for which in ("to_q", "to_k", "to_v"):
            getattr(head.qkv, which).weight.copy_(getattr(one.qkv, which).weight.unflatten(0, (H, W))[i])


def from_heads(one: Any, other: Any) -> None:
    """Heads that stand alone to rows of joint projections, and to blocks of a joint output projection."""
    for which in ("to_q", "to_k", "to_v"):
        getattr(other.qkv, which).weight.copy_(torch.cat([getattr(head.qkv, which).weight for head in one.parts]))
    other.to_out.weight.copy_(torch.block_diag(*(head.to_out.weight for head in one.parts)))


def from_factors(one: Any, other: Any) -> None:
    by_name(one, other)
    for to, factor in ((other.qkv.to_q, one.q), (other.qkv.to_k, one.k), (other.qkv.to_v, one.v)):
        to.weight.copy_(factor.to_b.weight)


def tied_channels(sign: float) -> Callable[[Any, Any], None]:
    """The low rank of a decay per channel, multiplied out, to a decay per head."""

    def carry(one: Any, other: Any) -> None:
        by_name(one, other)
        rows = (one.decay.to_decay.weight @ one.decay.to_rank.weight).unflatten(0, (H, W))[:, 0]
        other.decay.to_decay.weight.copy_(sign * rows)
        other.decay.bias.copy_(sign * one.decay.bias[:, 0])
        if sign < 0:  # logsigmoid(s) / 16 = -exp(log 1/16) softplus(-s)
            other.decay.log_rate.fill_(-math.log(16))

    return carry


# What the parameters of X become


def says(value: float | Tensor) -> Callable[[Tensor, Any], Tensor]:
    """A linear map that says this, whatever the token: the first coordinate of every input here is 1."""

    def weight(old: Tensor, layer: Any) -> Tensor:
        return torch.cat([torch.as_tensor(value, dtype=old.dtype).expand(old.size(0))[:, None], 0 * old[:, 1:]], dim=1)

    return weight


def same_in_each(groups: int) -> Callable[[Tensor, Any], Tensor]:
    """Within each of so many groups of rows, all blocks of the width of a head are the first."""
    return lambda old, layer: (
        old.unflatten(0, (groups, -1, W))[:, :1].expand(-1, H // groups, -1, -1).reshape(old.shape)
    )


def one_row_per_head(old: Tensor, layer: Any) -> Tensor:
    """All rows of a head are its first."""
    return old.reshape(H, W, -1)[:, :1].expand(-1, W, -1).reshape(old.shape)


def around_zero(old: Tensor, layer: Any) -> Tensor:
    """Rows of each head whose sum is zero."""
    heads = old.unflatten(0, (H, W))
    return (heads - heads.mean(dim=1, keepdim=True)).flatten(0, 1)


def only_first_half(old: Tensor, layer: Any) -> Tensor:
    """Of each head the first half of the rows, and zeros."""
    heads = old.unflatten(0, (H, W)).clone()
    heads[:, W // 2 :] = 0
    return heads.flatten(0, 1)


def identity_kernel(old: Tensor, layer: Any) -> Tensor:
    kernel = torch.zeros_like(old)
    kernel[:, 0, old.size(-1) // 2] = 1.0
    return kernel


def one_factor_per_head(old: Tensor, layer: Any) -> Tensor:
    return says(H * torch.eye(H).flatten())(old, layer)


def only_the_first_write(old: Tensor, layer: Any) -> Tensor:
    """Of two write strengths per head the second is 0."""
    silent = says(-50.0)(old, layer)
    return torch.stack([old[::2], silent[1::2]], dim=1).flatten(0, 1)


def only_gate(which: int) -> Callable[[Tensor, Any], Tensor]:
    """Of the three gates of each head one is open and the others are shut."""
    return says(torch.tensor([50.0 if gate == which else -50.0 for gate in range(3) for _ in range(H)]))


class WithoutDecay(FixedDecay):
    """Rates of 1."""

    def constants(self, n_heads: int) -> list[float]:
        return [0.0] * n_heads


FIXED, SLOPED = (
    torch.tensor(kind(d_model=D_MODEL, n_heads=H, head_dim=W).constants(H), dtype=torch.float64)
    for kind in (FixedDecay, SlopeDecay)
)
SLOPES = torch.tensor(alibi_slopes(H), dtype=torch.float64)
LOG2 = math.log(2)  # softplus(0)
EYE = torch.eye(D_MODEL)
NO_QUERIES: Numbers = {"qkv.to_q.weight": 0.0}
NO_STEP: Numbers = {"decay.to_decay.weight": 0.0, "decay.bias": 0.0}

# The variants

mha: Make = partial(MultiHeadAttention, D_MODEL, n_heads=H, position=RoPE)
nope: Make = partial(MultiHeadAttention, D_MODEL, n_heads=H)
modified: Callable[..., Make] = lambda **modifiers: partial(nope, score=modifiers)  # noqa: E731
masked: Callable[..., Make] = lambda mask, *sizes: partial(mha, mask=partial(mask, *sizes))  # noqa: E731
placed: Callable[..., Make] = lambda kind, **options: partial(nope, position=partial(kind, **options))  # noqa: E731
self_: Make = partial(SelfAttention, D_MODEL, position=RoPE)
uniform: Make = partial(UniformAttention, D_MODEL, n_heads=H)
moba: Make = partial(BlockTopKAttention, D_MODEL, n_heads=H, position=RoPE, block=3, topk=1)
dsa: Make = partial(IndexedAttention, D_MODEL, n_heads=H, position=RoPE, topk=4, index_heads=2, index_dim=3)
nsa: Make = partial(NativeSparseAttention, D_MODEL, n_heads=H, position=RoPE, block=3, topn=1, window=4)
rec: Make = partial(RecurrentAttention, D_MODEL, n_heads=H, position=RoPE, chunk=5)
delta: Make = partial(rec, feature_map=UnitLength, write=DeltaWrite)
gated_delta: Make = partial(delta, decay=ScalarDecay)
decaying: Callable[..., Make] = lambda decay: partial(rec, decay=decay)  # noqa: E731
KINDS = {
    "local": partial(MultiHeadAttention, position=RoPE, mask=partial(Window, 3)),
    "global": partial(MultiHeadAttention, position=RoPE),
}
LAYERS = {name: partial(kind, n_heads=H) for name, kind in KINDS.items()}
HEADS = {name: partial(kind, n_heads=1) for name, kind in KINDS.items()}
HEADS["self"] = partial(SelfAttention, position=RoPE)


class Edge(NamedTuple):
    """X with these options and these numbers is Y, with the numbers carried over; looked at in this layer."""

    x: Make
    y: Make
    options: Mapping[str, Any] = {}
    numbers: Numbers = {}
    carry: Callable[[Any, Any], None] = by_name
    layer: int = 0


EDGES = {
    # heads
    "gqa with as many groups as heads is multi_head": Edge(partial(mha, n_kv_heads=2), mha, {"n_kv_heads": H}),
    "multi_head whose heads share one key and value is mqa": Edge(
        mha, partial(mha, n_kv_heads=1), {}, dict.fromkeys(KEYS_VALUES, same_in_each(1)),
        selected(lambda w: w[:W], *KEYS_VALUES),
    ),
    "multi_head whose values are empty in half is multi_head with narrower values": Edge(
        mha, partial(mha, value_dim=W // 2), {}, {"qkv.to_v.weight": only_first_half}, first_half_of_values
    ),
    "multi_head whose pairs of heads share keys and values is gqa": Edge(
        mha, partial(mha, n_kv_heads=2), {}, dict.fromkeys(KEYS_VALUES, same_in_each(2)),
        selected(lambda w: w.unflatten(0, (2, -1))[:, :W].flatten(0, 1), *KEYS_VALUES),
    ),
    "gqa whose groups are alike is mqa": Edge(
        partial(mha, n_kv_heads=2), partial(mha, n_kv_heads=1), {},
        dict.fromkeys(KEYS_VALUES, lambda w, layer: w[:W].repeat(2, 1)), selected(lambda w: w[:W], *KEYS_VALUES),
    ),
    "multi_head whose keys are its values is tied_kv": Edge(
        mha, partial(TiedAttention, D_MODEL, n_heads=H, position=RoPE), {},
        {"qkv.to_v.weight": lambda old, layer: layer.qkv.to_k.weight},
        renamed(to_q__weight="qkv__to_q__weight", to_kv__weight="qkv__to_k__weight"),
    ),
    "multi_head that joins heads as they are is stacked_heads": Edge(
        mha, partial(HeadWrapper, D_MODEL, n_heads=H, pattern="self", kinds=HEADS), {}, {"to_out.weight": EYE}, to_heads
    ),
    "multi_head with one head that is not projected is self": Edge(
        partial(mha, n_heads=1), self_, {}, {"to_out.weight": EYE}
    ),
    "self that keeps its input is simple": Edge(
        partial(SelfAttention, D_MODEL), partial(SimpleAttention, D_MODEL), {},
        {"qkv.to_q.weight": D_MODEL**0.5 * EYE, "qkv.to_k.weight": EYE, "qkv.to_v.weight": EYE},
    ),
    "tpa with one fixed head factor per head is multi_head": Edge(
        partial(TensorProductAttention, D_MODEL, n_heads=H, q_rank=H, k_rank=H, v_rank=H, position=RoPE), mha, {},
        {f"{which}.to_a.weight": one_factor_per_head for which in "qkv"}, from_factors,
    ),
    # layers
    "value_residual that keeps its own values is multi_head": Edge(
        partial(ValueResidualAttention, D_MODEL, n_heads=H, position=RoPE), mha, {}, {"own": 1.0}, layer=1
    ),
    "cross_layer in which every layer makes keys is multi_head": Edge(
        partial(CrossLayerAttention, D_MODEL, n_heads=H, position=RoPE, every=2), mha, {"every": 1}, layer=1
    ),
    "hybrid of global layers only is multi_head": Edge(
        partial(layered, D_MODEL, pattern="local global", kinds=LAYERS), mha, {"pattern": "global"}
    ),
    "hybrid of local layers only is sliding_window": Edge(
        partial(layered, D_MODEL, pattern="local global", kinds=LAYERS), masked(Window, 3), {"pattern": "local"},
        layer=1,
    ),
    "head_mix of global heads only is multi_head that joins heads block by block": Edge(
        partial(HeadWrapper, D_MODEL, n_heads=H, pattern="global local", kinds=HEADS), mha, {"pattern": "global"}, {},
        from_heads,
    ),
    # masks
    "sliding_window as long as the text is multi_head": Edge(masked(Window, 4), mha, {"mask": partial(Window, T)}),
    "sliding_window of one is identity": Edge(
        masked(Window, 4), partial(IdentityAttention, D_MODEL, n_heads=H), {"mask": partial(Window, 1)}, {}, VALUES_ONLY
    ),
    "window_sinks as long as the text is multi_head": Edge(
        masked(WindowSinks, 4, 1), mha, {"mask": partial(WindowSinks, T, 1)}
    ),
    "chunked in one chunk is multi_head": Edge(masked(Chunked, 4), mha, {"mask": partial(Chunked, T)}),
    "chunked in chunks of one is sliding_window of one": Edge(
        masked(Chunked, 4), masked(Window, 1), {"mask": partial(Chunked, 1)}
    ),
    "strided with stride 1 is multi_head": Edge(masked(Strided, 4), mha, {"mask": partial(Strided, 1)}),
    "strided with a stride as long as the text is multi_head": Edge(
        masked(Strided, 4), mha, {"mask": partial(Strided, T)}
    ),
    "dilated with dilation 1 is sliding_window": Edge(
        masked(Dilated, 5, 2), masked(Window, 5), {"mask": partial(Dilated, 5, 1)}
    ),
    "dilated with a window of one is sliding_window of one": Edge(
        masked(Dilated, 5, 2), masked(Window, 1), {"mask": partial(Dilated, 1, 9)}
    ),
    "local_global where all are global is multi_head": Edge(
        masked(LocalGlobal, 4, 5), mha, {"mask": partial(LocalGlobal, 4, 1)}
    ),
    "local_global with a window as long as the text is multi_head": Edge(
        masked(LocalGlobal, 4, 5), mha, {"mask": partial(LocalGlobal, T, 5)}
    ),
    "local_global with the first token only is window_sinks": Edge(
        masked(LocalGlobal, 4, 5), masked(WindowSinks, 4, 1), {"mask": partial(LocalGlobal, 4, T)}
    ),
    # keys chosen by contents
    "moba that reads all blocks is multi_head": Edge(moba, mha, {"topk": 5}),
    "moba with one block is multi_head": Edge(moba, mha, {"block": T}),
    "dsa that reads all keys is multi_head": Edge(dsa, mha, {"topk": T}),
    "nsa with its window only is sliding_window": Edge(
        nsa, masked(Window, 4), {}, {"to_gates.weight": only_gate(2)}
    ),
    "nsa with its blocks only, all of them, is multi_head": Edge(
        nsa, mha, {"topn": 5}, {"to_gates.weight": only_gate(1)}
    ),
    "nsa with its blocks only, rated by plain means, is moba": Edge(
        nsa, moba, {}, {"to_gates.weight": only_gate(1), "pool_k": 0.0}
    ),
    "nsa with summaries of single tokens only is multi_head": Edge(
        nsa, mha, {"block": 1}, {"to_gates.weight": only_gate(0)}
    ),
    # weights
    "sink with logits of minus infinity is multi_head": Edge(
        partial(mha, normalizer=Sink), mha, {}, {"normalizer.logit": -math.inf}
    ),
    "sink with logits of 0 is softmax1": Edge(
        partial(mha, normalizer=Sink), partial(mha, normalizer=Softmax1), {}, {"normalizer.logit": 0.0}
    ),
    "multi_head without queries is uniform": Edge(mha, uniform, {}, NO_QUERIES, VALUES_ONLY),
    "entmax without queries is uniform": Edge(partial(mha, normalizer=Entmax), uniform, {}, NO_QUERIES, VALUES_ONLY),
    "sparsemax without queries is uniform": Edge(
        partial(mha, normalizer=Sparsemax), uniform, {}, NO_QUERIES, VALUES_ONLY
    ),
    "sigmoid without queries is softmax1 without queries": Edge(
        partial(mha, normalizer=Sigmoid), partial(mha, normalizer=Softmax1), {}, NO_QUERIES
    ),
    "synthesizer_dense of zeros is uniform": Edge(
        partial(DenseSynthesizer, D_MODEL, n_heads=H, context=T), uniform, {},
        {"to_hidden.weight": 0.0, "to_hidden.bias": 0.0},
    ),
    "synthesizer_random of zeros is uniform": Edge(
        partial(RandomSynthesizer, D_MODEL, n_heads=H, context=T), uniform, {}, {"table": 0.0}
    ),
    # scores
    "temperature of 1 is multi_head": Edge(
        modified(it=partial(Scaled, temperature=2.0)), nope, {"score": {"it": partial(Scaled, temperature=1.0)}}
    ),
    "temperature of 1 / sqrt(d) is unscaled": Edge(
        modified(it=Scaled), modified(it=Unscaled), {"score": {"it": partial(Scaled, temperature=W**-0.5)}}
    ),
    "a scale of 1 / sqrt(d) is multi_head": Edge(
        modified(it=partial(Scaled, scale=0.1)), nope, {"score": {"it": partial(Scaled, scale=W**-0.5)}}
    ),
    "qk_norm over all heads of one is qk_norm": Edge(
        partial(mha, score={"it": partial(QKNorm, over="all")}), partial(mha, n_heads=1, score={"it": QKNorm}),
        {"n_heads": 1},
    ),
    "qk_norm after positions with one gain is qk_norm": Edge(
        partial(mha, score={"it": partial(QKNorm, when="after")}), partial(mha, score={"it": QKNorm}), {},
        dict.fromkeys(QK_GAINS, 1.3),
    ),
    "qk_norm with gains of 1 is qk_norm without": Edge(
        modified(it=QKNorm), modified(it=partial(QKNorm, gain=False)), {}, dict.fromkeys(QK_GAINS, 1.0)
    ),
    "qk_norm with gains less one is qk_norm": Edge(
        modified(it=QKNorm), modified(it=QKNorm), {"score": {"it": partial(QKNorm, unit_offset=True)}}, {}, one_more
    ),
    "qk_norm by LayerNorm of queries and keys around 0 is qk_norm": Edge(
        modified(it=partial(QKNorm, kind="layer", bias=True, eps=0.1)), modified(it=partial(QKNorm, eps=0.1)), {},
        {
            **dict.fromkeys(("qkv.to_q.weight", "qkv.to_k.weight"), around_zero),
            "score.0.q_norm.bias": 0.0, "score.0.k_norm.bias": 0.0,
        },
    ),
    "softcap that is never reached is multi_head": Edge(  # c tanh(z / c) = z - z^3 / 3c^2
        modified(it=partial(SoftCap, cap=0.1)), nope, {"score": {"it": partial(SoftCap, cap=1e7)}}
    ),
    "ssmax with gain 1 / ln 2 where two keys are seen is sliding_window of two": Edge(
        partial(masked(Window, 2), score={"it": SSMax}), masked(Window, 2), {}, {"score.0.gain": 1 / LOG2}
    ),
    "talking_heads that do not mix are multi_head": Edge(
        modified(it=TalkingHeads), nope, {}, {"score.0.before": torch.eye(H), "score.0.after": torch.eye(H)}
    ),
    "fox with open gates is multi_head": Edge(
        modified(it=Forget), nope, {}, {"score.0.to_forget.weight": 0.0, "score.0.bias": 50.0}
    ),
    "fox with constant gates is alibi": Edge(
        modified(it=Forget), placed(ALiBi), {},
        {"score.0.to_forget.weight": 0.0, "score.0.bias": -SLOPES.expm1().log()},
    ),
    "selective whose scores are never positive is multi_head": Edge(
        modified(it=Selective), nope, {},
        {
            "qkv.to_q.weight": says(1.0),
            "qkv.to_k.weight": lambda old, layer: torch.cat([old[:, :1] - 9, old[:, 1:]], dim=1),
        },
    ),
    "cope with an empty table is multi_head": Edge(
        modified(it=partial(CoPE, p_max=3)), nope, {}, {"score.0.table.weight": 0.0}
    ),
    "path that reflects nothing is multi_head": Edge(
        modified(it=Path), nope, {}, {"score.0.to_beta.weight": 0.0, "score.0.to_beta.bias": -50.0}
    ),
    "multi_token with an identity kernel is multi_head": Edge(
        modified(it=partial(MultiToken, queries=3, keys=3)), nope, {}, {"score.0.kernel": identity_kernel}
    ),
    "multi_token with a kernel of one half is temperature of 2": Edge(
        modified(it=partial(MultiToken, queries=3, keys=3)), modified(it=partial(Scaled, temperature=2.0)),
        {"score": {"it": partial(MultiToken, queries=1, keys=1)}}, {"score.0.kernel": 0.5},
    ),
    # gates
    "gated with open gates is multi_head": Edge(
        partial(mha, gate=Elementwise), mha, {}, {"gate.to_gate.weight": says(50.0)}
    ),
    "gated_headwise with open gates is multi_head": Edge(
        partial(mha, gate=Headwise), mha, {}, {"gate.to_gate.weight": says(50.0)}
    ),
    "gated with one gate for all coordinates is gated_headwise": Edge(
        partial(mha, gate=Elementwise), partial(mha, gate=Headwise), {}, {"gate.to_gate.weight": one_row_per_head},
        selected(lambda w: w[::W], "gate.to_gate.weight"),
    ),
    "exclusive with alpha 0 is multi_head": Edge(partial(mha, gate=Exclusive), mha, {}, {"gate.alpha": 0.0}),
    # positions
    "rope_partial of the whole head is rope": Edge(
        placed(RoPE, fraction=0.5), mha, {"position": partial(RoPE, fraction=1.0)}
    ),
    "linear scaling by a factor of 1 is rope": Edge(
        placed(LinearRoPE, factor=4.0), mha, {"position": partial(LinearRoPE, factor=1.0)}
    ),
    "llama3 by a factor of 1 is rope": Edge(
        placed(Llama3RoPE, factor=4.0), mha, {"position": partial(Llama3RoPE, factor=1.0)}
    ),
    "llama3 where every pair is slow is linear scaling": Edge(
        placed(Llama3RoPE, factor=4.0, original_context=60), placed(LinearRoPE, factor=4.0),
        {"position": partial(Llama3RoPE, factor=4.0, original_context=1)},
    ),
    "yarn over pairs by a factor of 1 is rope": Edge(
        placed(YaRN, factor=4.0, ramp="pairs"), mha, {"position": partial(YaRN, factor=1.0, ramp="pairs")}
    ),
    "yarn over pairs that are all fast is rope": Edge(
        placed(YaRN, ramp="pairs", attention_factor=1.0), mha,
        {"position": partial(YaRN, ramp="pairs", original_context=3_000_000, attention_factor=1.0)},
    ),
    "yarn by a factor of 1 is rope": Edge(placed(YaRN, factor=4.0), mha, {"position": partial(YaRN, factor=1.0)}),
    "t5 with an empty table is none": Edge(placed(T5Bias), nope, {}, {"position.table.weight": 0.0}),
    "t5 with a straight table is alibi": Edge(
        placed(T5Bias), placed(ALiBi), {}, {"position.table.weight": -torch.arange(32)[:, None] * SLOPES}
    ),
    "kerple without strength is none": Edge(placed(Kerple), nope, {}, {"position.strength": -1000.0}),
    "fire without an output is none": Edge(placed(FIRE), nope, {}, {"position.to_bias.weight": 0.0}),
    # memories
    "retention without decay is linear without a norm": Edge(
        decaying(FixedDecay), decaying(NoDecay), {"decay": WithoutDecay}
    ),
    "a scalar decay that hears no token is retention": Edge(
        decaying(ScalarDecay), decaying(FixedDecay), {}, {**NO_STEP, "decay.log_rate": (-FIXED / LOG2).log()}
    ),
    "a scalar decay that hears no token is lightning": Edge(
        decaying(ScalarDecay), decaying(SlopeDecay), {}, {**NO_STEP, "decay.log_rate": (-SLOPED / LOG2).log()}
    ),
    "mamba2 whose steps are 1 is retention": Edge(
        decaying(StepDecay), decaying(FixedDecay), {},
        {"decay.to_decay.weight": 0.0, "decay.bias": math.log(math.expm1(1.0)), "decay.log_rate": (-FIXED).log()},
    ),
    "gla without decay is linear without a norm": Edge(
        decaying(ChannelDecay), decaying(NoDecay), {}, {"decay.to_decay.weight": 0.0, "decay.bias": 50.0}
    ),
    "gla with tied channels is a scalar decay": Edge(
        decaying(ChannelDecay), decaying(ScalarDecay), {},
        {"decay.to_decay.weight": one_row_per_head, "decay.bias": lambda old, layer: old[:, :1].expand(H, W)},
        tied_channels(-1.0),
    ),
    "gated_delta without decay is delta_net": Edge(gated_delta, delta, {}, {"decay.log_rate": -math.inf}),
    "kda without decay is delta_net": Edge(
        partial(delta, decay=KimiDecay), delta, {}, {"decay.log_rate": -math.inf}
    ),
    "kda with tied channels is gated_delta": Edge(
        partial(delta, decay=KimiDecay), gated_delta, {},
        {"decay.to_decay.weight": one_row_per_head, "decay.bias": lambda old, layer: old[:, :1].expand(H, W)},
        tied_channels(1.0),
    ),
    "delta_product of one write is gated_delta": Edge(partial(gated_delta, writes=2), gated_delta, {"writes": 1}),
    "delta_product whose second write is empty is gated_delta": Edge(
        partial(gated_delta, writes=2), gated_delta, {}, {"write.to_beta.weight": only_the_first_write},
        lambda one, other: (
            selected(lambda w: w.unflatten(0, (H, 2, W))[:, 0].flatten(0, 1), *KEYS_VALUES)(one, other),
            selected(lambda w: w[::2], "write.to_beta.weight")(one, other),
        )[0],
    ),
    "gated_delta whose keys are shared by pairs of heads is gated_delta with half as many": Edge(
        gated_delta, partial(gated_delta, n_key_heads=2), {},
        dict.fromkeys(("qkv.to_q.weight", "qkv.to_k.weight"), same_in_each(2)),
        selected(lambda w: w.unflatten(0, (2, -1))[:, :W].flatten(0, 1), "qkv.to_q.weight", "qkv.to_k.weight"),
    ),
    "lengths with an eps of 0 are lengths": Edge(
        partial(delta, feature_map=partial(UnitLength, eps=1.0)), delta, {"feature_map": UnitLength}
    ),
    "steps without limits are steps": Edge(
        decaying(partial(StepDecay, least=0.4, most=0.5)), decaying(StepDecay), {"decay": partial(StepDecay, most=1e9)}
    ),
    "a convolution without a shift is a convolution": Edge(
        partial(rec, conv=3, conv_bias=True), partial(rec, conv=3), {}, {"qkv.conv.bias": 0.0}
    ),
    "mamba2_mixer with one gate and no way past the state is mamba2 without a gate": Edge(
        partial(Mamba2Attention, D_MODEL, n_heads=H, chunk=5, norm_eps=1e-30),
        partial(rec, position=NoPE, decay=StepDecay, output_norm=partial(RMSOutputNorm, eps=1e-30)), {},
        {"skip": 0.0, "to_gate.weight": says(1.0), "gain": 0.7}, gain_of_a_head,
    ),
    "log_linear that rates all levels alike is a scalar decay": Edge(
        partial(LogLinearAttention, D_MODEL, n_heads=H, position=RoPE, decay=ScalarDecay, context=T),
        partial(rec, decay=ScalarDecay, output_norm=RMSOutputNorm), {}, {"to_level.weight": 0.0},
        renamed(output_norm__norm__weight="output_norm__weight"),
    ),
}  # fmt: skip


def built(make: Make, layer: int, numbers: Numbers) -> LayerInStack:
    """The layer in fp64, off its initial values and with these numbers, above those that it reads."""
    layers: list[Any] = [make(layer=i, n_layers=2).double() for i in range(layer + 1)]
    with torch.no_grad():
        for i, made in enumerate(layers):
            for parameter in made.parameters():
                parameter.zero_()
            perturbed(made, seed=i)
        named = dict(layers[-1].named_parameters())
        for name, value in numbers.items():
            here = named[name]
            new = value(here.clone(), layers[-1]) if callable(value) else torch.as_tensor(value, dtype=here.dtype)
            here.copy_(new.expand_as(here))
    return LayerInStack(layers[-1], layers[:-1] if layers[-1].traits.requires else [], "").eval()


@torch.no_grad()
def apart(edge: Edge, options: Mapping[str, Any], numbers: Numbers) -> float:
    """How far X with these options and numbers is from Y."""
    one, other = built(partial(edge.x, **options), edge.layer, numbers), built(edge.y, edge.layer, {})
    edge.carry(one.layer, other.layer)
    x = 4 * tokens(BATCH, T)
    x[..., 0] = 1.0
    return gap(one(x), other(x))


@pytest.mark.parametrize("name", EDGES)
def test_with_its_setting_it_is_the_other(name: str) -> None:
    assert apart(EDGES[name], EDGES[name].options, EDGES[name].numbers) < SAME


@pytest.mark.parametrize("name", EDGES)
def test_without_its_setting_it_is_not(name: str) -> None:
    assert apart(EDGES[name], {}, {}) > 1e-4


@torch.no_grad()
@pytest.mark.parametrize(("features", "least", "most"), [(8, 0.1, 1.0), (2**14, 0.0, 0.02)])
def test_performer_estimates_softmax(features: int, least: float, most: float) -> None:
    """With many random features an estimated softmax is multi_head's; with few it is further off."""
    random = partial(RandomFeatures, features=features)
    performer = built(partial(rec, position=NoPE, feature_map=random, output_norm=SumNorm), 0, {})
    softmax = built(nope, 0, {})
    by_name(performer.layer, softmax.layer)
    x = tokens(BATCH, T)
    assert least <= gap(performer(x), softmax(x)) < most


@torch.no_grad()
@pytest.mark.parametrize("name", ["multi_token", "talking_heads"])
def test_starts_as_multi_head(name: str) -> None:
    """What mixes scores starts by mixing nothing, whatever the projections are; moved off its start it mixes."""
    one, other = (subject_of(kind).layer(0).double().eval() for kind in (name, "multi_head"))
    perturbed(other)
    one.load_state_dict(other.state_dict(), strict=False)
    x = 4 * tokens(BATCH, T)
    assert gap(one(x), other(x)) < SAME
    perturbed(one)
    other.load_state_dict({key: one.state_dict()[key] for key in other.state_dict()})
    assert gap(one(x), other(x)) > 1e-4
