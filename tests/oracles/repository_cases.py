"""Rules against a function of a public repository that no package holds: it is cut out of its file and run alone.

To run one again, check its repository out at the commit below, in a folder with the repository's name, and name the
folder above in ATTNLAB_ORACLES.
"""

import ast
import math
import typing
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from tests.oracles.case import BATCH, Case, Recording, Tensors, checkout, coarse, generator, in_double, recorded

from attnlab.attention.base import Attention
from attnlab.attention.heads import Heads
from attnlab.attention.mamba3 import Steps

T, H, D = 8, 4, 4
MAMBA = "state-spaces/mamba@e9594ce1c732d97440f0332fdc43170a2294dbfa"


def function(repository: str, file: str, name: str) -> Callable[..., Any]:
    """One function of a checkout; what else its file imports is not needed."""
    from einops import repeat

    path = checkout(repository) / file
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    alone: list[ast.stmt] = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]
    scope = {"torch": torch, "F": F, "math": math, "Optional": typing.Optional, "Tuple": tuple, "repeat": repeat}
    exec(compile(ast.Module(alone, []), str(path), "exec"), scope)
    reference: Callable[..., Any] = scope[name]
    return reference


def mamba3() -> Recording:
    draw = generator()
    shapes = {"q": (T, 1, D), "k": (T, 1, D), "v": (T, H, D), "adt": (H, T), "dt": (H, T), "trap": (H, T)}
    with in_double():
        inputs = {name: coarse(BATCH, *shape, draw=draw) for name, shape in shapes.items()}
        inputs |= {"angles": coarse(BATCH, T, H, 1, draw=draw)}
        inputs |= {name: coarse(H, D, draw=draw) for name in ("q_bias", "k_bias")}
        inputs["adt"], inputs["dt"] = -inputs["adt"].abs() / 4, inputs["dt"].abs() + 1 / 128
        for x in inputs.values():
            x.requires_grad_()
        names = ("q", "k", "v", "adt", "dt", "trap", "q_bias", "k_bias", "angles")
        reference = function(MAMBA, "tests/ops/triton/test_mamba3_siso.py", "mamba3_siso_step_ref")
        return recorded(inputs, {"y": reference(*(inputs[name] for name in names))[0]})


def turning(layer: Attention, i: Tensors) -> Tensors:
    """What `project` makes of a step, a share and angles is made here."""
    q, k = (i[n].transpose(1, 2) + i[f"{n}_bias"][:, None] for n in "qk")
    step, share = i["dt"][..., None], i["trap"][..., None].sigmoid()
    own = Steps(math.pi * i["angles"].transpose(1, 2).tanh() * step, share * step, (1 - share) * step)
    assert hasattr(layer, "mix")
    o = layer.mix(Heads(q, k, i["v"].transpose(1, 2), log_decay=i["adt"], own=own))
    return {"y": o.transpose(1, 2)}


CASES = [
    Case(
        "mamba3",
        "mamba3",
        MAMBA,
        "tests/ops/triton/test_mamba3_siso.py mamba3_siso_step_ref",
        mamba3,
        turning,
        ("attention.chunk=3", "position=none"),
        why="the rule, with the biases of queries and keys; its gate and its skip are `merge` here, and left out",
    )
]
