"""Score links, normalisers and sharing against x-transformers, and sparse normalisers against entmax."""

from collections.abc import Mapping
from functools import partial
from typing import Any

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
    layer_with,
    recorded,
)
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.layer_sharing import FirstValues
from attnlab.attention.shared import Shared

HEADS = 4
SHAPE = (BATCH, HEADS, LENGTH, LENGTH)
DECAYING = 4  # so that a key decays within nine tokens


def attention(
    settings: Mapping[str, Any],
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    first: bool = False,
    cut: int = 0,
    maps: bool = True,
    decaying: bool = False,
    polar: bool = False,
) -> Recording:
    """Its Attention alone, 4 heads of 4; `cut` columns before the map's first belong to no token."""
    from x_transformers.x_transformers import Attention as Theirs
    from x_transformers.x_transformers import PolarEmbedding, RotaryEmbedding

    with in_double():
        torch.manual_seed(0)
        module = Theirs(WIDTH, dim_head=WIDTH // HEADS, heads=HEADS, causal=True, **settings).double().eval()
        coarsen(module)
        if scale is not None:
            module.attend.scale = scale
        draw = generator()
        x = coarse(BATCH, LENGTH, WIDTH, draw=draw).requires_grad_()
        inputs = {"x": x, **dict(module.named_parameters())}
        more = {}
        if first:
            inputs["first"] = coarse(BATCH, HEADS, LENGTH, WIDTH // HEADS, draw=draw).requires_grad_()
            more["value_residual"] = inputs["first"]
        if decaying:
            turn = RotaryEmbedding(WIDTH // HEADS, use_xpos=True, scale_base=DECAYING)
            more["rotary_pos_emb"] = turn.forward_from_seq_len(LENGTH)
        if polar:
            inputs["delta"] = coarse(HEADS, 1, WIDTH // HEADS, draw=draw).requires_grad_()
            angles, _ = PolarEmbedding(WIDTH // HEADS, HEADS)(torch.arange(LENGTH))
            more["polar_pos_emb"] = angles, inputs["delta"]
        y, inside = module(x, attn_bias=bias, return_intermediates=True, **more)
        outputs = {"y": y}
        if maps:
            outputs["map"] = inside.post_softmax_attn[..., cut:]
        return recorded(inputs, outputs)


def projections(w: Tensors) -> dict[str, Tensor]:
    return {f"qkv.to_{n}.weight": w[f"to_{n}.weight"] for n in "qkv"} | {"to_out.weight": w["to_out.weight"]}


def talking(w: Tensors) -> dict[str, Tensor]:
    """It adds its mixture to the scores, where ours replaces them; after the softmax, both replace."""
    before, after = (w[f"attend.{n}_softmax_talking_heads.weight"][..., 0, 0] for n in ("pre", "post"))
    return projections(w) | {"score.1.before": before + torch.eye(HEADS).to(before), "score.1.after": after}


def counting(w: Tensors) -> dict[str, Tensor]:
    return projections(w) | {"score.1.table.weight": w["attend.cope.pos_emb"]}


def sunk(w: Tensors) -> dict[str, Tensor]:
    return projections(w) | {"normalizer.logit": w["attend.head_attn_sink"]}


def head_gates(w: Tensors) -> dict[str, Tensor]:
    return projections(w) | {"gate.to_gate.weight": w["to_v_gate.weight"]}


def turned(w: Tensors) -> dict[str, Tensor]:
    return projections(w) | {"position.delta": w["delta"]}


def hybrid_gates(w: Tensors) -> dict[str, Tensor]:
    theirs = {"token": "to_v_gate", "output": "to_output_gate"}
    return projections(w) | {
        f"gate.{ours}_{part}.weight": w[f"{name}.{part}.weight"]
        for ours, name in theirs.items()
        for part in ("down", "up")
    }


def residual(layer: Attention, inputs: Tensors) -> Tensors:
    """The second layer of two, which is handed the first one's values; its share of them is one half."""
    weights = projections(inputs) | {"own": torch.tensor(0.5, dtype=torch.float64)}
    shared = Shared()
    shared.publish(FirstValues(inputs["first"]))
    return {"y": torch.func.functional_call(layer, weights, (inputs["x"], shared))}


def nothing_to_attend() -> Tensor:
    """-ln n for the row with n visible keys, which our sigmoid puts in."""
    return -torch.arange(1, LENGTH + 1, dtype=torch.float64).log()[:, None].expand(HEADS, LENGTH, LENGTH)


def x_transformers(
    name: str, variant: str, settings: Mapping[str, Any], mapping: Any = projections, why: str = "", **run: Any
) -> Case:
    options, layer = (f"position={run.pop('place', 'none')}", *run.pop("options", ())), run.pop("layer", 0)
    ours = run.pop("ours", None) or layer_with(mapping, decode=False)
    source = f"Attention({', '.join(f'{k}={v}' for k, v in settings.items())})"
    source += ", RotaryEmbedding(use_xpos=True)" if run.get("decaying") else ""
    source += ", PolarEmbedding()" if run.get("polar") else ""
    oracle = partial(attention, settings, **run)
    return Case(name, variant, "x-transformers", source, oracle, ours, options, layer, why=why)


def row_by_row(function: str) -> Recording:
    """Each row over its visible keys alone."""
    import entmax

    with in_double():
        scores = coarse(*SHAPE, scale=2.0, draw=generator()).requires_grad_()
        weights = [getattr(entmax, function)(scores[..., i, : i + 1], dim=-1) for i in range(LENGTH)]
        rows = [torch.nn.functional.pad(row, (0, LENGTH - row.size(-1))) for row in weights]
        return recorded({"scores": scores}, {"y": torch.stack(rows, dim=-2)})


def normalised(layer: Attention, inputs: Tensors) -> Tensors:
    visible = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return {"y": layer.normalizer(inputs["scores"], visible)}


CASES = [
    x_transformers("x_transformers_softmax1", "softmax1", {"add_zero_kv": True}, cut=1),
    x_transformers("x_transformers_sink", "sink", {"head_learned_sink": True}, sunk, cut=1),
    x_transformers(
        "sigmoid",
        "sigmoid",
        {"sigmoid": True},
        bias=nothing_to_attend(),
        why="it has no bias of its own, so that ours is handed to it as a bias of positions",
    ),
    x_transformers("selective", "selective", {"selective": True}),
    x_transformers(
        "talking_heads",
        "talking_heads",
        {"pre_talking_heads": True, "post_talking_heads": True},
        talking,
        maps=False,  # it reports the map before the second mixture
    ),
    x_transformers(
        "cope",
        "cope",
        {"use_cope": True, "cope_max_pos": 4},
        counting,
        scale=1.0,
        options=("attention/score=[unscaled,cope]", "attention.score.cope.p_max=3"),
        why="unscaled: it adds the biases as they are; ours are scaled as the scores are",
    ),
    x_transformers("gated_headwise", "gated_headwise", {"gate_values": True, "gate_values_headwise": True}, head_gates),
    x_transformers("pope", "pope", {}, turned, polar=True),
    x_transformers(
        "hyga",
        "hyga",
        {"gate_values": True, "gate_values_rank": 3, "output_gate": True, "output_gate_rank": 3},
        hybrid_gates,
        options=("attention.gate.rank=3",),
    ),
    x_transformers(
        "value_residual",
        "value_residual",
        {},
        first=True,
        ours=residual,
        layer=1,
        maps=False,
        why="its share of the first values is fixed at one half, as in the paper; ours starts there",
    ),
    x_transformers(
        "xpos",
        "multi_head",
        {},
        decaying=True,
        place="xpos",
        options=(f"position.inside.scale={DECAYING}",),
        why="it counts positions from the middle of the row, which cancels",
    ),
    *(
        Case(name, name, "entmax", function, partial(row_by_row, function), normalised)
        for name, function in (("sparsemax", "sparsemax"), ("entmax", "entmax15"))
    ),
]
