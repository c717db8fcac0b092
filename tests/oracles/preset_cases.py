"""Today's presets, and layers that are sparse or latent, against the modeling code of Hugging Face transformers."""

from functools import partial

import torch
from tests.oracles.case import (
    BATCH,
    LENGTH,
    WIDTH,
    Case,
    Recording,
    Tensors,
    coarse,
    generator,
    in_double,
    interleaved,
    recorded,
)
from tests.oracles.hugging_face import EPS, SIZES, tiny
from tests.oracles.mappings import latent, projections, with_norms, with_sinks
from tests.oracles.softmax_cases import LLAMA, ROPE, huggingface
from torch import Tensor

from attnlab.attention.base import Attention
from attnlab.attention.norm import RMSNorm
from attnlab.attention.shared import Shared


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


def indexed_latent(w: Tensors) -> dict[str, Tensor]:
    """HY-V4 with its indexer, whose queries and keys rotate in their last four coordinates, ours in the first."""

    def turned(x: Tensor, n: int) -> Tensor:
        heads = x.unflatten(0, (n, -1)).roll(4, 1)
        return interleaved(heads.flatten(0, 1), n, 4)

    return gated_latent(w, plain=2, rotary=4, rank=5) | {
        "to_index_q.weight": turned(w["indexer.wq_b.weight"], 6),
        "to_index_k.weight": turned(w["indexer.wk.weight"], 1),
        "to_index_w.weight": w["indexer.weights_proj.weight"],
        **{f"index_norm.{part}": turned(w[f"indexer.k_norm.{part}"], 1) for part in ("weight", "bias")},
    }


def choice_read() -> Recording:
    """Two layers of HY-V4 on the same tokens: the second reads the keys that the first one's indexer picks."""
    with in_double():
        model = tiny("hy_v4", {**SIZES, **HY_V4})
        picker, reader = (model.layers[i].self_attn for i in (1, 2))
        x = coarse(BATCH, LENGTH, WIDTH, draw=generator()).requires_grad_()
        where = model.rotary_emb(x, torch.arange(LENGTH)[None])
        mask = torch.full((BATCH, 1, LENGTH, LENGTH), -torch.inf).triu(1)
        _, _, keys = picker(x, where, mask)
        y, weights, _ = reader(x, where, mask, prev_topk_indices=keys)
        named = {f"picker.{name}": p for name, p in picker.named_parameters()}
        return recorded(
            {"x": x, **named, **{f"reader.{name}": p for name, p in reader.named_parameters()}},
            {"y": y, "map": weights},
        )


def read_by_ours(layer: Attention, inputs: Tensors) -> Tensors:
    """Our two layers; the weights of the first are taken as they are."""
    picker = next(case for case in CASES if case.name == "hy_v4_picks").build()
    theirs, own = ({k[7:]: v for k, v in inputs.items() if k.startswith(name)} for name in ("picker.", "reader."))
    picker.load_state_dict({k: v.detach() for k, v in indexed_latent(theirs).items()})
    weights, shared = gated_latent(own, plain=2, rotary=4, rank=5), Shared()
    layer.load_state_dict({k: v.detach() for k, v in weights.items()})
    picker(inputs["x"], shared)
    with torch.no_grad():
        shown = layer.weights(inputs["x"], shared)
    return {"y": torch.func.functional_call(layer, weights, (inputs["x"], shared)), "map": shown}


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


def three_norms(w: Tensors) -> dict[str, Tensor]:
    """Gemma 4: gains turn like queries and keys; values of a full layer are made of what keys are made of."""
    halves = {f"{n}_norm.weight": interleaved(w[f"{n}_norm.weight"], 1) for n in "qk"}
    turned = {"to_q.weight": interleaved(w["q_proj.weight"], 4), "to_k.weight": interleaved(w["k_proj.weight"], 2)}
    if "v_proj.weight" in w:
        return halves | turned | {"to_v.weight": w["v_proj.weight"], "to_out.weight": w["o_proj.weight"]}
    return halves | turned | {"to_out.weight": interleaved(w["o_proj.weight"].mT, 4).mT}  # values turn like keys


