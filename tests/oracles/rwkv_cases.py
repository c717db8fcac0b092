"""Layers against files that their authors publish in a repository, not in a package."""

import ast
from functools import partial
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
    checkout,
    coarse,
    coarsen,
    generator,
    in_double,
    layer_with,
    recorded,
)
from torch import nn

from attnlab.attention.base import Attention
from attnlab.attention.shared import FirstValues, Shared

RWKV, HEADS, RANK = "BlinkDL/RWKV-LM@524481d5099b38d9bc8ef1e89209161b86c8011b", 4, 5
RANKS = ("D_DECAY_LORA", "D_AAA_LORA", "D_MV_LORA", "D_GATE_LORA")
LONG = ("receptance", "key", "value")
LETTERS = {"to_decay": "w", "to_rate": "a", "to_gate": "g", "to_first": "v"}


def time_mixing() -> Any:
    """RWKV_Tmix_x070 of the demo, its recurrence in plain torch; the rest of the file loads a model and a kernel."""
    tree = ast.parse((checkout(RWKV) / "RWKV-v7" / "rwkv_v7_demo.py").read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RWKV_Tmix_x070"]
    runs = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "RWKV7_OP"]
    loops = [run for run in runs if any(isinstance(node, ast.For) for node in ast.walk(run))]
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "MyModule": nn.Module, "MyFunction": lambda f: f}
    names |= {"HEAD_SIZE": WIDTH // HEADS, "DTYPE": torch.float64, **dict.fromkeys(RANKS, RANK)}
    exec(compile(ast.Module([*loops, *classes], []), "rwkv_v7_demo.py", "exec"), names)
    return names["RWKV_Tmix_x070"]


def rwkv7(layer: int) -> Recording:
    """A layer, which is handed the first one's values where it is a later one; an epsilon for heads of this width."""
    with in_double():
        sizes = SimpleNamespace(head_size_a=WIDTH // HEADS, dim_att=WIDTH, n_embd=WIDTH)
        module = time_mixing()(sizes, layer).double()
        with torch.no_grad():
            for weight in module.parameters():  # there empty until a model is loaded
                weight.nan_to_num_(0.0).clamp_(-0.5, 0.5)
        coarsen(module)
        module.ln_x.eps = 1e-5 * WIDTH / HEADS
        draw = generator()
        x, first = (coarse(BATCH, LENGTH, WIDTH, draw=draw).requires_grad_() for _ in range(2))
        weights = dict(module.named_parameters())
        if layer:
            weights["first"] = first
        else:  # it has what mixes values, which later layers alone use
            weights = {name: w for name, w in weights.items() if name not in ("v0", "v1", "v2")}
        return recorded({"x": x, **weights}, {"y": module(x, first)[0]})


def mapped(w: Tensors) -> Tensors:
    """Names of a letter and a number: 0 is a shift, 1 and 2 the matrices of a low-rank map, transposed."""
    ours = {f"shares.{name}": w[f"x_{name}"].flatten() for name in "rkvwag"}
    ours |= {f"to_{name}.weight": w[f"{long}.weight"] for name, long in zip("rkv", LONG, strict=True)}
    for name, letter in LETTERS.items():
        if f"{letter}1" in w:
            ours |= {f"{name}.to_rank.weight": w[f"{letter}1"].T, f"{name}.to_all.weight": w[f"{letter}2"].T}
        if f"{letter}0" in w:
            ours[f"{name}.bias"] = w[f"{letter}0"].flatten()
    pairs = {"xi": "k_k", "alpha": "k_a", "rho": "r_k", "gain": "ln_x.weight", "offset": "ln_x.bias"}
    ours |= {name: w[theirs].reshape(HEADS, 1, -1) for name, theirs in pairs.items()}
    return ours | {"to_out.weight": w["output.weight"]}


def handed(layer: Attention, inputs: Tensors) -> Tensors:
    """A later layer, with the first one's values."""
    shared, first = Shared(), inputs["first"].unflatten(-1, (HEADS, -1)).transpose(1, 2)
    shared.publish(FirstValues(first))
    weights = dict(mapped(inputs))
    assert weights.keys() == dict(layer.named_parameters()).keys()
    return {"y": torch.func.functional_call(layer, weights, (inputs["x"], shared))}


OPTIONS = (f"attention.rank={RANK}", "attention.chunk=4", "position=none")
SOURCE = "RWKV-v7/rwkv_v7_demo.py RWKV_Tmix_x070"
WHY = "heads of 4, low-rank maps of one rank, and the small number in the norm in proportion to the width"
CASES = [
    Case("rwkv7_layer", "rwkv7", RWKV, SOURCE, partial(rwkv7, 0), layer_with(mapped), OPTIONS, why=WHY),
    Case(
        "rwkv7_later_layer",
        "rwkv7",
        RWKV,
        f"{SOURCE}, the second layer",
        partial(rwkv7, 1),
        handed,
        (*OPTIONS, "+attention.first_values=true"),
        layer=1,
        why=WHY,
    ),
]
