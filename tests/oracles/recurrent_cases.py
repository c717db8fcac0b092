"""Memories, and what stands between them in hybrids, against the modeling code of Hugging Face transformers."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tests.oracles.case import Case, Tensors
from tests.oracles.hugging_face import EPS
from tests.oracles.mappings import latent
from tests.oracles.softmax_cases import NEMOTRON, huggingface
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.heads import Heads, join_heads, split_heads

GATED_DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "num_experts": 0,
}
KIMI = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "kv_lora_rank": 5,
    "linear_head_dim": 4,
    "linear_num_heads": 4,
    "mlp_layer_types": ["dense"] * 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
}
LING = KIMI | {"head_dim": 4, "n_group": 1, "topk_group": 1, "num_local_experts": 4, "num_mtp_layers": 0}
MAMBA = {
    "vocab_size": 11,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "head_dim": 4,
    "expand": 1,
    "n_groups": 4,
    "state_size": 4,
    "conv_kernel": 4,
    "use_conv_bias": False,
    "chunk_size": 4,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


XLSTM = {
    "vocab_size": 11,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "qk_dim_factor": 0.5,
    "gate_soft_cap": 2.0,
    "eps": 0.0,
    "norm_eps": EPS,
    "ffn_round_up_to_multiple_of": 8,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def gated_delta(w: Tensors) -> dict[str, Tensor]:
    """Queries, keys, values and gates come from one matrix head by head, beta and decay from another."""
    q, k, v, gate = (x.flatten(0, 1) for x in w["in_proj_qkvz.weight"].unflatten(0, (4, 4, -1)).unbind(1))
    beta, decay = w["in_proj_ba.weight"].unflatten(0, (4, 2)).unbind(1)
    return {
        "qkv.to_q.weight": q,
        "qkv.to_k.weight": k,
        "qkv.to_v.weight": v,
        "qkv.conv.weight": w["conv1d.weight"][:, 0],
        "decay.to_decay.weight": decay,
        "decay.log_rate": w["A_log"],
        "decay.bias": w["dt_bias"],
        "write.to_beta.weight": beta,
        "output_norm.norm.weight": w["norm.weight"],
        "gate.to_gate.weight": gate,
        "to_out.weight": w["out_proj.weight"],
    }


def apart(w: Tensors) -> dict[str, Tensor]:
    """As gated_delta, with a matrix for each kind; two heads of keys, each of two heads of values."""
    q, k, v = w["in_proj_qkv.weight"].split([6, 6, 20])
    return {
        "qkv.to_q.weight": q,
        "qkv.to_k.weight": k,
        "qkv.to_v.weight": v,
        "qkv.conv.weight": w["conv1d.weight"][:, 0],
        "decay.to_decay.weight": w["in_proj_a.weight"],
        "decay.log_rate": w["A_log"],
        "decay.bias": w["dt_bias"],
        "write.to_beta.weight": w["in_proj_b.weight"],
        "output_norm.norm.weight": w["norm.weight"],
        "gate.to_gate.weight": w["in_proj_z.weight"],
        "to_out.weight": w["out_proj.weight"],
    }


def shared_keys(w: Tensors) -> dict[str, Tensor]:
    """Two heads of keys, each of two heads of values: rows stand together by the head of keys."""
    q, k, v, gate = (
        part.flatten(0, 1) for part in w["in_proj_qkvz.weight"].unflatten(0, (2, -1)).split([3, 3, 10, 10], dim=1)
    )
    beta, decay = (part.flatten(0, 1) for part in w["in_proj_ba.weight"].unflatten(0, (2, -1)).split([2, 2], dim=1))
    return {
        "qkv.conv.weight": w["conv1d.weight"][:, 0],
        "decay.log_rate": w["A_log"],
        "decay.bias": w["dt_bias"],
        "output_norm.norm.weight": w["norm.weight"],
        "to_out.weight": w["out_proj.weight"],
        "qkv.to_q.weight": q,
        "qkv.to_k.weight": k,
        "qkv.to_v.weight": v,
        "gate.to_gate.weight": gate,
        "write.to_beta.weight": beta,
        "decay.to_decay.weight": decay,
    }


def whole_mamba(w: Tensors) -> dict[str, Tensor]:
    """Two groups of a state 3 wide, four heads of 8."""
    gate, v, k, q, decay = w["in_proj.weight"].split([32, 32, 6, 6, 4])

    def last(x: Tensor) -> Tensor:
        values, keys, queries = x.split([32, 6, 6])
        return torch.cat([queries, keys, values])

    return {
        "qkv.to_q.weight": q,
        "qkv.to_k.weight": k,
        "qkv.to_v.weight": v,
        "qkv.conv.weight": last(w["conv1d.weight"][:, 0]),
        "qkv.conv.bias": last(w["conv1d.bias"]),
        "decay.to_decay.weight": decay,
        "decay.log_rate": w["A_log"],
        "decay.bias": w["dt_bias"],
        "to_gate.weight": gate,
        "skip": w["D"],
        "gain": w["norm.weight"],
        "to_out.weight": w["out_proj.weight"],
    }


def kimi_delta(w: Tensors) -> dict[str, Tensor]:
    """Its output gate has two thin matrices, whose product is our one."""
    return {
        **{f"qkv.to_{n}.weight": w[f"{n}_proj.weight"] for n in "qkv"},
        "qkv.conv.weight": w["conv1d.weight"][:, 0],
        "decay.to_rank.weight": w["forget_gate.f_a_proj.weight"],
        "decay.to_decay.weight": w["forget_gate.f_b_proj.weight"],
        "decay.bias": w["forget_gate.dt_bias"].unflatten(0, (4, 4)),
        "decay.log_rate": w["forget_gate.A_log"].flatten(),
        "write.to_beta.weight": w["b_proj.weight"],
        "output_norm.norm.weight": w["o_norm.weight"],
        "gate.to_gate.weight": w["g_b_proj.weight"] @ w["g_a_proj.weight"],
        "to_out.weight": w["o_proj.weight"],
    }


def bounded_delta(w: Tensors) -> dict[str, Tensor]:
    """Its decay and its gate come from one matrix each; the first of our two is the identity."""
    whole = {
        "forget_gate.f_a_proj.weight": torch.eye(16, dtype=torch.float64),
        "g_a_proj.weight": torch.eye(16).double(),
    }
    names = {"forget_gate.f_b_proj.weight": "forget_gate.f_proj.weight", "g_b_proj.weight": "g_proj.weight"}
    return kimi_delta({**w, **whole, **{ours: w[theirs] for ours, theirs in names.items()}})


def exponential(w: Tensors) -> dict[str, Tensor]:
    """xLSTM: queries and keys are half as wide as values."""
    return {
        **{f"qkv.to_{n}.weight": w[f"{n}.weight"] for n in "qkv"},
        "to_input.weight": w["igate_preact.weight"],
        "input_shift": w["igate_preact.bias"],
        "to_forget.weight": w["fgate_preact.weight"],
        "forget_shift": w["fgate_preact.bias"],
        "to_gate.weight": w["ogate_preact.weight"],
        "gain": w["multihead_norm.weight"],
        "to_out.weight": w["out_proj.weight"],
    }


class Upto(nn.Module):
    """A part of a layer as a module of its own, whose parameters can be given from outside."""

    def __init__(self, layer: Attention, run: Callable[[Attention, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.run = layer, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer, x)


def part(
    mapping: Callable[[Tensors], Tensors], run: Callable[[Attention, Tensor, Tensors], Tensor]
) -> Callable[[Attention, Tensors], Tensors]:
    """`ours` for what a layer computes before its norm and gate, where these differ from the oracle's."""

    def ours(layer: Attention, inputs: Tensors) -> Tensors:
        weights = {f"layer.{name}": w for name, w in mapping(inputs).items()}
        whole = Upto(layer, lambda layer, x: run(layer, x, inputs))
        y = torch.func.functional_call(whole, weights, (inputs["x"],))
        return {"y": y}

    return ours


