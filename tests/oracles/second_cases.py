"""Rules that had no oracle, and second opinions on some that had one: by authors, or by people who know neither code.

What an operator for GPUs would compute is written out beside it, here or by another library. To run one again, see
repository_cases.py; they need einops besides.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tests.oracles.case import (
    BATCH,
    LENGTH,
    WIDTH,
    Case,
    Recording,
    Tensors,
    coarse,
    coarsen,
    generator,
    in_double,
    layer_with,
    part_of,
    recorded,
)
from tests.oracles.fla_cases import head_first, mixed, operator, unit
from tests.oracles.hugging_face import EPS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnlab.attention.base import Attention, HeadedAttention
from attnlab.attention.heads import Heads
from attnlab.attention.write import Erasure

SPEEDRUN = "KellerJordan/modded-nanogpt@f411b3d346aa52d3504324ca93c230fd84c6c07f"
LOOK_AHEAD = "lucidrains/lookahead-keys-attention@84647dcaa5e55eb5c41842a5afce927730ecf42b"
POLAR = "lucidrains/PoPE-pytorch@ee11cab0dda8361b02fec56975e84e419ea6a631"
RAVEN = "goombalab/raven@afc329f4d45d8be494053469f00f5a7fdc4ef7f7"
COMBA = "AwesomeSeq/Comba-triton@b26afc0a6f00fb7dd46f85ae3a06db7b4031b2a1"
HGRN2 = "Doraemonzzz/hgru2-pytorch@caf92f0d8f31d946ec5537f7bb6b529b7230e8ee"
HEADS, HEAD, SLOTS = 4, 4, 4
ROW = 16  # tokens: the speedrun's rows are multiples of it, one of them in a batch


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    draw = generator()
    return {name: coarse(*shape, draw=draw).requires_grad_() for name, shape in shapes.items()}


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    """Scaled products, of what no query may read -inf."""
    hidden = torch.ones(q.size(-2), k.size(-2), dtype=torch.bool).triu(1)
    return (q @ k.mT / q.size(-1) ** 0.5).masked_fill(hidden, float("-inf"))


class Copying(TorchFunctionMode):
    """Moves part of a tensor within itself, which a compiler would do by a copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__setitem__:
            args = (*args[:2], args[2].clone())
        return func(*args, **(kwargs or {}))


class Still:
    """Positions that turn nothing."""

    attn_scale = HEAD**-0.5

    def rotary(self, x: Tensor) -> Tensor:
        return x