def reader_of_values(w: Tensors) -> dict[str, Tensor]:
    """Gemma 4: a layer without keys, which are also values."""
    return {
        "to_q.weight": interleaved(w["q_proj.weight"], 4),
        "q_norm.weight": interleaved(w["q_norm.weight"], 1),
        "to_out.weight": interleaved(w["o_proj.weight"].mT, 4).mT,
    }


def values_read() -> Recording:
    """Two full layers of Gemma 4 on the same tokens: the second reads the keys and values of the first."""
    with in_double():
        model = tiny("gemma4_text", {**SIZES, **GEMMA4})
        maker, reader = (model.layers[i].self_attn for i in (5, 11))
        x = coarse(BATCH, LENGTH, WIDTH, draw=generator()).requires_grad_()
        where = model.rotary_emb(x, torch.arange(LENGTH)[None], "full_attention")
        mask, states = torch.full((BATCH, 1, LENGTH, LENGTH), -torch.inf).triu(1), {}
        maker(x, where, mask, states)
        y, weights = reader(x, where, mask, states)
        named = {f"maker.{name}": p for name, p in maker.named_parameters() if name[0] == "k"}
        return recorded(
            {"x": x, **named, **{f"reader.{name}": p for name, p in reader.named_parameters()}},
            {"y": y, "map": weights},
        )


def read_values_by_ours(layer: Attention, inputs: Tensors) -> Tensors:
    maker = next(case for case in CASES if case.name == "gemma4_global").build()
    for module in maker.modules():
        if isinstance(module, RMSNorm):
            module.eps = EPS
    k, own = inputs["maker.k_proj.weight"], {name[7:]: w for name, w in inputs.items() if name[:7] == "reader."}
    beside = {"q_proj.weight": k.new_ones(16, 16), "q_norm.weight": k.new_ones(4), "o_proj.weight": k.new_ones(16, 16)}
    keys = three_norms({**beside, "k_proj.weight": k, "k_norm.weight": inputs["maker.k_norm.weight"]})
    weights, shared = reader_of_values(own), Shared()
    layer.load_state_dict({k: v.detach() for k, v in weights.items()})
    torch.func.functional_call(maker, keys, (inputs["x"], shared))
    with torch.no_grad():
        shown = layer.weights(inputs["x"], shared)
    return {"y": torch.func.functional_call(layer, weights, (inputs["x"], shared)), "map": shown}


