"""Today's presets, and layers that are sparse or latent, against the modeling code of Hugging Face transformers."""

from functools import partial

import torch
from tests.oracles.case import Tensors, interleaved
from tests.oracles.mappings import latent, projections, with_norms, with_sinks
from tests.oracles.softmax_cases import LLAMA, ROPE, huggingface
from torch import Tensor


def with_wide_norms(w: Tensors) -> dict[str, Tensor]:
    """OLMo: one norm over all heads of queries, one over all of keys; their gains are turned like them."""
    gains = {f"score.1.{n}_norm.weight": interleaved(w[f"{n}_norm.weight"], heads) for n, heads in (("q", 4), ("k", 2))}
    return projections(w) | gains


def gated_latent(w: Tensors, *, plain: int, rotary: int, rank: int) -> dict[str, Tensor]:
    """HY-V4: DeepSeek's names, with a gate and sinks; rotary pairs in the half-split layout."""
    q = w["q_b_proj.weight"].unflatten(0, (4, -1))
    turned = interleaved(q[:, plain:].flatten(0, 1), 4).unflatten(0, (4, -1))
    to_latent, to_rotary = w["kv_a_proj_with_mqa.weight"].split([rank, rotary])
    halves = {
        "q_b_proj.weight": torch.cat([q[:, :plain], turned], dim=1).flatten(0, 1),
        "kv_a_proj_with_mqa.weight": torch.cat([to_latent, interleaved(to_rotary, 1)]),
    }
    ours = latent({**w, **halves}, plain=plain, rotary=rotary, rank=rank)
    return ours | {"gate.to_gate.weight": w["gate_proj.weight"], "normalizer.logit": w["sinks"]}


def block_index(w: Tensors) -> dict[str, Tensor]:
    """MiniMax-M3: gains are stored less one; the indexer's queries and keys turn like the others."""
    index = {
        "to_index_q.weight": interleaved(w["indexer.q_proj.weight"], 2),
        "to_index_k.weight": interleaved(w["indexer.k_proj.weight"], 1),
        **{f"index_{n}_norm.weight": interleaved(w[f"indexer.{n}_norm.weight"] + 1.0, 1) for n in "qk"},
    }
    return with_norms(w, shift=1.0) | index


def in_front(w: Tensor, n: int = 1) -> Tensor:
    """DeepSeek-V4 rotates the last half of each head, ours the first; the pairs are neighbours in both."""
    heads = w.unflatten(0, (n, -1))
    return heads.roll(heads.size(1) // 2, 1).flatten(0, 1)


def compressor(w: Tensors, theirs: str, ours: str, series: int) -> dict[str, Tensor]:
    """What pools blocks of tokens; of two `series` the first is for the next block, the second for its own."""
    return {
        f"{ours}.to_content.weight": in_front(w[f"{theirs}.kv_proj.weight"], series),
        f"{ours}.to_logit.weight": in_front(w[f"{theirs}.gate_proj.weight"], series),
        f"{ours}.bias": in_front(w[f"{theirs}.position_bias"].mT, series).mT,
        f"{ours}.norm.weight": in_front(w[f"{theirs}.kv_norm.weight"]),
    }


def compressed(w: Tensors) -> dict[str, Tensor]:
    """DeepSeek-V4: the output goes through two groups of two heads, then through one matrix."""
    joined = w["o_b_proj.weight"] @ torch.block_diag(*w["o_a_proj.weight"].unflatten(0, (2, -1)))
    sparse = "compressor.indexer.kv_proj.weight" in w
    ours = {
        "to_q_latent.weight": w["q_a_proj.weight"],
        "q_latent_norm.weight": w["q_a_norm.weight"],
        "to_q.weight": in_front(w["q_b_proj.weight"], 4),
        "to_kv.weight": in_front(w["kv_proj.weight"]),
        "kv_norm.weight": in_front(w["kv_norm.weight"]),
        "sink.logit": w["sinks"],
        "to_out.weight": in_front(joined.mT, 4).mT,
        **compressor(w, "compressor", "compressor", 1 + sparse),
    }
    if not sparse:
        return ours
    return ours | {
        **compressor(w, "compressor.indexer", "index_compressor", 2),
        "to_index_q.weight": in_front(w["compressor.indexer.q_b_proj.weight"], 8),
        "to_index_w.weight": w["compressor.indexer.scorer.weights_proj.weight"],
    }


TURNING = {"rope_type": "default", "rope_theta": 10000.0}
BOTH = {"full_attention": TURNING, "sliding_attention": TURNING}
MIMO = {
    "num_experts_per_tok": 1,
    "n_routed_experts": 2,
    "moe_intermediate_size": 4,
    "v_head_dim": 6,
    "attention_value_scale": None,
    "rope_parameters": {key: {**TURNING, "partial_rotary_factor": 1.0} for key in BOTH},
}
MINIMAX = {
    "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
    "mlp_layer_types": ["dense"] * 4,
    "dense_intermediate_size": 8,
    "rotary_dim": 4,
    "index_n_heads": 2,
    "index_head_dim": 4,
    "index_block_size": 2,
    "index_topk_blocks": 3,
    "rope_parameters": TURNING,
}
DEEPSEEK_V4 = {
    "num_key_value_heads": 1,
    "head_dim": 8,
    "q_lora_rank": 7,
    "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"] * 2,
    "mlp_layer_types": ["moe"] * 4,
    "compress_rates": {"heavily_compressed_attention": 3, "compressed_sparse_attention": 2},
    "sliding_window": 3,
    "o_groups": 2,
    "o_lora_rank": 6,
    "index_n_heads": 8,
    "index_head_dim": 8,
    "index_topk": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 4,
    "hc_mult": 2,
    "rope_parameters": {key: {**TURNING, "partial_rotary_factor": 0.5} for key in ("main", "compress")},
}
HALF = ("position=rope_partial", "position.inside.fraction=0.5")
HY_V4 = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 2,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "kv_lora_rank": 5,
    "q_lora_rank": 7,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 4,
    "index_n_heads": 3,
    "index_head_dim": 6,
    "rope_parameters": TURNING,
}
HY_V4_SIZES = (*ROPE, "attention.head_dim=6", "attention.rope_dim=4", "attention.kv_rank=5", "attention.q_rank=7")