def speedrun(*, paired: bool = False, key_offset: bool = False, exclusive: bool = False) -> Recording:
    """One attention layer of modded-nanogpt, without norms, positions and gates, whose kernel is torch's."""

    class Kernel:
        @staticmethod
        def flash_attn_varlen_func(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
            return (scores_of(q, k).softmax(dim=-1) @ v).transpose(0, 1).contiguous()

    class Arguments:
        aux_v = attn_gate_w = xsa_alpha = None
        sa_lambdas = (1.0, 1.0)
        seqlens, bm_size, train_max_seq_len, yarn = torch.tensor([0, ROW]), 2 * ROW, ROW, Still()

    class Sizes:
        val_batch_size = ROW

    theirs = part_of(
        SPEEDRUN,
        "train_gpt.py",
        "CausalSelfAttention",
        norm=torch.clone,
        flash_attn_interface=Kernel,
        args=Sizes,
        AttnArgs=object,
        **{"grad_accum_steps": 1, "world_size": 1},
    )
    with in_double(), Copying():
        module = theirs.CausalSelfAttention(WIDTH, HEAD, HEADS, paired=paired)
        inputs = drawn(x=(1, ROW, WIDTH), bank=(4 * WIDTH, WIDTH))
        settings = Arguments()
        settings.key_offset = key_offset  # type: ignore[attr-defined]
        if exclusive:
            inputs |= drawn(alpha=(HEADS,))
            settings.xsa_alpha = inputs["alpha"].expand(ROW, HEADS)  # type: ignore[assignment]
        return recorded(inputs, {"y": module(inputs["x"], settings, inputs["bank"])})


def banked(w: Tensors) -> dict[str, Tensor]:
    q, k, v, out = w["bank"].chunk(4)
    weights = {"qkv.to_q.weight": q, "qkv.to_k.weight": k, "qkv.to_v.weight": v, "to_out.weight": out}
    return weights | ({"gate.alpha": w["alpha"].tanh()} if "alpha" in w else {})


def paired(w: Tensors) -> dict[str, Tensor]:
    """Pairs are neighbours in ours, and heads h and h + n / 2 in theirs."""

    def beside(x: Tensor) -> Tensor:
        return x.unflatten(0, (2, HEADS // 2, HEAD)).transpose(0, 1).flatten(0, 2)

    weights = banked(w)
    out = beside(weights.pop("to_out.weight").mT).mT
    return {name: beside(x) for name, x in weights.items()} | {"to_out.weight": out}


def look_ahead() -> Recording:
    from einops.layers.torch import Rearrange

    names = ("Castle", "exists", "default", "max_neg_value")
    more = {"Module": nn.Module, "Rearrange": Rearrange, "RMSNorm": nn.RMSNorm, "einsum": torch.einsum}
    no_bias = partial(nn.Linear, bias=False)
    theirs = part_of(
        LOOK_AHEAD,
        "lookahead_keys_attention/lookahead_keys_attention.py",
        *names,
        **more,
        Cache=object,
        LinearNoBias=no_bias,
        TRITON_AVAILABLE=False,
    )
    with in_double():
        module = theirs.Castle(WIDTH, HEADS, HEAD, use_triton=False)
        coarsen(module)
        x = coarse(BATCH, LENGTH, WIDTH, draw=generator()).requires_grad_()
        return recorded({"x": x, **dict(module.named_parameters())}, {"y": module(x)})


def of_six(w: Tensors) -> dict[str, Tensor]:
    a, b, c, q, k, v = w["to_all_qkv.weight"].chunk(6)
    weights = {"qkv.to_q.weight": q, "qkv.to_k.weight": k, "qkv.to_v.weight": v}
    weights |= {f"score.1.to_ahead.{i}.weight": part for i, part in enumerate((a, b, c))}
    return weights | {"to_out.weight": w["combine_heads.weight"]}


def polar() -> Recording:
    """What it makes of queries and keys, and the softmax attention of these."""
    from einops import einsum, rearrange

    theirs = part_of(
        POLAR,
        "PoPE_pytorch/pope.py",
        *("PoPE", "apply_pope_to_qk", "exists", "default"),
        Module=nn.Module,
        Parameter=nn.Parameter,
        PolarEmbedReturn=lambda freqs, bias: (freqs, bias),
        autocast=torch.autocast,
        **{"rearrange": rearrange, "einsum": einsum, "arange": torch.arange, "pi": torch.pi, "cat": torch.cat},
        is_tensor=torch.is_tensor,
        slice_right_at_dim=lambda x, n, dim: x.narrow(dim, x.size(dim) - n, n),
    )
    with in_double():
        module = theirs.PoPE(HEAD, heads=HEADS)
        shape = (BATCH, LENGTH, HEADS, HEAD)
        inputs = drawn(q=shape, k=shape, v=shape)
        with torch.no_grad():
            module.bias.copy_(-coarse(HEADS, HEAD, draw=generator()).abs())  # it holds them from -2 pi to 0
        q, k, v = (head_first(inputs[n]) for n in "qkv")
        q, k = theirs.apply_pope_to_qk(module(LENGTH), q, k)
        o = (scores_of(q, k) * 2**0.5).softmax(dim=-1) @ v  # it has two numbers for each, and divides by sqrt(d)
        return recorded(inputs | {"bias": module.bias}, {"y": head_first(o)})


def turned(layer: Attention, i: Tensors) -> Tensors:
    def run(layer: Attention) -> Tensor:
        assert isinstance(layer, HeadedAttention)
        q, k, v = (head_first(i[n]) for n in "qkv")
        return layer.mix(Heads(layer.position.rotate(q, 0), layer.position.rotate_keys(k, 0), v))

    return {"y": head_first(with_weights(layer, {"position.delta": i["bias"][:, None]}, run))}


class Calling(nn.Module):
    """Runs a part of a layer, so that it can be called with weights that are handed to it."""

    def __init__(self, layer: Attention, run: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self) -> Tensor:
        return self.run(self.layer)


def with_weights(layer: Attention, weights: Tensors, run: Callable[[Any], Tensor]) -> Tensor:
    assert {*weights} <= {name for name, _ in layer.named_parameters()}
    named = {f"layer.{name}": w for name, w in weights.items()}
    y: Tensor = torch.func.functional_call(Calling(layer, run), named, ())
    return y


def raven() -> Recording:
    """The whole layer as it is judged, without noise; its memory is the plain form of fla-core's gated slots."""
    from einops import rearrange, repeat

    def memory(*, q: Tensor, k: Tensor, v: Tensor, s: Tensor, g: Tensor, scale: float, **rest: Any) -> Any:
        return operator("gsa").naive_recurrent_gsa(q, k, v, s, g.expand_as(s), scale=scale)

    def norm_linear(x: Tensor, gain: Tensor, bias: None, weight: Tensor, more: None) -> Tensor:
        return F.linear(F.rms_norm(x, (x.size(-1),), gain, EPS), weight)

    class Norm(nn.RMSNorm):
        bias = None

        def __init__(self, width: int, affine: bool, eps: float) -> None:
            super().__init__(width, eps=EPS)

    theirs = part_of(
        RAVEN,
        "raven/layers/raven.py",
        "RavenAttention",
        RavenAttention=object,
        Dict=dict,
        Cache=object,
        Unpack=Mapping,
        RMSNorm=Norm,
        SwishFeatureMap=nn.SiLU,
        fused_recurrent_raven=memory,
        rms_norm_linear=norm_linear,
        **{"rearrange": rearrange, "repeat": repeat},
    )
    with in_double():
        module = theirs.RavenAttention(hidden_size=WIDTH, num_heads=HEADS, num_slots=SLOTS, topk=2, layer_idx=0)
        coarsen(module.eval())
        x = coarse(BATCH, LENGTH, WIDTH, draw=generator()).requires_grad_()
        y, _, _ = module(x)
        return recorded({"x": x, **dict(module.named_parameters())}, {"y": y})


def routed(w: Tensors) -> dict[str, Tensor]:
    return {
        **{f"qkv.to_{n}.weight": w[f"{n}_proj.weight"] for n in "qkv"},
        **{f"{n}_norm.weight": w[f"{n}_norm.weight"] for n in "qk"},
        "decay.log_rate": w["A_log"],
        "decay.to_decay.weight": w["a_proj.weight"],
        "decay.bias": w["dt_bias"],
        "to_router.weight": w["r_proj.weight"],
        "norm.weight": w["g_norm.weight"],
        "to_out.weight": w["o_proj.weight"],
    }


def comba() -> Recording:
    """The chunks of the authors, three tokens each."""
    from einops import rearrange

    rule = part_of(COMBA, "fla/ops/comba/naive.py", "chunk_comba_dplr_ref", rearrange=rearrange).chunk_comba_dplr_ref
    with in_double():
        shape = (BATCH, LENGTH, HEADS, HEAD)
        inputs = drawn(q=shape, k=shape, v=shape, p=shape, g=shape[:3], beta=shape[:3])
        gates = {"g": -inputs["g"].detach().abs() / 4, "beta": inputs["beta"].detach().sigmoid().mul(128).round() / 128}
        inputs |= {name: x.requires_grad_() for name, x in gates.items()}
        q, k, rest = unit(inputs["q"]), unit(inputs["k"]), (inputs[n] for n in ("v", "p", "g", "beta"))
        y, _ = rule(q, k, *rest, chunk_size=3, head_first=False)
        return recorded(inputs, {"y": y})


def fed_back(layer: Attention, i: Tensors) -> Tensors:
    own = {"log_decay": head_first(i["g"]), "beta": head_first(i["beta"]), "own": Erasure(head_first(i["p"]))}
    return mixed(layer, unit(i["q"]) * HEAD**-0.5, unit(i["k"]), i["v"], **own)


def forgetting() -> Recording:
    """The authors' layer without its norm and its last matrix, whose recurrence runs in a kernel of theirs."""
    from einops import rearrange, repeat

    class Scan:
        @staticmethod
        def apply(x: Tensor, kept: Tensor) -> Tensor:
            rows, state = [], torch.zeros_like(x[0])
            for row, share in zip(x, kept, strict=True):
                state = share * state + row
                rows.append(state)
            return torch.stack(rows)

    theirs = part_of(
        HGRN2,
        "hgru2_pytorch/modules/hgru2_1d.py",
        "Hgru2_1d",
        print_params=lambda **settings: None,
        get_activation_fn=lambda name: {"none": lambda x: x, "silu": F.silu}[name],
        HgruRealFunction=Scan,
        **{"rearrange": rearrange, "repeat": repeat},
    )
    with in_double():
        module = theirs.Hgru2_1d(WIDTH, HEAD, "none", "silu", use_norm=False, bias=False)
        coarsen(module)
        module.out_proj = nn.Identity()
        x = coarse(LENGTH, BATCH, WIDTH, draw=generator()).requires_grad_()
        bound = drawn(bound=(WIDTH,))["bound"]
        y = module(x, bound.sigmoid().expand_as(x)).transpose(0, 1).unflatten(-1, (HEADS, HEAD))
        return recorded({"x": x, "bound": bound, **dict(module.named_parameters())}, {"y": y})


def forgotten(layer: Attention, i: Tensors) -> Tensors:
    """Of the third layer, so that there is a bound."""
    v, q, f = i["in_proj.weight"].chunk(3)
    weights = {"qkv.to_q.weight": q, "qkv.to_k.weight": f, "qkv.to_v.weight": v}
    weights |= {"bound": i["bound"].unflatten(0, (HEADS, 1, HEAD))}
    o = with_weights(layer, weights, lambda layer: layer.mix(layer.project(i["x"].transpose(0, 1))))
    return {"y": o.transpose(1, 2) * HEAD**0.5}


def chosen_sink() -> Recording:
    """Its weighted mean of values, with a sink's logit for each query; what is before and after is linear."""
    from transformers.models.inkling2.modeling_inkling2 import eager_attention_forward

    class Module(nn.Module):
        num_key_value_groups = 1

    with in_double():
        shape = (WIDTH, WIDTH)
        inputs = drawn(x=(BATCH, LENGTH, WIDTH), q=shape, k=shape, v=shape, out=shape, sink=(HEADS, WIDTH))
        x = inputs["x"]
        q, k, v = ((x @ inputs[n].mT).unflatten(-1, (HEADS, HEAD)).transpose(1, 2) for n in "qkv")
        hidden = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        sinks = (x @ inputs["sink"].mT).transpose(1, 2).unsqueeze(-1)
        o, weights = eager_attention_forward(Module(), q, k, v, hidden, HEAD**-0.5, sinks=sinks)
        return recorded(inputs, {"y": o.flatten(2) @ inputs["out"].mT, "map": weights})


def sunk(w: Tensors) -> dict[str, Tensor]:
    weights = {f"qkv.to_{n}.weight": w[n] for n in "qkv"}
    return weights | {"to_out.weight": w["out"], "score.1.to_sink.weight": w["sink"]}


NO_POSITIONS = ("position=none",)
LAYER = "train_gpt.py CausalSelfAttention"
BARE = "its norms of queries and keys, its rotation and its gates are left out"
CASES = [
    Case(
        "paired_heads",
        "paired_heads",
        SPEEDRUN,
        f"{LAYER}(paired=True)",
        partial(speedrun, paired=True),
        layer_with(paired),
        NO_POSITIONS,
        why=f"{BARE}; its pairs are heads h and h + n / 2",
    ),
    Case(
        "key_offset",
        "key_offset",
        SPEEDRUN,
        LAYER,
        partial(speedrun, key_offset=True),
        layer_with(banked),
        NO_POSITIONS,
        why=BARE,
    ),
    Case(
        "exclusive",
        "exclusive",
        SPEEDRUN,
        LAYER,
        partial(speedrun, exclusive=True),
        layer_with(banked),
        NO_POSITIONS,
        why=f"{BARE}; its share is a hyperbolic tangent",
    ),
    Case(
        "castle",
        "castle",
        LOOK_AHEAD,
        "lookahead_keys_attention/lookahead_keys_attention.py Castle",
        look_ahead,
        layer_with(of_six),
        NO_POSITIONS,
    ),
    Case(
        "query_sink",
        "query_sink",
        "transformers",
        "inkling2 eager_attention_forward",
        chosen_sink,
        layer_with(sunk),
        NO_POSITIONS,
        why="the map and its values; Inkling 2 also clips lengths and convolves keys and values",
    ),
    Case(
        "raven_layer",
        "raven",
        RAVEN,
        "raven/layers/raven.py RavenAttention",
        raven,
        layer_with(routed),
        (*NO_POSITIONS, f"attention.slots={SLOTS}", "attention.topk=2"),
        why="the whole layer, its router included, as it is judged: without noise",
    ),
    Case(
        "comba_rule",
        "comba",
        COMBA,
        "fla/ops/comba/naive.py chunk_comba_dplr_ref",
        comba,
        fed_back,
        ("attention.chunk=3",),
        why="a second opinion, of the authors: fla_comba is another library's",
    ),
    Case(
        "hgrn2_rule",
        "hgrn2",
        HGRN2,
        "hgru2_pytorch/modules/hgru2_1d.py Hgru2_1d.forward_lesshead",
        forgetting,
        forgotten,
        NO_POSITIONS,
        layer=2,
        why="a second opinion, of the authors, before the norm; they do not divide by sqrt(d)",
    ),
    Case(
        "pope_rule",
        "pope",
        POLAR,
        "PoPE_pytorch/pope.py PoPE, apply_pope_to_qk",
        polar,
        turned,
        why="a second opinion, on queries and keys alone",
    ),
]