def state_space(w: Tensors) -> dict[str, Tensor]:
    """Its C, B and x are our queries, keys and values; the gate and the norm after it are not looked at."""
    _, v, k, q, decay = w["in_proj.weight"].split([16, 16, 16, 16, 4])
    v_conv, k_conv, q_conv = w["conv1d.weight"][:, 0].split(16)
    return {
        "qkv.to_q.weight": q,
        "qkv.to_k.weight": k,
        "qkv.to_v.weight": v,
        "qkv.conv.weight": torch.cat([q_conv, k_conv, v_conv]),
        "decay.to_decay.weight": decay,
        "decay.log_rate": w["A_log"],
        "decay.bias": w["dt_bias"],
    }


def with_skip(layer: Attention, x: Tensor, inputs: Tensors) -> Tensor:
    """The memory's answers without 1 / sqrt(d), plus D times the token's own value, as there."""
    heads = layer.project(x)
    o = layer.mix(heads._replace(q=heads.q / layer.feature_map.query_scale))
    return join_heads(o + inputs["D"][:, None, None] * heads.v)


def lightning(layer: Attention, x: Tensor, inputs: Tensors) -> Tensor:
    """Values go through silu, too, there; queries are not scaled; a layer's rates are times 1 + 1e-5 in the first."""
    q, k, v = (
        split_heads(x @ w.flatten(0, 1).T, 4) for w in inputs["qkv_proj.weight"].unflatten(0, (4, 3, -1)).unbind(1)
    )
    features, rates = layer.feature_map, layer.decay.project(x) * (1 + 1e-5)
    return join_heads(layer.mix(Heads(features(q), features(k), F.silu(v), log_decay=rates)))


