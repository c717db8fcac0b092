"""Rules against what their authors published beside the paper: functions and layers, cut out of their files.

Some stand here for rules that another library wrote anew, too, and are a second opinion on them. To run one again, see
repository_cases.py.
"""

import math
from functools import partial
from types import SimpleNamespace
from typing import Union

import torch
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
    interleaved,
    layer_with,
    part_of,
    recorded,
)
from tests.oracles.fla_cases import head_first, memory, mixed
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.mlstm import InputGate

COG = "trestad/CogAttn@efecf29e3e5a7a08b4c5b2b96afcbf9fac6900ef"
DIFFERENTIAL = "microsoft/unilm@768a3c873f598bb9b4d4dfb9267b099e35f8fe56"
MLSTM = "NX-AI/mlstm_kernels@39d3c61741e5d2c0e6ab8922106dd236632c5139"
MOBA = "MoonshotAI/MoBA@61e456bc956c5a25fd9c84e5496b661329cb1b72"
MULTI_TOKEN = "facebookresearch/RAM@e6f051fbcfaef4cab69bf2ea1b25f500f94c0c64"
PERFORMER = "lucidrains/performer-pytorch@fc8b78441b1e27eb5d9b01fc738a8772cee07127"
SOFTPICK = "zaydzuhri/softpick-attention@c97f4dc5f9fcec2e8afc2932db2cba6d7d7e5465"
STICKS = "shawntan/stickbreaking-attention@3147a3841b025a31d271fc8f873120ff6fa0461b"
TENSOR_PRODUCT = "tensorgi/T6@8f478201c189427e6415b03cc95c844146ee3506"
HEADS, HEAD = 4, 4
PLAIN = {"q": (LENGTH, HEADS, HEAD), "k": (LENGTH, HEADS, HEAD), "v": (LENGTH, HEADS, HEAD)}
ANNOTATIONS = {"Union": Union, "BlockMask": object, "AttentionBias": object}
HIDDEN = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    draw = generator()
    return {name: coarse(BATCH, *shape, draw=draw).requires_grad_() for name, shape in shapes.items()}


def plain(layer: Attention, i: Tensors) -> Tensors:
    return mixed(layer, i["q"], i["k"], i["v"])


def softpick() -> Recording:
    """Nothing is added to its sums."""
    theirs = part_of(SOFTPICK, "naive_softpick_attn.py", "softpick", "naive_softpick_attn")
    rule = theirs.softpick
    theirs.naive_softpick_attn.__globals__["softpick"] = partial(rule, eps=0.0)
    with in_double():
        inputs = drawn(**PLAIN)
        y, _ = theirs.naive_softpick_attn(*(head_first(inputs[n]) for n in "qkv"), head_first=True)
        return recorded(inputs, {"y": head_first(y)})


def rectified(layer: Attention, i: Tensors) -> Tensors:
    layer.normalizer.eps = 0.0
    return plain(layer, i)


def cog() -> Recording:
    theirs = part_of(
        COG,
        "Cogformer/attention.py",
        *("CogAttention", "apply_rotary_emb", "reshape_for_broadcast", "precompute_freqs_cis"),
        MyDynamicCache=object,
        BoolTensor=Tensor,
    )
    with in_double():
        module = theirs.CogAttention(0, WIDTH, HEADS, HEAD)
        coarsen(module)
        inputs = drawn(x=(LENGTH, WIDTH)) | dict(module.named_parameters())
        y, weights, _ = module(inputs["x"], theirs.precompute_freqs_cis(HEAD, LENGTH), ~HIDDEN[None, None])
        return recorded(inputs, {"y": y, "map": weights})


def transposed(w: Tensors) -> dict[str, Tensor]:
    return {f"qkv.to_{n}.weight": w[f"{n}w"].T for n in "qkv"} | {"to_out.weight": w["ow"].T}