CASES = [
    huggingface(
        "granite_swa_local",
        "granite_swa",
        "granite_swa",
        "GraniteSWAAttention, a layer with a window",
        "layers.1.self_attn",
        with_sinks,
        settings={"sliding_window": 4, "attention_multiplier": 0.5},
        maps=False,  # it reports the softmax before the sink takes its share
        options=(*ROPE, "attention.kinds.local.n_kv_heads=2", "attention.kinds.local.mask.window=4"),
        layer=1,
    ),
    huggingface(
        "granite_swa_global",
        "granite_swa",
        "granite_swa",
        "GraniteSWAAttention, a layer that sees all",
        LLAMA,
        with_sinks,
        settings={"attention_multiplier": 0.5},
        maps=False,  # it reports the softmax before the sink takes its share
        options=(*ROPE, "attention.kinds.global.n_kv_heads=2"),
    ),
    huggingface(
        "mimo_local",
        "mimo",
        "mimo_v2_flash",
        "MiMoV2FlashAttention, a layer with a window",
        "layers.1.self_attn",
        with_sinks,
        settings={**MIMO, "num_key_value_heads": 1, "sliding_window": 4},
        options=(
            *ROPE,
            "attention.kinds.local.n_kv_heads=2",
            "+attention.kinds.local.value_dim=6",
            "attention.kinds.local.mask.window=4",
        ),
        layer=1,
    ),
    huggingface(
        "mimo_global",
        "mimo",
        "mimo_v2_flash",
        "MiMoV2FlashAttention, a layer that sees all",
        "layers.5.self_attn",
        projections,
        settings={**MIMO, "num_hidden_layers": 6},
        options=(*ROPE, "attention.kinds.global.n_kv_heads=2", "+attention.kinds.global.value_dim=6"),
        layer=5,
        n_layers=6,
    ),
    huggingface(
        "olmo3_local",
        "olmo3",
        "olmo3",
        "Olmo3Attention, a layer with a window",
        LLAMA,
        with_wide_norms,
        settings={"sliding_window": 4, "rope_parameters": BOTH},
        options=(*ROPE, "attention.kinds.local.n_kv_heads=2", "attention.kinds.local.mask.window=4"),
    ),
    huggingface(
        "olmo3_global",
        "olmo3",
        "olmo3",
        "Olmo3Attention, a layer that sees all",
        "layers.3.self_attn",
        with_wide_norms,
        settings={"rope_parameters": BOTH},
        options=(*ROPE, "attention.kinds.global.n_kv_heads=2"),
        layer=3,
    ),
    huggingface(
        "gated_mla",
        "gated_mla",
        "hy_v4",
        "HYV4Attention, with more choices than keys",
        LLAMA,
        partial(gated_latent, plain=2, rotary=4, rank=5),
        settings={**HY_V4, "index_topk": 32},
        options=(*HY_V4_SIZES, "attention/normalizer=sink"),
        why="its indexer, which is compared as hy_v4, chooses all keys here, and gets no gradient",
    ),
    huggingface(
        "minimax_m3_sparse",
        "minimax_m3",
        "minimax_m3_vl_text",
        "MiniMaxM3VLAttention, a layer that chooses blocks",
        "layers.1.self_attn",
        block_index,
        settings=MINIMAX,
        options=(
            *ROPE,
            "attention.kinds.sparse.block=2",
            "attention.kinds.sparse.topk=2",
            "attention.kinds.sparse.index_dim=4",
        ),
        layer=1,
        why="gradients of its choice: there are none, ours lends one to the indexer",
    ),
    huggingface(
        "minimax_m3_full",
        "minimax_m3",
        "minimax_m3_vl_text",
        "MiniMaxM3VLAttention, a layer that sees all",
        LLAMA,
        partial(with_norms, shift=1.0),
        settings=MINIMAX,
        options=ROPE,
    ),
    huggingface(
        "hca",
        "deepseek_v4",
        "deepseek_v4",
        "DeepseekV4Attention, HCA",
        LLAMA,
        compressed,
        settings=DEEPSEEK_V4,
        maps=False,  # over tokens and summaries
        options=(*HALF, *(f"attention.kinds.heavily.{n}" for n in ("head_dim=8", "q_rank=7", "block=3", "window=3"))),
    ),
    huggingface(
        "csa",
        "deepseek_v4",
        "deepseek_v4",
        "DeepseekV4Attention, CSA",
        "layers.1.self_attn",
        compressed,
        settings=DEEPSEEK_V4,
        maps=False,
        options=(
            *HALF,
            *(f"attention.kinds.sparse.{n}" for n in ("head_dim=8", "q_rank=7", "block=2", "window=3", "topk=2")),
            *(f"attention.kinds.sparse.{n}=8" for n in ("index_heads", "index_dim")),
        ),
        layer=1,
        why="gradients of its choice: there are none, ours lends one to the indexer",
    ),
]
