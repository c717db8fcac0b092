"""The softmax family against the modeling code of Hugging Face transformers."""

from functools import partial
from typing import Any

from tests.oracles.case import Case, layer_with
from tests.oracles.hugging_face import module_of
from tests.oracles.mappings import (
    biased,
    fused,
    gated,
    latent,
    one_key_head,
    projections,
    turned_heads,
    two_maps,
    with_curves,
    with_norms,
    with_sinks,
)

ROPE = ("position=rope",)


def huggingface(name: str, variant: str, kind: str, source: str, path: str, mapping: Any, **more: Any) -> Case:
    run = {key: more.pop(key) for key in ("settings", "sizes", "maps", "decoded", "inside", "silent") if key in more}
    oracle = partial(module_of, kind, path, **{"settings": {}, **run})
    return Case(name, variant, "transformers", source, oracle, layer_with(mapping), **more)


LLAMA = "layers.0.self_attn"
BIASES = ("attention.qkv_bias=true", "attention.out_bias=true")
KINDS = tuple(f"attention.kinds.{kind}.{b}=true" for kind in ("local", "global") for b in ("qkv_bias", "out_bias"))
GPT2 = {"vocab_size": 11, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32}
WIDE = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}

INKLING = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 4,
    "sliding_window_size": 4,
    "d_rel": 3,
    "rel_extent": 5,
    "log_scaling_n_floor": 3,
    "log_scaling_alpha": 0.5,
    "layer_types": ["hybrid_sliding", "hybrid", "hybrid_sliding", "hybrid"],
    "mlp_layer_types": ["dense"] * 4,
    "moe_intermediate_size": 8,
    "n_routed_experts": 2,
}


def inkling(name: str, layer: int, kind: str, *options: str) -> Case:
    """A layer of the model's fourth and its kind in our pattern of six."""
    own = f"attention.kinds.{kind}"
    return huggingface(
        name,
        "inkling",
        "inkling_text",
        f"InklingAttention, a layer {'with a window' if kind == 'local' else 'that sees all'}",
        f"layers.{layer}.self_attn",
        with_curves,
        settings=INKLING,
        silent=("conv1d.weight",),
        options=(
            f"{own}.n_kv_heads=2",
            f"+{own}.score.scaled.scale=0.25",
            f"{own}.score.relative_logits.width=3",
            *(f"{own}.{option}" for option in options),
        ),
        layer=0 if kind == "local" else 5,
        n_layers=6,
        why="its convolutions of keys and values are 0, which leaves what they add to; its scores are divided by d",
    )