def convolved(w: Tensors) -> dict[str, Tensor]:
    """ZAYA: queries, keys and the channels of their convolutions turn; four query heads and two key heads."""
    q, k = (interleaved(w[f"qkv_proj.{n}_proj.weight"], heads) for n, heads in (("q", 4), ("k", 2)))
    within = interleaved(w["qkv_proj.conv_qk_grouped.weight"], 6)  # out of each head, then into it
    return {
        "to_q.weight": q,
        "to_k.weight": k,
        "to_v.weight": w["qkv_proj.v_proj_current.weight"],
        "to_earlier.weight": w["qkv_proj.v_proj_delayed.weight"],
        "depthwise": interleaved(w["qkv_proj.conv_qk_depthwise.weight"], 6)[:, 0],
        "depthwise_bias": interleaved(w["qkv_proj.conv_qk_depthwise.bias"], 6),
        "within_heads.weight": interleaved(within.transpose(0, 1), 1).transpose(0, 1).flatten(1),
        "within_heads.bias": interleaved(w["qkv_proj.conv_qk_grouped.bias"], 6),
        "key_scale": w["qk_norm.temp"],
        "to_out.weight": w["o_proj.weight"],
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
ZAYA = {
    "num_experts": 2,
    "router_hidden_size": 4,
    "moe_intermediate_size": 4,
    "rope_parameters": {"hybrid": {**TURNING, "partial_rotary_factor": 1.0}},
}
GEMMA4 = {
    "num_hidden_layers": 12,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2,
    "num_kv_shared_layers": 6,
    "sliding_window": 4,
    "global_head_dim": 4,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 11,
    "rope_parameters": BOTH,
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
    "index_n_heads": 6,
    "index_head_dim": 6,
    "index_topk": 3,
    "rope_parameters": TURNING,
}
HY_V4_SIZES = ("head_dim=6", "rope_dim=4", "kv_rank=5", "q_rank=7")
HY_V4_PICKS = (*HY_V4_SIZES, "index_heads=6", "index_dim=6", "topk=3")

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
        options=(*ROPE, *(f"attention.{size}" for size in HY_V4_SIZES), "attention/normalizer=sink"),
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
    huggingface(
        "hca_alone",
        "hca",
        "deepseek_v4",
        "DeepseekV4Attention, HCA, of shorter blocks",
        LLAMA,
        compressed,
        settings=DEEPSEEK_V4
        | {
            "sliding_window": 4,
            "compress_rates": {"heavily_compressed_attention": 2, "compressed_sparse_attention": 2},
        },
        maps=False,
        options=(*HALF, *(f"attention.{n}" for n in ("head_dim=8", "q_rank=7", "block=2", "window=4"))),
    ),
    huggingface(
        "csa_alone",
        "csa",
        "deepseek_v4",
        "DeepseekV4Attention, CSA, of one block",
        "layers.1.self_attn",
        compressed,
        settings=DEEPSEEK_V4 | {"index_topk": 1, "sliding_window": 2},
        maps=False,
        options=(
            *HALF,
            *(f"attention.{n}" for n in ("head_dim=8", "q_rank=7", "block=2", "window=2", "topk=1")),
            *(f"attention.{n}=8" for n in ("index_heads", "index_dim")),
        ),
        why="gradients of its choice: there are none, ours lends one to the indexer",
    ),
    huggingface(
        "msa",
        "msa",
        "minimax_m3_vl_text",
        "MiniMaxM3VLAttention, of one block beside the own",
        "layers.1.self_attn",
        block_index,
        settings=MINIMAX | {"index_topk_blocks": 2},
        options=(
            *ROPE,
            "attention/score=[scaled,qk_norm]",
            *(f"attention.{n}" for n in ("block=2", "topk=1", "index_dim=4")),
        ),
        why="gradients of its choice: there are none, ours lends one to the indexer",
    ),
    huggingface(
        "hy_v4_picks",
        "hy_v4",
        "hy_v4",
        "HYV4Attention, a layer with an indexer",
        LLAMA,
        indexed_latent,
        settings=HY_V4,
        options=(*ROPE, *(f"attention.kinds.picks.{size}" for size in HY_V4_PICKS)),
        why="gradients of its choice: there are none, ours lends one to the indexer",
    ),
    Case(
        "hy_v4_reads",
        "hy_v4",
        "transformers",
        "HYV4Attention, a layer with an indexer, and one that reads its choice",
        choice_read,
        read_by_ours,
        (*ROPE, *(f"attention.kinds.reads.{size}" for size in HY_V4_SIZES)),
        layer=1,
        why="the same tokens go into both layers; gradients as in hy_v4_picks",
    ),
    huggingface(
        "cca",
        "cca",
        "zaya",
        "ZayaAttention",
        LLAMA,
        convolved,
        settings=ZAYA,
        options=(*ROPE, "attention.head_dim=4"),
    ),
    huggingface(
        "gemma4_local",
        "gemma4",
        "gemma4_text",
        "Gemma4TextAttention, a layer with a window",
        LLAMA,
        three_norms,
        settings=GEMMA4,
        options=(*ROPE, "attention.kinds.local.mask.window=4"),
    ),
    huggingface(
        "gemma4_global",
        "gemma4",
        "gemma4_text",
        "Gemma4TextAttention, a layer that sees all",
        "layers.5.self_attn",
        three_norms,
        settings=GEMMA4,
        options=ROPE,
        layer=5,
        n_layers=12,
    ),
    Case(
        "gemma4_reader",
        "gemma4",
        "transformers",
        "Gemma4TextAttention, a layer that sees all, and one that reads its keys and values",
        values_read,
        read_values_by_ours,
        (*ROPE, "attention.kinds.global.makers=6"),
        layer=11,
        n_layers=12,
        why="the same tokens go into both layers",
    ),
]
