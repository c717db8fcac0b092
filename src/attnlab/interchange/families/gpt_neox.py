"""GPT-NeoX (arXiv 2204.06745) and its kin: LayerNorms with a shift, heads that rotate in part, parallel halves."""

from dataclasses import replace

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.gpt2 import LAYER_NORM
from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    Added,
    Choice,
    Implied,
    Must,
    Rope,
    Same,
    Several,
    Unused,
    Windows,
)
from attnlab.interchange.families.llama import ATTENTION, GATED, LLAMA, QK_NORM, QKV, TENSORS, UNGATED
from attnlab.interchange.families.transforms import PAIRS, PAIRS_OF_QK, QKV_BY_GROUP, then
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "gpt_neox.layers.{i}"
GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    model={**LAYER_NORM, "bias": True},
    attention=ATTENTION,
    keys=(
        Same("vocab_size", "vocab_size", default=50432),
        Same("hidden_size", "model.d_model", default=6144),
        Same("max_position_embeddings", "model.context", default=2048),
        Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 64),
        Same("intermediate_size", "model.mlp_width", default=24576),
        Choice("hidden_act", "model.mlp", UNGATED, "gelu"),
        Same("layer_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Same("use_parallel_residual", "model.parallel", FLAG, True),
        Several("attention_bias", ("attention.qkv_bias", "attention.out_bias"), FLAG, True),
        Rope(fraction=0.25, bases=("rotary_emb_base", "rope_theta"), fractions=("rotary_pct", "partial_rotary_factor")),
    ),
    tensors={
        "embedding": "gpt_neox.embed_in",
        "blocks.{i}.norm_attention": f"{LAYER}.input_layernorm",
        QKV: (f"{LAYER}.attention.query_key_value", then(QKV_BY_GROUP, PAIRS_OF_QK)),
        "blocks.{i}.attention.to_out": f"{LAYER}.attention.dense",
        "blocks.{i}.norm_mlp": f"{LAYER}.post_attention_layernorm",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.dense_4h_to_h",
        "norm": "gpt_neox.final_layer_norm",
        "head": "embed_out",
    },
    prefix="gpt_neox.",
    also={"embed_out.weight": "lm_head.weight"},
    unused=(r".*rotary_emb\.inv_freq", r".*attention\.(bias|masked_bias)"),
)

QK_LAYER_NORM = Added(
    "qk_layernorm",
    "attention.score.qk_norm",
    {**QK_NORM, "kind": "layer", "bias": True},
    default=False,
    copied={"eps": "model.norm_eps"},
)
SELF = "model.layers.{i}.self_attn"
PHI = LLAMA.but(
    "phi",
    "PhiForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=51200),
        Choice("hidden_act", "model.mlp", UNGATED, "gelu_new"),
        Same("layer_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Must("rms_norm_eps", (None,)),
        Must("attention_bias", (True,)),
        Must("mlp_bias", (True,)),
        QK_LAYER_NORM,
        Rope(fraction=0.5),
    ],
    model={**LAYER_NORM, "bias": True, "head_bias": True, "parallel": True, "norm_shared": True},
    attention={**ATTENTION, "qkv_bias": True, "out_bias": True},
    tensors={
        **TENSORS,
        "blocks.{i}.attention.to_out": f"{SELF}.dense",
        "blocks.{i}.attention.score.*.q_norm": (f"{SELF}.q_layernorm", PAIRS),
        "blocks.{i}.attention.score.*.k_norm": (f"{SELF}.k_layernorm", PAIRS),
        "blocks.{i}.mlp.up": "model.layers.{i}.mlp.fc1",
        "blocks.{i}.mlp.down": "model.layers.{i}.mlp.fc2",
        "norm": "model.final_layernorm",
    },
)
STABLELM = LLAMA.but(
    "stablelm",
    "StableLmForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=50304),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 32),
        Same("max_position_embeddings", "model.context", default=4096),
        Choice("hidden_act", "model.mlp", GATED, "silu"),
        Same("layer_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("use_qkv_bias", "attention.qkv_bias", FLAG, False),
        Several("use_parallel_residual", ("model.parallel", "model.norm_shared"), FLAG, False),
        Must("rms_norm_eps", (None,)),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Must("qk_layernorm", (False,)),
        Unused(("norm_eps",)),
        Rope(fraction=0.25),
    ],
    model=LAYER_NORM,
)
STARCODER2 = LLAMA.but(
    "starcoder2",
    "Starcoder2ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=49152),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 2),
        Same("max_position_embeddings", "model.context", default=4096),
        Choice("hidden_act", "model.mlp", UNGATED, "gelu_pytorch_tanh"),
        Same("norm_epsilon", "model.norm_eps", POSITIVE, 1e-5),
        Several("use_bias", ("model.bias", "attention.qkv_bias", "attention.out_bias"), FLAG, True),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("rms_norm_eps", (None,)),
        Must("attention_bias", (None,)),
        Must("mlp_bias", (None,)),
        Must("mlp_type", (None, "default")),
        Must("norm_type", (None, "layer_norm")),
        Windows(types=None),
    ],
    model=LAYER_NORM,
    tensors={
        **TENSORS,
        "blocks.{i}.mlp.up": "model.layers.{i}.mlp.c_fc",
        "blocks.{i}.mlp.down": "model.layers.{i}.mlp.c_proj",
    },
)
NEMOTRON = LLAMA.but(
    "nemotron",
    "NemotronForCausalLM",
    [
        Same("max_position_embeddings", "model.context", default=4096),
        Choice("hidden_act", "model.mlp", UNGATED, "relu2"),
        Same("norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Must("rms_norm_eps", (None,)),
        Rope(fraction=0.5),
    ],
    model={**LAYER_NORM, "norm_unit_offset": True},
)
JAIS2 = LLAMA.but(
    "jais2",
    "Jais2ForCausalLM",
    [
        Same("max_position_embeddings", "model.context", default=8192),
        Choice("hidden_act", "model.mlp", UNGATED, "relu2"),
        Same("layer_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Several("attention_bias", ("attention.qkv_bias", "attention.out_bias"), FLAG, True),
        Same("mlp_bias", "model.bias", FLAG, True),
        Must("rms_norm_eps", (None,)),
    ],
    model=LAYER_NORM,
)
LAYER = "model.layers.{i}"
PERSIMMON = PHI.but(
    "persimmon",
    "PersimmonForCausalLM",
    [
        Choice("hidden_act", "model.mlp", UNGATED, "relu2"),
        Same("max_position_embeddings", "model.context", default=16384),
        Implied("num_key_value_heads", lambda settings: settings.layers[0]["n_heads"]),
        replace(QK_LAYER_NORM, default=True),
    ],
    model={**LAYER_NORM, "bias": True},
    tensors={
        **{ours: theirs for ours, theirs in PHI.tensors.items() if ours not in QKV},
        QKV: (f"{SELF}.query_key_value", then(QKV_BY_GROUP, PAIRS_OF_QK)),
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.dense_4h_to_h",
    },
)
