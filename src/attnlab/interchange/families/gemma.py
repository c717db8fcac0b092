"""Gemma (arXiv 2403.08295, 2408.00118, 2503.19786): scaled embeddings, gains of 1 + w, norms on both sides."""

from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    POSITIVE_OR_NULL,
    Added,
    Choice,
    Derived,
    Must,
    Reading,
    RopeByKind,
    Same,
    Several,
    Unused,
    Windows,
    inverse_root,
)
from attnlab.interchange.families.llama import ATTENTION, GATED, LLAMA, QK_NORM, SCALED, TENSORS
from attnlab.interchange.families.model_settings import HOME
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "model.layers.{i}"
SANDWICH = {
    **TENSORS,
    "blocks.{i}.norm_attention_out": f"{LAYER}.post_attention_layernorm",
    "blocks.{i}.norm_mlp": f"{LAYER}.pre_feedforward_layernorm",
    "blocks.{i}.norm_mlp_out": f"{LAYER}.post_feedforward_layernorm",
}
SOFTCAP = {"_target_": f"{HOME}score.SoftCap", "_partial_": True}
MODEL = {"norm": "rms", "norm_unit_offset": True}
EMBED_SCALE = Derived("model.embed_scale", lambda settings: settings.model["d_model"] ** 0.5)
GEMMA = LLAMA.but(
    "gemma",
    "GemmaForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=256000),
        Same("head_dim", "attention.head_dim", COUNT, 256),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 16),
        Same("max_position_embeddings", "model.context", default=8192),
        Choice(
            "hidden_act", "model.mlp", {"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu_tanh"}, "gelu_pytorch_tanh"
        ),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("mlp_bias", (False,)),
        Must("hidden_activation", (None, "gelu_pytorch_tanh")),
        Must("use_bidirectional_attention", (None, False)),
        EMBED_SCALE,
    ],
    model=MODEL,
)


def _even(i: int, reading: Reading) -> bool:
    return i % 2 == 0


GEMMA2 = GEMMA.but(
    "gemma2",
    "Gemma2ForCausalLM",
    [
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT, 4),
        Choice("hidden_activation", "model.mlp", GATED, "gelu_pytorch_tanh"),
        Unused(("hidden_act", "cache_implementation")),
        inverse_root("query_pre_attn_scalar", "attention.score.scaled.scale", 256),
        Added("attn_logit_softcapping", "attention.score.softcap", SOFTCAP, "cap", 50.0),
        Same("final_logit_softcapping", "model.final_softcap", POSITIVE_OR_NULL, 30.0),
        Windows(default=4096, rule=_even),
    ],
    model={**MODEL, "norm_place": "sandwich"},
    tensors=SANDWICH,
)


def _by_pattern(i: int, reading: Reading) -> bool:
    return (i + 1) % reading.checked("sliding_window_pattern", 6, COUNT) != 0


GEMMA3 = GEMMA2.but(
    "gemma3_text",
    "Gemma3ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=262208),
        Same("max_position_embeddings", "model.context", default=131072),
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-6),
        Must("attn_logit_softcapping", (None,)),  # which transformers does not act on
        Same("final_logit_softcapping", "model.final_softcap", POSITIVE_OR_NULL, None),
        Windows(default=4096, rule=_by_pattern, ignored=("sliding_window_pattern",)),
        RopeByKind(base=1e6),
    ],
    attention={**ATTENTION, "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "unit_offset": True}}},
)
VAULTGEMMA = GEMMA2.but(
    "vaultgemma",
    "VaultGemmaForCausalLM",
    model=MODEL,
    tensors={**TENSORS, "blocks.{i}.norm_mlp": f"{LAYER}.pre_feedforward_layernorm"},
)