class Exact(nn.Module):
    """The angles of a rotation, which the file rounds to bfloat16."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rates = 10000.0 ** (-torch.arange(0, dim, 2) / dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        angles = torch.outer(torch.arange(x.size(1)).to(self.rates), self.rates)[None, :, None]
        return angles.cos(), angles.sin()


def tensor_product() -> Recording:
    theirs = part_of(TENSOR_PRODUCT, "model/T6.py", "CPLinear", "CausalSelfAttention", "apply_rotary_emb", Rotary=Exact)
    with in_double():
        sizes = {"n_head": HEADS, "head_dim": HEAD, "n_embd": WIDTH, "rank": 2, "q_rank": 3}
        module = theirs.CausalSelfAttention(SimpleNamespace(**sizes))
        coarsen(module)
        inputs = drawn(x=(LENGTH, WIDTH)) | dict(module.named_parameters())
        return recorded(inputs, {"y": module(inputs["x"])})


def factors(w: Tensors) -> dict[str, Tensor]:
    """Factors over heads stand rank by rank here; a pair turns the other way there, which another order undoes."""
    ours = {"to_out.weight": w["c_proj.weight"]}
    for n in "qkv":
        ours[f"{n}.to_a.weight"] = w[f"c_qkv.W_A_{n}.weight"].unflatten(0, (HEADS, -1)).transpose(0, 1).flatten(0, 1)
        b = w[f"c_qkv.W_B_{n}.weight"]
        swapped = b.unflatten(0, (-1, 2, HEAD // 2)).flip(1).flatten(0, 2)
        ours[f"{n}.to_b.weight"] = b if n == "v" else interleaved(swapped, b.size(0) // HEAD)
    return ours


def blocks() -> Recording:
    """The rows of a batch one after the other."""
    theirs = part_of(MOBA, "moba/moba_naive.py", "moba_attn_varlen_naive")
    with in_double():
        inputs = drawn(**PLAIN)
        rows = (inputs[n].flatten(0, 1) for n in "qkv")
        starts = LENGTH * torch.arange(BATCH + 1)
        y = theirs.moba_attn_varlen_naive(*rows, starts, LENGTH, moba_chunk_size=2, moba_topk=3)
        return recorded(inputs, {"y": y.unflatten(0, (BATCH, -1))})


def convolved() -> Recording:
    """Scores, their convolution and what hides them, as its attention has them."""
    file = "projects/mta/mta_transformer.py"
    layer = part_of(MULTI_TOKEN, file, "Attention", MTATransformerArgs=object, **ANNOTATIONS).Attention
    with in_double():
        inputs = drawn(**PLAIN) | {"kernel": coarse(HEADS, 1, 3, 5, draw=generator()).requires_grad_()}
        q, k, v = (head_first(inputs[n]) for n in "qkv")
        self = SimpleNamespace(n_heads=HEADS, pad_key="both")
        hidden = layer._update_mask(self, None, BATCH, q, LENGTH)
        scores = layer._mta_convolution(self, q @ k.mT / math.sqrt(HEAD), hidden, None, inputs["kernel"])
        return recorded(inputs, {"y": head_first((scores + hidden).softmax(dim=-1) @ v)})


def convolving(layer: Attention, i: Tensors) -> Tensors:
    """Rows of our kernel go back in time, theirs forward."""
    (convolution,) = (mod for mod in layer.score_mods if hasattr(mod, "kernel"))
    del convolution.kernel
    convolution.kernel = i["kernel"].squeeze(1).flip(1)
    nothing = i["q"].new_zeros(BATCH, LENGTH, WIDTH)
    q, k, carried = layer.prepare_qk(head_first(i["q"]), head_first(i["k"]), nothing, 0)
    return mixed(layer, head_first(q), head_first(k), i["v"], carried=carried)


def random_features() -> Recording:
    theirs = part_of(
        PERFORMER,
        "performer_pytorch/performer_pytorch.py",
        *("softmax_kernel", "causal_linear_attention_noncuda"),
        repeat=lambda x, pattern, b, h: x.expand(b, h, *x.shape),
    )
    with in_double():
        inputs = drawn(**PLAIN)
        directions = coarse(6, HEAD, draw=generator())
        q, k, v = (head_first(inputs[n]) for n in "qkv")
        q, k = (
            theirs.softmax_kernel(x, projection_matrix=directions, is_query=is_query, eps=0.0)
            for x, is_query in ((q, True), (k, False))
        )
        return recorded(inputs, {"y": head_first(theirs.causal_linear_attention_noncuda(q, k, v, eps=0.0))})


def with_directions(layer: Attention, i: Tensors) -> Tensors:
    layer.feature_map.directions = coarse(6, HEAD, draw=generator())
    return memory(layer, i)


def sticks() -> Recording:
    """A token may take a share itself, as ours does."""
    theirs = part_of(STICKS, "stickbreaking_attention/sb_ref.py", "stickbreaking")
    with in_double():
        inputs = drawn(**PLAIN)
        y, _ = theirs.stickbreaking(
            *(head_first(inputs[n]) for n in "qkv"), HIDDEN, torch.ones(LENGTH, LENGTH).tril(-1)
        )
        return recorded(inputs, {"y": head_first(y)})


def exponential() -> Recording:
    theirs = part_of(MLSTM, "mlstm_kernels/torch/parallel/native/fw.py", "mlstm_parallel_fw")
    with in_double():
        inputs = drawn(**PLAIN, i=(LENGTH, HEADS), f=(LENGTH, HEADS))
        y, _, _ = theirs.mlstm_parallel_fw(*(head_first(inputs[n]) for n in "qkvif"), eps=0.0)
        return recorded(inputs, {"y": head_first(y)})


def gated_exponentially(layer: Attention, i: Tensors) -> Tensors:
    own = InputGate(head_first(i["i"])[..., None])
    decay = torch.nn.functional.logsigmoid(head_first(i["f"]))
    return mixed(layer, i["q"] * HEAD**-0.5, i["k"], i["v"], log_decay=decay, own=own)


def rotated_by(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Its kernel for GPUs, in plain torch; pairs are neighbours."""
    assert interleaved
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def two_maps() -> Recording:
    """Its second layer."""
    theirs = part_of(
        DIFFERENTIAL,
        "Diff-Transformer/multihead_diffattn.py",
        *("init_method", "repeat_kv", "lambda_init_fn", "MultiheadDiffAttn"),
        apply_rotary_emb=rotated_by,
        RMSNorm=nn.RMSNorm,
    )
    with in_double():
        module = theirs.MultiheadDiffAttn(WIDTH, 1, HEADS // 2)
        module.subln = nn.RMSNorm(2 * HEAD, eps=torch.finfo(torch.float64).eps)
        coarsen(module)
        inputs = drawn(x=(LENGTH, WIDTH)) | dict(module.named_parameters())
        angles = torch.outer(torch.arange(LENGTH).double(), 10000.0 ** (-torch.arange(HEAD // 2) * 2.0 / HEAD))
        return recorded(inputs, {"y": module(inputs["x"], (angles.cos(), angles.sin()))})


def our_maps(w: Tensors) -> dict[str, Tensor]:
    """The two maps of a head stand together there, too."""
    ours = {f"to_{n}.weight": w[f"{n}_proj.weight"] for n in ("q", "k", "v", "out")}
    ours |= {f"lambda_{n}": torch.stack([w[f"lambda_{n}1"], w[f"lambda_{n}2"]]) for n in "qk"}
    return ours | {"norm.weight": w["subln.weight"]}


CASES: list[Case] = [
    Case(
        "softpick",
        "softpick",
        SOFTPICK,
        "naive_softpick_attn.py naive_softpick_attn",
        softpick,
        rectified,
        ("position=none",),
        why="nothing is added to the sum that divides; theirs adds 1e-8 to it, ours 1e-6 to a larger one",
    ),
    Case(
        "cog",
        "cog",
        COG,
        "Cogformer/attention.py CogAttention",
        cog,
        layer_with(transposed),
        ("position=rope",),
    ),
    Case(
        "tpa",
        "tpa",
        TENSOR_PRODUCT,
        "model/T6.py CausalSelfAttention",
        tensor_product,
        layer_with(factors),
        ("position=rope", "attention.q_rank=3"),
        why="its rotations are rounded to bfloat16, and exact here",
    ),
    Case(
        "moba",
        "moba",
        MOBA,
        "moba/moba_naive.py moba_attn_varlen_naive",
        blocks,
        plain,
        ("position=none", "attention.block=2", "attention.topk=2"),
        why="its three best blocks are two of the past and the own one",
    ),
    Case(
        "multi_token",
        "multi_token",
        MULTI_TOKEN,
        "projects/mta/mta_transformer.py Attention._mta_convolution",
        convolved,
        convolving,
        ("position=none", "attention.score.multi_token.queries=3", "attention.score.multi_token.keys=5"),
        why="the convolution before the softmax, with keys on both sides; no mixing of heads and no norm",
    ),
    Case(
        "performer",
        "performer",
        PERFORMER,
        "performer_pytorch/performer_pytorch.py softmax_kernel, causal_linear_attention_noncuda",
        random_features,
        with_directions,
        ("position=none", "attention.feature_map.features=6"),
        why="its directions are given; it adds 1e-4 to each feature and 1e-6 to the sums, 0 here",
    ),
    Case(
        "stick_breaking",
        "stick_breaking",
        STICKS,
        "stickbreaking_attention/sb_ref.py stickbreaking",
        sticks,
        plain,
        ("position=none",),
        why="a second opinion, of the authors: fla_stick_breaking is another library's",
    ),
    Case(
        "mlstm_rule",
        "mlstm",
        MLSTM,
        "mlstm_kernels/torch/parallel/native/fw.py mlstm_parallel_fw",
        exponential,
        gated_exponentially,
        ("position=none", "attention.chunk=4"),
        why="a second opinion, of the authors, on the rule alone; nothing is added to the divisor",
    ),
    Case(
        "differential_authors",
        "differential",
        DIFFERENTIAL,
        "Diff-Transformer/multihead_diffattn.py MultiheadDiffAttn",
        two_maps,
        layer_with(our_maps),
        ("position=rope",),
        layer=1,
        why="a second opinion, of the authors, gains of the norm included",
    ),
]
