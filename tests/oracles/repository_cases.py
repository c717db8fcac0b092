"""Rules against what public repositories hold and no package does: it is cut out of its file and run alone.

To run one again, check its repository out at the commit below, in a folder with the repository's name, and name the
folder above in ATTNLAB_ORACLES.
"""

import math
from functools import partial
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from tests.oracles.case import (
    BATCH,
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
from tests.oracles.hugging_face import EPS
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.heads import Heads
from attnlab.attention.mamba3 import Steps

T, H, D = 8, 4, 4
LATENTS = "Dao-AILab/grouped-latent-attention@17889dbb4612182a4b7b92315ca11bf76ddaadef"
MAMBA = "state-spaces/mamba@e9594ce1c732d97440f0332fdc43170a2294dbfa"


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, None]:
    """What a kernel for GPUs computes, in its layout: tokens before heads."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2), None


def attention_module(file: str, kind: str, **sizes: int) -> nn.Module:
    """One attention module of Dao-AILab's files, which are those of a whole model; its projections have no biases."""
    from einops import repeat

    names = (kind, "LlamaAttention", "LlamaRMSNorm", "rotate_half", "apply_rotary_pos_emb", "repeat_kv")
    kernels = {"flash_attn_func": attend, "LlamaRotaryEmbedding": lambda config: None, "repeat": repeat}
    theirs = part_of(LATENTS, file, *names, Cache=object, LlamaConfig=object, **kernels)
    heads = {"hidden_size": WIDTH, "num_attention_heads": H, "max_position_embeddings": 32, "rope_theta": 10000.0}
    config = SimpleNamespace(**heads, **sizes, attention_bias=False, attention_dropout=0.0, rms_norm_eps=EPS)
    module: nn.Module = getattr(theirs, kind)(config, layer_idx=0)
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            linear.register_parameter("bias", None)
    coarsen(module)
    return module


def whole(file: str, kind: str, **sizes: int) -> Recording:
    """Of tokens, with four coordinates that rotate, in the half-split layout."""
    with in_double():
        module = attention_module(file, kind, **sizes)
        x = coarse(BATCH, T, WIDTH, draw=generator()).requires_grad_()
        angles = torch.arange(T)[None, :, None] * 10000.0 ** (-torch.arange(2) / 2)
        where = torch.cat([angles, angles], dim=-1)
        y, _, _ = module(x, position_embeddings=(where.cos(), where.sin()))
        return recorded({"x": x, **dict(module.named_parameters())}, {"y": y})


def turned_last(w: Tensor) -> Tensor:
    """Four heads of eight rows, of which the last four turn."""
    plain, rotary = w.unflatten(0, (H, 8)).split([4, 4], dim=1)
    return torch.cat([plain, interleaved(rotary.flatten(0, 1), H).unflatten(0, (H, 4))], dim=1).flatten(0, 1)


def tied(w: Tensors) -> dict[str, Tensor]:
    return {
        "to_q.weight": turned_last(w["q_proj.weight"]),
        "to_kv.weight": w["kv_proj.weight"],
        "to_k_rotary.weight": interleaved(w["W_rope_k.weight"], 1),
        "to_out.weight": w["o_proj.weight"],
    }


def two_latents(w: Tensors) -> dict[str, Tensor]:
    """Keys and values of two heads come from each latent; eight numbers of a head, the first four of them keys."""
    up = torch.cat([w[f"W_ukv_{i}.weight"].unflatten(0, (2, 8)) for i in (1, 2)])
    return {
        "to_q_latent.weight": w["W_dQ.weight"],
        "q_norm.weight": w["q_norm.weight"],
        "to_q.weight": turned_last(w["W_uQ_rope.weight"]),
        "to_latent.weight": w["W_dKV.weight"][:16],
        "to_k_rotary.weight": interleaved(w["W_dKV.weight"][16:], 1),
        "gain": torch.stack([w["kv_norm_1.weight"], w["kv_norm_2.weight"]])[:, None],
        "to_k.weight": up[:, :4].flatten(0, 1),
        "to_v.weight": up[:, 4:].flatten(0, 1),
        "to_out.weight": w["o_proj.weight"],
    }


def mamba3() -> Recording:
    from einops import repeat

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
        theirs = part_of(MAMBA, "tests/ops/triton/test_mamba3_siso.py", "mamba3_siso_step_ref", repeat=repeat)
        return recorded(inputs, {"y": theirs.mamba3_siso_step_ref(*(inputs[name] for name in names))[0]})


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
    ),
    Case(
        "gta",
        "gta",
        LATENTS,
        "modeling_llama_GTA.py LlamaFlashGTA",
        partial(whole, "modeling_llama_GTA.py", "LlamaFlashGTA", num_key_value_heads=2, head_dim=8, rope_dim=4),
        layer_with(tied),
        ("position=rope", "attention.head_dim=8", "attention.rope_dim=4"),
        why="its kernel is torch's; the bias of the rotary key is left out",
    ),
    Case(
        "gla_latent",
        "gla_latent",
        LATENTS,
        "modeling_llama_GLA.py LlamaFlashGLA",
        partial(whole, "modeling_llama_GLA.py", "LlamaFlashGLA", num_key_value_heads=4, head_dim=4, qk_rope_dim=4),
        layer_with(two_latents),
        (
            "position=rope",
            *(f"attention.{n}" for n in ("head_dim=8", "rope_dim=4", "kv_rank=8", "q_rank=32")),
            "+attention.value_dim=4",
        ),
        why="its kernel is torch's; biases are left out",
    ),
]