CASES = [
    inkling("inkling_local", 2, "local", "mask.window=4", "score.relative_logits.extent=4"),
    inkling(
        "inkling_global",
        1,
        "global",
        "score.relative_logits.extent=5",
        "score.log_scaling.alpha=0.5",
        "score.log_scaling.floor=3",
    ),
    huggingface(
        "multi_head",
        "multi_head",
        "gpt2",
        "GPT2Attention",
        "h.0.attn",
        partial(fused, name="c_attn", out="c_proj", per_head=False, conv1d=True),
        sizes=GPT2,
        options=("position=learned", *BIASES),
    ),
    huggingface(
        "mqa",
        "mqa",
        "gpt_bigcode",
        "GPTBigCodeAttention",
        "h.0.attn",
        one_key_head,
        sizes=GPT2,
        options=("position=learned", *BIASES),
    ),
    huggingface("gqa", "gqa", "llama", "LlamaAttention", LLAMA, projections, options=ROPE),
    huggingface(
        "sliding_window",
        "sliding_window",
        "mistral",
        "MistralAttention",
        LLAMA,
        projections,
        settings={"sliding_window": 4},
        options=(*ROPE, "attention.n_kv_heads=2", "attention.mask.window=4"),
    ),
    huggingface(
        "qk_norm",
        "qk_norm",
        "qwen3",
        "Qwen3Attention",
        LLAMA,
        with_norms,
        options=(*ROPE, "attention.n_kv_heads=2"),
    ),
    huggingface(
        "softcap",
        "softcap",
        "gemma2",
        "Gemma2Attention",
        "layers.1.self_attn",
        projections,
        settings={"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 4},
        options=(*ROPE, "attention.n_kv_heads=2", "attention.score.softcap.cap=2.0"),
    ),
    huggingface(
        "gemma2_local",
        "gemma2",
        "gemma2",
        "Gemma2Attention, a layer with a window",
        LLAMA,
        projections,
        settings={"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 4, "sliding_window": 4},
        options=(
            *ROPE,
            "attention.kinds.local.n_kv_heads=2",
            "attention.kinds.local.score.softcap.cap=2.0",
            "attention.kinds.local.mask.window=4",
        ),
    ),
    huggingface(
        "gemma3_local",
        "gemma3",
        "gemma3_text",
        "Gemma3Attention, a layer with a window",
        LLAMA,
        partial(with_norms, shift=1.0),
        settings={"sliding_window": 4, "query_pre_attn_scalar": 4},
        options=(*ROPE, "attention.kinds.local.n_kv_heads=2", "attention.kinds.local.mask.window=4"),
    ),
    huggingface(
        "gemma3_global",
        "gemma3",
        "gemma3_text",
        "Gemma3Attention, a layer that sees all",
        "layers.5.self_attn",
        partial(with_norms, shift=1.0),
        settings={"num_hidden_layers": 6, "query_pre_attn_scalar": 4},
        options=(*ROPE, "attention.kinds.global.n_kv_heads=2", "position.inside.base=1000000.0"),
        layer=5,
        n_layers=6,
    ),
    huggingface(
        "gpt_oss_local",
        "gpt_oss",
        "gpt_oss",
        "GptOssAttention, a layer with a window",
        LLAMA,
        with_sinks,
        settings={"sliding_window": 4, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        options=(*ROPE, *KINDS, "attention.kinds.local.n_kv_heads=2", "attention.kinds.local.mask.window=4"),
    ),
    huggingface(
        "sink",
        "sink",
        "gpt_oss",
        "GptOssAttention, a layer that sees all",
        "layers.1.self_attn",
        with_sinks,
        settings={"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        options=(*ROPE, *BIASES, "attention.n_kv_heads=2"),
    ),
    huggingface(
        "llama4_local",
        "llama4",
        "llama4_text",
        "Llama4TextAttention, a layer with chunks",
        LLAMA,
        partial(projections, turned=0),
        settings={"attention_chunk_size": 4, "use_qk_norm": False, "intermediate_size_mlp": 8, "moe_layers": []},
        options=(
            *ROPE,
            "position.inside.base=500000.0",
            "attention.kinds.local.n_kv_heads=2",
            "attention.kinds.local.mask.chunk=4",
        ),
    ),
    huggingface(
        "llama4_global",
        "llama4",
        "llama4_text",
        "Llama4TextAttention, a layer without positions",
        "layers.3.self_attn",
        partial(projections, turned=0),
        settings={"use_qk_norm": False, "intermediate_size_mlp": 8, "moe_layers": [], "attn_temperature_tuning": False},
        options=(*ROPE, "attention.kinds.global.n_kv_heads=2"),
        layer=3,
    ),
    huggingface(
        "smollm3_free",
        "smollm3",
        "smollm3",
        "SmolLM3Attention, a layer without positions",
        "layers.3.self_attn",
        partial(projections, turned=0),
        options=ROPE,
        layer=3,
    ),
    huggingface(
        "differential",
        "differential",
        "diffllama",
        "DiffLlamaAttention",
        "layers.2.self_attn",
        two_maps,
        settings={"num_key_value_heads": 4},
        maps=False,  # it reports the two maps, not their difference
        options=ROPE,
        layer=2,
    ),
    huggingface(
        "mla",
        "mla",
        "deepseek_v3",
        "DeepseekV3Attention",
        LLAMA,
        partial(latent, plain=2, rotary=4, rank=5),
        settings={
            "num_key_value_heads": 4,
            "head_dim": 4,
            "qk_nope_head_dim": 2,
            "qk_rope_head_dim": 4,
            "v_head_dim": 6,
            "kv_lora_rank": 5,
            "q_lora_rank": 7,
            "first_k_dense_replace": 4,
            "rope_interleave": True,
        },
        options=(
            *ROPE,
            "attention.head_dim=6",
            "attention.rope_dim=4",
            "attention.kv_rank=5",
            "attention.q_rank=7",
        ),
    ),
    huggingface(
        "gated",
        "qwen3_next",
        "qwen3_next",
        "Qwen3NextAttention",
        "layers.3.self_attn",
        gated,
        settings={
            **WIDE,
            "num_experts": 0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        options=(
            "position=rope_partial",
            "model.n_heads=2",
            "attention.kinds.attention.head_dim=8",
            "attention.kinds.attention.n_kv_heads=1",
        ),
        layer=3,
    ),
    huggingface(
        "rope_partial",
        "multi_head",
        "gpt_neox",
        "GPTNeoXAttention",
        "layers.0.attention",
        turned_heads,
        settings={
            **WIDE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        options=("position=rope_partial", "model.n_heads=2", *BIASES),
    ),
    huggingface(
        "yarn",
        "gqa",
        "llama",
        "LlamaAttention with YaRN",
        LLAMA,
        partial(projections, heads=2, kv=1),
        settings={
            **WIDE,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 256,
                "beta_fast": 3.9,
                "beta_slow": 3.8,
            },
        },
        options=(
            "position=yarn",
            "model.n_heads=2",
            "attention.n_kv_heads=1",
            "position.inside.beta_fast=3.9",
            "position.inside.beta_slow=3.8",
        ),
        why="the two ramps differ, so both betas stand between the same two pairs: no pair is on either ramp",
    ),
    huggingface(
        "alibi",
        "multi_head",
        "mpt",
        "MptAttention",
        "blocks.0.attn",
        partial(fused, name="Wqkv", out="out_proj", per_head=False),
        sizes={"vocab_size": 11, "d_model": 16, "n_heads": 4, "n_layers": 2, "max_seq_len": 32, "expansion_ratio": 1},
        options=("position=alibi",),
    ),
    huggingface(
        "t5",
        "multi_head",
        "t5",
        "T5Attention of the decoder",
        "block.0.layer.0.SelfAttention",
        biased,
        sizes={"vocab_size": 11, "d_model": 16, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 4},
        settings={"relative_attention_num_buckets": 6, "relative_attention_max_distance": 8},
        options=(
            "position=t5",
            "attention/score=[unscaled]",
            "position.inside.n_buckets=6",
            "position.inside.max_distance=8",
        ),
    ),
]