def before_norm(name: str, kind: str, source: str, path: str, norm: str, ours: Any, why: str, **more: Any) -> Case:
    case = huggingface(name, more.pop("variant"), kind, source, path, None, inside=norm, decoded=False, **more)
    return Case(**{**vars(case), "ours": ours, "why": why})


CASES = [
    huggingface(
        "gated_delta",
        "gated_delta",
        "qwen3_next",
        "Qwen3NextGatedDeltaNet",
        "layers.0.linear_attn",
        gated_delta,
        settings=GATED_DELTA,
        options=("position=none", "attention.chunk=4"),
    ),
    huggingface(
        "gated_delta_shared",
        "gated_delta",
        "qwen3_next",
        "Qwen3NextGatedDeltaNet with two heads of keys",
        "layers.0.linear_attn",
        shared_keys,
        settings={
            **GATED_DELTA,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 3,
            "linear_value_head_dim": 5,
        },
        options=(
            "position=none",
            "attention.chunk=4",
            "attention.head_dim=3",
            "+attention.value_dim=5",
            "+attention.n_key_heads=2",
        ),
    ),
    huggingface(
        "mamba2_mixer",
        "mamba2_mixer",
        "mamba2",
        "Mamba2Mixer",
        "layers.0.mixer",
        whole_mamba,
        sizes={
            **MAMBA,
            **{"head_dim": 8, "expand": 2, "n_groups": 2, "state_size": 3, "use_conv_bias": True},
            "layer_norm_epsilon": EPS,
        },
        options=(
            "position=none",
            "attention.chunk=4",
            "attention.n_key_heads=2",
            "attention.head_dim=3",
            "attention.value_dim=8",
            f"+attention.norm_eps={EPS}",
        ),
    ),
    huggingface(
        "qwen3_next_memory",
        "qwen3_next",
        "qwen3_next",
        "Qwen3NextGatedDeltaNet, the third layer",
        "layers.2.linear_attn",
        gated_delta,
        settings=GATED_DELTA,
        options=("position=none",),
        layer=2,
    ),
    huggingface(
        "kda",
        "kda",
        "kimi_linear",
        "KimiLinearDeltaAttention",
        "layers.0.self_attn",
        kimi_delta,
        settings=KIMI,
        options=("position=none", "attention.decay.rank=4", "attention.chunk=4"),
    ),
    huggingface(
        "qwen3_5_memory",
        "qwen3_5",
        "qwen3_5_text",
        "Qwen3_5GatedDeltaNet with two heads of keys",
        "layers.1.linear_attn",
        apart,
        settings={
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 3,
            "linear_value_head_dim": 5,
        },
        options=(
            "position=none",
            *(f"+attention.kinds.memory.{n}" for n in ("head_dim=3", "value_dim=5", "n_key_heads=2", "chunk=4")),
        ),
        layer=1,
    ),
    huggingface(
        "nemotron_h_memory",
        "nemotron_h",
        "nemotron_h",
        "NemotronHMamba2Mixer",
        "layers.0.mixer",
        whole_mamba,
        settings=NEMOTRON,
        options=(
            *(f"+attention.kinds.memory.{n}" for n in ("head_dim=3", "value_dim=8", "chunk=4", f"norm_eps={EPS}")),
            "attention.kinds.memory.n_key_heads=2",
            "+attention.kinds.memory.decay.least=0.001",
        ),
        why="no step of its memory is shorter than 0.001",
    ),
    huggingface(
        "kda_bounded",
        "kimi_k3",
        "bailing_hybrid",
        "BailingHybridDeltaAttention, whose decay is bounded",
        "layers.0.self_attn",
        bounded_delta,
        settings=LING,
        options=(
            "position=none",
            "attention.kinds.memory.decay.rank=16",
            "+attention.kinds.memory.decay.bound=5",
            "+attention.kinds.memory.chunk=4",
        ),
        why="a layer of Ling 3.0; Kimi K3's decays are made like it, as its config says",
    ),
    huggingface(
        "mla_nope_alone",
        "mla_nope",
        "kimi_linear",
        "KimiLinearAttention, with a latent of queries",
        "layers.3.self_attn",
        partial(latent, plain=2, rotary=4, rank=5),
        settings=KIMI | {"q_lora_rank": 7},
        options=(*(f"attention.{n}" for n in ("head_dim=6", "kv_rank=5", "q_rank=7", "rope_dim=4")),),
        why="it keeps, unturned, the part of a key that all heads share; our preset leaves that part out",
    ),
    huggingface(
        "mla_nope",
        "kimi_linear",
        "kimi_linear",
        "KimiLinearAttention",
        "layers.3.self_attn",
        partial(latent, plain=2, rotary=4, rank=5),
        settings=KIMI,
        options=(
            "attention.kinds.attention.head_dim=6",
            "attention.kinds.attention.kv_rank=5",
            "attention.kinds.attention.rope_dim=4",
        ),
        layer=3,
        why="it keeps, unturned, the part of a key that all heads share; our preset leaves that part out",
    ),
    huggingface(
        "mlstm",
        "mlstm",
        "xlstm",
        "xLSTMLayer",
        "blocks.0.mlstm_layer",
        exponential,
        sizes=XLSTM,
        maps=False,
        decoded=False,
        options=(
            "position=none",
            "attention.chunk=4",
            "attention.head_dim=2",
            "+attention.value_dim=4",
            "attention.cap=2",
            f"+attention.norm_eps={EPS}",
        ),
        why="a cap of 2, which is felt; the number that it adds to the divisor is 0",
    ),
    before_norm(
        "mamba2",
        "mamba2",
        "Mamba2Mixer",
        "layers.0.mixer",
        "norm",
        part(state_space, with_skip),
        "compared before its norm, which it puts after the gate; it also adds D times a token's own value",
        variant="mamba2",
        sizes=MAMBA,
        options=("position=none", "attention.chunk=4"),
    ),
    before_norm(
        "lightning",
        "minimax",
        "MiniMaxLightningAttention",
        "layers.0.self_attn",
        "norm",
        part(lambda w: {}, lightning),
        "compared before its norm, which goes over all heads at once; values go through silu there",
        variant="lightning",
        settings={"layer_types": ["linear_attention"] * 4, "block_size": 4, "num_local_experts": 2},
        options=("position=none", "attention.chunk=4"),
    ),
]
