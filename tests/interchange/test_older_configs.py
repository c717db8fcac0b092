"""config.json as programs of other years wrote it is read as transformers reads it today."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attnlab.errors import UsageError
from attnlab.interchange.families.model_settings import normal
from attnlab.interchange.families.registry import family_for

SIZES = {
    **{"hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 4, "num_attention_heads": 6},
    **{"num_key_value_heads": 2, "vocab_size": 211, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02},
    **{"max_position_embeddings": 2048, "use_cache": True, "attention_dropout": 0.0, "torch_dtype": "bfloat16"},
}
SILU = {"hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 1e4}
GELU = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 1e4}
OLDER: Mapping[str, Mapping[str, Any]] = {
    "llama": {**SILU, "pretraining_tp": 1, "tie_word_embeddings": False, "transformers_version": "4.31.0.dev0"},
    "llama, tied": {
        **{**SILU, "rope_theta": 130000, "is_llama_config": True, "rope_interleaved": False},
        **{"tie_word_embeddings": True, "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}},
    },
    "llama, scaled": {
        **{**SILU, "eos_token_id": [2, 3], "head_dim": 8, "mlp_bias": False},
        "rope_scaling": {
            **{"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0},
            **{"original_max_position_embeddings": 1024, "rope_type": "llama3"},
        },
    },
    "llama, linear": {**SILU, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "qwen2": {**SILU, "max_window_layers": 24, "sliding_window": 512, "use_mrope": False, "use_sliding_window": False},
    "qwen3": {**SILU, "head_dim": 16, "max_window_layers": 28, "sliding_window": None, "use_sliding_window": False},
    "mistral": {**SILU, "sliding_window": 512},
    "smollm3": {
        **{**SILU, "max_window_layers": 28, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0]},
        **{"layer_types": ["full_attention"] * 4, "use_sliding_window": False, "sliding_window": None},
        **{"pad_token_id": 0, "tie_word_embeddings": True},
    },
    "gemma2": {
        **{**SILU, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16},
        **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "cache_implementation": "hybrid"},
        **{"query_pre_attn_scalar": 16, "sliding_window": 512, "pad_token_id": 0},
    },
    "gemma3_text": {
        **{**SILU, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "query_pre_attn_scalar": 16},
        **{"attn_logit_softcapping": None, "final_logit_softcapping": None, "cache_implementation": "hybrid"},
        **{"rope_theta": 1000000, "rope_local_base_freq": 10000, "sliding_window": 8, "sliding_window_pattern": 2},
    },
    "olmo2": {**SILU, "rope_theta": 500000, "tie_word_embeddings": False, "attention_bias": False},
    "stablelm": {
        **{**SILU, "layer_norm_eps": 1e-5, "hidden_dropout": 0.0, "partial_rotary_factor": 0.25},
        **{"use_qkv_bias": True, "qk_layernorm": False, "use_parallel_residual": False},
    },
    "phi": {**GELU, "partial_rotary_factor": 0.5, "qk_layernorm": False, "embd_pdrop": 0.0, "resid_pdrop": 0.1},
    "gpt_neox": {
        **{"hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_emb_base": 10000, "rotary_pct": 0.25},
        **{"use_parallel_residual": True, "tie_word_embeddings": False},
    },
}
# Of what stands above, what a type has not.
UNREAD = {
    "stablelm": ("rms_norm_eps",),
    "gpt_neox": ("num_key_value_heads",),
    "gemma3_text": ("hidden_act",),
}


def older(name: str) -> dict[str, Any]:
    model_type = name.partition(",")[0]
    config = {**SIZES, **OLDER[name], "model_type": model_type}
    return {key: value for key, value in config.items() if key not in UNREAD.get(model_type, ())}


def settings(config: Mapping[str, Any]) -> Any:
    return normal(family_for(config, "config.json").settings(config, "config.json"))


@pytest.mark.parametrize("name", OLDER)
def test_older(name: str, tmp_path: Path) -> None:
    """The same settings as of the file that transformers writes today, having read the older one."""
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps(older(name)))
    today = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert today != older(name) and settings(older(name)) == settings(json.loads(json.dumps(today)))


def test_other_number() -> None:
    """A number that differs makes other settings, and a key of nobody's is refused by name."""
    assert settings(older("llama")) != settings({**older("llama"), "rope_theta": 2e4})
    with pytest.raises(UsageError, match=r"config.json: spin \(3\) is not understood"):
        settings({**older("llama"), "spin": 3})
