"""Tiny random models of transformers, saved to disk with every parameter moved: one entry per type."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.oracles.case import in_double

VOCAB = 300
LLAMA = {
    **{"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
}
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
FALCON = {key: value for key, value in NEOX.items() if key != "intermediate_size"}
NEW_FALCON = {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
GPT2 = {"vocab_size": VOCAB, "n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 64}
LATENT = {
    **{**LLAMA, "num_key_value_heads": 4, "first_k_dense_replace": 2, "kv_lora_rank": 10, "qk_rope_head_dim": 4},
    **{"qk_nope_head_dim": 6, "v_head_dim": 5},
}
MAMBA2 = {
    **{"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4, "head_dim": 8, "expand": 2},
    **{"state_size": 5, "n_groups": 2, "conv_kernel": 3, "chunk_size": 4},
}
HYBRID = {
    **{**LLAMA, "num_hidden_layers": 4, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 5, "linear_value_head_dim": 6, "linear_conv_kernel_dim": 3},
}
TYPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama, tied": ("llama", {**LLAMA, "tie_word_embeddings": True, "head_dim": 6, "rms_norm_eps": 1e-3}),
    "llama, Llama 3 scaling": (
        "llama",
        {
            **LLAMA,
            "rope_parameters": {
                **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 16},
            },
        },
    ),
    "llama, linear scaling": (
        "llama",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "llama, YaRN": (
        "llama",
        {
            **LLAMA,
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0},
                **{"original_max_position_embeddings": 16},
            },
        },
    ),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 5}),
    "mistral, no window": ("mistral", {**LLAMA, "sliding_window": None}),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, windows": ("qwen2", {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 6}),
    "smollm3": ("smollm3", {**LLAMA, "num_hidden_layers": 4, "pad_token_id": 0}),
    "arcee": ("arcee", LLAMA),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": (
        "gpt_neox",
        {**NEOX, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "gpt_neox, one after the other": ("gpt_neox", {**NEOX, "use_parallel_residual": False, "hidden_size": 32}),
    "phi": ("phi", LLAMA),
    "phi, normed queries": ("phi", {**LLAMA, "qk_layernorm": True}),
    "stablelm": ("stablelm", {**LLAMA, "use_qkv_bias": True, "hidden_size": 32}),
    "stablelm, parallel": ("stablelm", {**LLAMA, "use_parallel_residual": True, "hidden_size": 32}),
    "olmo": ("olmo", LLAMA),
    "olmo2": ("olmo2", LLAMA),
    "gemma": ("gemma", {**LLAMA, "head_dim": 6}),
    "gemma2": ("gemma2", {**LLAMA, "head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 7}),
    "gemma3_text": ("gemma3_text", {**LLAMA, "num_hidden_layers": 6, "head_dim": 6, "sliding_window": 5}),
    "granite": (
        "granite",
        {
            **LLAMA,
            **{"embedding_multiplier": 3.0, "logits_scaling": 3.0, "residual_multiplier": 0.7},
            "attention_multiplier": 0.3,
        },
    ),
    "seed_oss": ("seed_oss", {**LLAMA, "head_dim": 6}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**LLAMA, "head_dim": 4, "pad_token_id": 0}),
    "ministral": (
        "ministral",
        {**LLAMA, "head_dim": 4, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "cwm": ("cwm", {**LLAMA, "sliding_window": 5, "head_dim": 6}),
    "ernie4_5": ("ernie4_5", {**LLAMA, "head_dim": 6, "use_bias": True}),
    "helium": ("helium", {**LLAMA, "head_dim": 4}),
    "phi3": ("phi3", {**LLAMA, "pad_token_id": 0, "sliding_window": 5}),
    "glm": ("glm", {**LLAMA, "head_dim": 8, "pad_token_id": 0}),
    "glm4": ("glm4", {**LLAMA, "head_dim": 8, "pad_token_id": 0}),
    "starcoder2": ("starcoder2", {**LLAMA, "sliding_window": 5}),
    "nemotron": ("nemotron", {**LLAMA, "hidden_size": 32}),
    "jais2": ("jais2", LLAMA),
    "persimmon": ("persimmon", {**NEOX, "hidden_size": 32}),
    "olmo3": ("olmo3", {**LLAMA, "num_hidden_layers": 4, "sliding_window": 5}),
    "exaone4": ("exaone4", {**LLAMA, "num_hidden_layers": 4, "sliding_window": 5}),
    "vaultgemma": ("vaultgemma", {**LLAMA, "head_dim": 6, "sliding_window": 5}),
    "cohere": ("cohere", LLAMA),
    "cohere2": ("cohere2", {**LLAMA, "num_hidden_layers": 4, "sliding_window": 5}),
    "nanochat": ("nanochat", LLAMA),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_bigcode, all heads": ("gpt_bigcode", {**GPT2, "multi_query": False}),
    "gpt_neo": (
        "gpt_neo",
        {
            **{"vocab_size": VOCAB, "hidden_size": 16, "num_layers": 2, "num_heads": 4, "window_size": 5},
            **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64},
        },
    ),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 2}),
    "codegen": ("codegen", {**GPT2, "rotary_dim": 2}),
    "falcon": ("falcon", FALCON),
    "falcon, one after the other": ("falcon", {**FALCON, "parallel_attn": False, "multi_query": False, "bias": True}),
    "falcon, new": ("falcon", NEW_FALCON),
    "falcon, new, one norm": ("falcon", {**NEW_FALCON, "num_ln_in_parallel_attn": 1}),
    "opt": ("opt", {**FALCON, "ffn_dim": 24}),
    "biogpt": ("biogpt", NEOX),
    "ministral3": (
        "ministral3",
        {
            **{**LLAMA, "head_dim": 6},
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 4},
                **{"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3},
            },
        },
    ),
    "apertus": ("apertus", {**LLAMA, "pad_token_id": 0, "head_dim": 6}),
    "exaone": ("exaone", LLAMA),
    "internlm3": ("internlm3", {**LLAMA, "head_dim": 6, "attention_bias": True, "mlp_bias": True, "pad_token_id": 0}),
    "iquestcoder": ("iquestcoder", {**LLAMA, "head_dim": 6}),
    "hyperclovax": (
        "hyperclovax",
        {**LLAMA, "embedding_multiplier": 3.0, "logits_scaling": 0.3, "residual_multiplier": 0.7},
    ),
    "hyperclovax, pre": ("hyperclovax", {**LLAMA, "use_post_norm": False, "attention_multiplier": 0.3}),
    "diffllama": ("diffllama", {**LLAMA, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 6}),
    "diffllama, biases": ("diffllama", {**LLAMA, "attention_bias": True, "rms_norm_eps": 1e-3}),
    "deepseek_v2": ("deepseek_v2", {**LATENT, "q_lora_rank": 12, "mlp_bias": True}),
    "youtu": ("youtu", {**LATENT, "q_lora_rank": 12, "tie_word_embeddings": False}),
    "mamba2": ("mamba2", MAMBA2),
    "mamba2, without biases": ("mamba2", {**MAMBA2, "use_conv_bias": False, "tie_word_embeddings": True}),
    "qwen3_next": ("qwen3_next", {**HYBRID, "num_experts": 0}),
    "qwen3_5_text": ("qwen3_5_text", HYBRID),
    "olmo_hybrid": (
        "olmo_hybrid",
        {**HYBRID, "pad_token_id": 0, "rope_parameters": {"rope_theta": None, "rope_type": "default"}},
    ),
    "olmo_hybrid, rotated": (
        "olmo_hybrid",
        {
            **{**HYBRID, "pad_token_id": 0, "num_hidden_layers": 3, "linear_allow_neg_eigval": False},
            **{"layer_types": ["full_attention", "linear_attention", "full_attention"], "attention_bias": True},
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
        },
    ),
    "bloom": ("bloom", {"vocab_size": VOCAB, "hidden_size": 24, "n_head": 6, "n_layer": 2}),
    "deepseek_v3": ("deepseek_v3", {**LATENT, "q_lora_rank": 12}),
    "deepseek_v3, YaRN": (
        "deepseek_v3",
        {
            **{**LATENT, "q_lora_rank": 12},
            "rope_parameters": {
                **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7},
                **{"original_max_position_embeddings": 16},
            },
        },
    ),
    "deepseek_v3, no latent queries": ("deepseek_v3", {**LATENT, "q_lora_rank": None}),
    "mpt": ("mpt", {"vocab_size": VOCAB, "d_model": 18, "n_heads": 6, "n_layers": 2, "max_seq_len": 64}),
}


def save_tiny(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Write the model of an entry of TYPES, with a tokenizer, to a folder; gives it as it is loaded from there."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = TYPES[name]
    config = AutoConfig.for_model(model_type, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    if model_type == "olmo_hybrid":
        save_as_published(folder, config)
    save_tokenizer(folder)
    return load_double(folder)


def save_as_published(folder: Path, config: Any) -> None:
    """OLMo Hybrid's files: transformers cuts the convolution into three equal parts and renames a norm too many."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for i, kind in enumerate(config.layer_types):
        layer = f"model.layers.{i}."
        if kind == "full_attention":
            tensors[f"{layer}post_attention_layernorm.weight"] = tensors.pop(f"{layer}feedforward_layer_norm.weight")
            continue
        names = [f"{layer}linear_attn.{part}_conv1d.weight" for part in "qkv"]
        for name, part in zip(names, cut(torch.cat([tensors[n] for n in names]), config), strict=True):
            tensors[name] = part.contiguous().clone()
    save_file(tensors, file, metadata={"format": "pt"})


def cut(x: torch.Tensor, config: Any) -> tuple[torch.Tensor, ...]:
    """Rows of a convolution by what they are: queries, keys, values."""
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    return x.split([keys, keys, config.linear_num_value_heads * config.linear_value_head_dim])


def load_double(folder: Path) -> Any:
    """Their model in float64, where it would cast to float32, too."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float64).eval()
    forward = model.forward

    @functools.wraps(forward)
    def in_full(*args: Any, **settings: Any) -> Any:
        with in_double():
            return forward(*args, **settings)

    model.forward = in_full
    return model


def save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with the 256 bytes and nothing else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
