"""Rules against the classes of their authors, in repositories that no package holds: cut out of their files.

To run one again, see repository_cases.py.
"""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
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
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.norm import EPS
from attnlab.attention.shared import Shared

DCFORMER = "Caiyun-AI/DCFormer@df8671f23b4830cb3a254c23e5576d45141cfbd6"
PHYSICS = "facebookresearch/PhysicsLM4@75806965208c55e9f7f2e2363d3793d2da75d2e4"
NANOCHAT = "karpathy/nanochat@92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"
HEADS, VOCAB = 4, 7
IDS = torch.randint(VOCAB, (BATCH, LENGTH), generator=torch.Generator().manual_seed(3))


def rearrange(x: Tensor, pattern: str) -> Tensor:
    """The two patterns that the code here asks for."""
    return {"b t d -> b d t": x.mT, "b d t -> b t d": x.mT, "d 1 w -> d w": x.squeeze(1)}[pattern]


def drawn(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    draw = generator()
    return {name: coarse(*shape, scale=0.5, draw=draw).requires_grad_() for name, shape in shapes.items()}


def dynamic_heads() -> Recording:
    """DCFormer's mixtures and their use, around a plain softmax attention; no static mixture."""
    theirs = part_of(
        DCFORMER,
        "pytorch/dcformer/modeling_dcformer.py",
        "DynamicWeightProjection",
        "CrossHeadProjection",
        "RMSnormNoscale",
        unbind=lambda x, n, dim: [part.squeeze(dim) for part in x.split(x.size(dim) // n, dim=dim)],
    )
    with in_double():
        sizes = {"num_heads": HEADS, "query_input_dim": WIDTH, "dynamic_squeeze_ratio": 2, "dynamic_w_hidden_dim": 3}
        mix = theirs.DynamicWeightProjection(SimpleNamespace(dim=WIDTH), **sizes, dtype=torch.float64)
        coarsen(mix)
        mix.dw1_norm.epsilon = EPS
        inputs = drawn(x=(BATCH, LENGTH, WIDTH), **dict.fromkeys(("q", "k", "v", "o"), (WIDTH, WIDTH)))
        inputs |= {name: getattr(mix, name) for name in ("dw1", "qkw", "dd")}
        q, k, v = ((inputs["x"] @ inputs[n].T).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in "qkv")
        before, after, _ = mix(inputs["x"], gen_cache=False)
        logits = mix.pre_proj(q @ k.mT / math.sqrt(WIDTH // HEADS), dws=before)
        hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        weights = mix.post_proj(logits.masked_fill(hidden, -torch.inf).softmax(-1), dws=after)
        y = (weights @ v).transpose(1, 2).flatten(2) @ inputs["o"].T
        return recorded(inputs, {"y": y, "map": weights})


def our_dynamic_heads(w: Tensors) -> dict[str, Tensor]:
    ours = {f"qkv.to_{n}.weight": w[n] for n in "qkv"} | {"to_out.weight": w["o"]}
    mixes = {f"score.1.to_mix.{i}.weight": w["qkw"][0, i].flatten(1).T for i in range(4)}
    ours |= {"score.1.to_hidden.weight": w["dw1"].flatten(1).T, "score.1.to_gates.weight": w["dd"].flatten(1).T}
    return ours | mixes | {f"score.1.{n}": torch.eye(HEADS).to(w["q"]) for n in ("before", "after")}


class Kernel:
    """What stands for its kernel on a GPU: the same attention by torch."""

    @staticmethod
    def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def value_embedding() -> Recording:
    """nanochat's attention of the last layer of four, where positions do not turn."""
    names = ("CausalSelfAttention", "Linear", "norm", "has_ve", "apply_rotary_emb")
    theirs = part_of(NANOCHAT, "nanochat/gpt.py", *names, flash_attn=Kernel)
    with in_double():
        sizes = {"n_head": HEADS, "n_kv_head": 2, "n_embd": WIDTH, "n_layer": 4}
        module = theirs.CausalSelfAttention(SimpleNamespace(**sizes), 3).double()
        coarsen(module)
        inputs = drawn(x=(BATCH, LENGTH, WIDTH), table=(VOCAB, WIDTH // 2)) | dict(module.named_parameters())
        still = torch.ones(1, LENGTH, 1, WIDTH // HEADS // 2), torch.zeros(1, LENGTH, 1, WIDTH // HEADS // 2)
        return recorded(inputs, {"y": module(inputs["x"], inputs["table"][IDS], still, (-1, 0), None)})


def our_value_embedding(w: Tensors) -> dict[str, Tensor]:
    ours = {f"qkv.to_{n}.weight": w[f"c_{n}.weight"] for n in "qkv"} | {"to_out.weight": w["c_proj.weight"]}
    return ours | {"to_value_gate.weight": w["ve_gate.weight"], "table.weight": w["table"]}


def canon() -> Recording:
    """A Canon layer over queries, keys and values side by side, of whole rows and token by token."""
    theirs = part_of(
        PHYSICS,
        "huggingface/canon_helper.py",
        *("ShortConvolution", "create_canon", "apply_canon"),
        rearrange=rearrange,
        causal_conv1d_fn=None,
        warnings=SimpleNamespace(warn=lambda *_, **__: None),
        Any=Any,
        Dict=dict,
        List=list,
    )
    with in_double():
        config = {"canon_kernel": 4, "canon_bias": False, "canon_activation": False, "canon_residual": True}
        layer = theirs.create_canon(3 * WIDTH, SimpleNamespace(**config)).double()
        coarsen(layer)
        inputs = drawn(x=(BATCH, LENGTH, 3 * WIDTH)) | {"weight": layer.weight}
        y = theirs.apply_canon("b", layer, inputs["x"], None, 0, None)
        with torch.no_grad():
            cache = SimpleNamespace()
            steps = [theirs.apply_canon("b", layer, x, cache, 0, None) for x in inputs["x"].split(1, dim=1)]
        return recorded(inputs, {"y": y, "decoded": torch.cat(steps, dim=1)})


def our_canon(layer: Attention, inputs: Tensors) -> Tensors:
    conv, weight = layer.qkv.conv, {"weight": inputs["weight"].squeeze(1)}
    y, _ = torch.func.functional_call(conv, weight, (inputs["x"], None))
    rows, tail = [], conv.empty(BATCH)
    for x in inputs["x"].split(1, dim=1):
        row, tail = torch.func.functional_call(conv, weight, (x, tail))
        rows.append(row.detach())
    return {"y": y, "decoded": torch.cat(rows, dim=1)}


def with_ids(mapping: Callable[[Tensors], Mapping[str, Tensor]]) -> Callable[[Attention, Tensors], Tensors]:
    """A layer that knows its tokens."""

    def ours(layer: Attention, inputs: Tensors) -> Tensors:
        layer.meet_vocabulary(VOCAB)
        weights = dict(mapping(inputs))
        layer.double().load_state_dict({name: w.detach() for name, w in weights.items()})
        return {"y": torch.func.functional_call(layer, weights, (inputs["x"], Shared(ids=IDS)))}

    return ours


CASES = [
    Case(
        "dcmha",
        "dcmha",
        DCFORMER,
        "DynamicWeightProjection, CrossHeadProjection",
        dynamic_heads,
        layer_with(our_dynamic_heads, decode=False),
        options=("position=none", "attention.score.dynamic_heads.width=3"),
        why="no mixture that is the same for all tokens",
    ),
    Case(
        "value_embedding",
        "value_embedding",
        NANOCHAT,
        "CausalSelfAttention",
        value_embedding,
        with_ids(our_value_embedding),
        options=(
            "position=none",
            "attention.n_kv_heads=2",
            "attention/score=[scaled,qk_norm]",
            "+attention.score.scaled.scale=0.72",
            "+attention.score.qk_norm.gain=false",
        ),
        layer=3,
        why="its queries and keys are normed and multiplied by 1.2; positions do not turn",
    ),
    Case(
        "canon",
        "canon",
        PHYSICS,
        "create_canon, apply_canon",
        canon,
        our_canon,
        why="the layer alone, over queries, keys and values side by side",
    ),
]
