"""Llama (arXiv 2302.13971) and what its layout became: Mistral, Qwen, SmolLM3, Arcee."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import (
    CAUSAL,
    COUNT_OR_NULL,
    FLAG,
    NOPE,
    POSITIVE_OR_NULL,
    Choice,
    Key,
    Must,
    Reading,
    Rope,
    Same,
    Several,
    Unused,
    Windows,
    inverse,
    rotary,
)
from attnlab.interchange.families.model_settings import HOME, ModelSettings
from attnlab.interchange.families.transforms import HALVES, PAIRS, PAIRS_OF_QK, QKV_ROWS, then
from attnlab.options.rules import COUNT, NONNEGATIVE, POSITIVE

SCALED = {"_target_": f"{HOME}score.Scaled", "_partial_": True}
QK_NORM = {"_target_": f"{HOME}score.QKNorm", "_partial_": True}
ATTENTION = {
    "_target_": f"{HOME}multi_head.MultiHeadAttention",
    "_partial_": True,
    "mask": CAUSAL,
    "score": {"scaled": SCALED},
    "normalizer": {"_target_": f"{HOME}normalizer.Softmax", "_partial_": True},
    "gate": {"_target_": f"{HOME}gate.NoGate", "_partial_": True},
    "position": rotary("RoPE"),
}
WITH_QK_NORM = {**ATTENTION, "score": {"scaled": SCALED, "qk_norm": QK_NORM}}
GATED = {
    "silu": "swiglu",
    "swish": "swiglu",
    "relu": "reglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
}
UNGATED = {
    **{"relu2": "relu2", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"},
    **{"gelu_fast": "gelu_tanh", "silu": "silu", "swish": "silu"},
}

LLAMA3 = {
    **{"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 8192,
}
LAYER = "model.layers.{i}"
TENSORS: dict[Any, Any] = {
    "embedding": "model.embed_tokens",
    "blocks.{i}.norm_attention": f"{LAYER}.input_layernorm",
    "blocks.{i}.attention.qkv.to_q": (f"{LAYER}.self_attn.q_proj", PAIRS),
    "blocks.{i}.attention.qkv.to_k": (f"{LAYER}.self_attn.k_proj", PAIRS),
    "blocks.{i}.attention.qkv.to_v": f"{LAYER}.self_attn.v_proj",
    "blocks.{i}.attention.to_out": f"{LAYER}.self_attn.o_proj",
    "blocks.{i}.attention.score.*.q_norm": (f"{LAYER}.self_attn.q_norm", PAIRS),
    "blocks.{i}.attention.score.*.k_norm": (f"{LAYER}.self_attn.k_norm", PAIRS),
    "blocks.{i}.norm_mlp": f"{LAYER}.post_attention_layernorm",
    "blocks.{i}.mlp.gate": f"{LAYER}.mlp.gate_proj",
    "blocks.{i}.mlp.up": f"{LAYER}.mlp.up_proj",
    "blocks.{i}.mlp.down": f"{LAYER}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}

INTERLEAVED = {ours: theirs[0] if isinstance(theirs, tuple) else theirs for ours, theirs in TENSORS.items()}
QKV = tuple(f"blocks.{{i}}.attention.qkv.to_{name}" for name in "qkv")
GATE_UP = ("blocks.{i}.mlp.gate", "blocks.{i}.mlp.up")

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    model={"norm": "rms"},
    attention=ATTENTION,
    keys=(
        Same("vocab_size", "vocab_size", default=32000),
        Same("hidden_size", "model.d_model"),
        Same("max_position_embeddings", "model.context", default=2048),
        Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, None),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, None),
        Same("intermediate_size", "model.mlp_width"),
        Choice("hidden_act", "model.mlp", GATED, "silu"),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-6),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Several("attention_bias", ("attention.qkv_bias", "attention.out_bias"), FLAG, False),
        Same("mlp_bias", "model.bias", FLAG, False),
        Rope(),
    ),
    tensors=TENSORS,
)
ARCEE = LLAMA.but(
    "arcee",
    "ArceeForCausalLM",
    [
        Choice("hidden_act", "model.mlp", UNGATED, "relu2"),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=4096),
    ],
)
MISTRAL = LLAMA.but(
    "mistral",
    "MistralForCausalLM",
    [
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 8),
        Same("max_position_embeddings", "model.context", default=131072),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Windows(default=4096, types=None),
    ],
)


def _above_max_window(i: int, reading: Reading) -> bool:
    return i >= reading.checked("max_window_layers", 28, COUNT_OR_NULL)


QWEN_WINDOWS = Windows(
    default=4096, switch="use_sliding_window", rule=_above_max_window, ignored=("max_window_layers",)
)
QWEN2 = LLAMA.but(
    "qwen2",
    "Qwen2ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=151936),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 32),
        Same("max_position_embeddings", "model.context", default=32768),
        Must("attention_bias", (True,)),
        Must("mlp_bias", (False,)),
        QWEN_WINDOWS,
    ],
    attention={**ATTENTION, "qkv_bias": True},
)
QWEN3 = LLAMA.but(
    "qwen3",
    "Qwen3ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=151936),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 32),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("max_position_embeddings", "model.context", default=32768),
        Must("mlp_bias", (False,)),
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-6),
        QWEN_WINDOWS,
    ],
    attention=WITH_QK_NORM,
)


@dataclass(frozen=True)
class LayersWithoutRope(Key):
    """Which layers have no position: no_rope_layers, of which 0 says so, or every no_rope_layer_interval-th."""

    theirs: str = "no_rope_layers"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        interval, names = reading.checked("no_rope_layer_interval", 4, COUNT), reading.get("no_rope_layers")
        n = len(settings.layers)
        rotated = [int((i + 1) % interval != 0) for i in range(n)] if names is None else names
        if not isinstance(rotated, list) or len(rotated) < n or not all(each in (0, 1) for each in rotated):
            raise reading.refused("no_rope_layers", names, "must be 0 or 1 for every layer")
        for node, has_rope in zip(settings.layers, rotated, strict=False):
            if not has_rope:
                node["position"] = copy.deepcopy(NOPE)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content["no_rope_layers"] = [int("base" in node["position"]) for node in settings.layers]


def _without_rope(i: int, reading: Reading) -> bool:
    """SmolLM3 gives a window to the layers without rotation, where it has one at all."""
    interval, names = reading.checked("no_rope_layer_interval", 4, COUNT), reading.get("no_rope_layers")
    has_window = reading.get("use_sliding_window") and reading.get("sliding_window") is not None
    return bool(has_window) and not (names[i] if isinstance(names, list) and i < len(names) else (i + 1) % interval)


SMOLLM3 = LLAMA.but(
    "smollm3",
    "SmolLM3ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=128256),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 4),
        Same("max_position_embeddings", "model.context", default=32768),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Windows(switch="use_sliding_window", rule=_without_rope, ignored=("max_window_layers",)),
        Rope(base=2e6),
        LayersWithoutRope(),
    ],
)

# Of these, what makes them a Llama of their own is a size, a scale or a bias.
GRANITE = LLAMA.but(
    "granite",
    "GraniteForCausalLM",
    [
        Same("embedding_multiplier", "model.embed_scale", POSITIVE, 1.0),
        Same("residual_multiplier", "model.residual_scale", POSITIVE, 1.0),
        Same("attention_multiplier", "attention.score.scaled.scale", POSITIVE, 1.0),
        inverse("logits_scaling", "model.logit_scale", 1.0),
    ],
)
SEED_OSS = LLAMA.but(
    "seed_oss",
    "SeedOssForCausalLM",
    [
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 8),
        Same("max_position_embeddings", "model.context", default=524288),
        Same("attention_bias", "attention.qkv_bias", FLAG, True),
        Same("attention_out_bias", "attention.out_bias", FLAG, False),
        Unused(("residual_dropout",)),
    ],
)
HUNYUAN = LLAMA.but(
    "hunyuan_v1_dense",
    "HunYuanDenseV1ForCausalLM",
    [
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-5),
        Must("mlp_bias", (False,)),
        Unused(("eod_token_id", "sep_token_id", "pad_id", "use_qk_norm", "use_cla", "cla_share_factor")),
    ],
    attention={**ATTENTION, "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "when": "after"}}},
    tensors={
        **TENSORS,
        "blocks.{i}.attention.score.*.q_norm": (f"{LAYER}.self_attn.query_layernorm", PAIRS),
        "blocks.{i}.attention.score.*.k_norm": (f"{LAYER}.self_attn.key_layernorm", PAIRS),
    },
)
MINISTRAL = MISTRAL.but(
    "ministral",
    "MinistralForCausalLM",
    [Windows(default=4096)],
)


def _not_fourth(i: int, reading: Reading) -> bool:
    return i % 4 != 0


CWM = LLAMA.but(
    "cwm",
    "CwmForCausalLM",
    [
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 8),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=131072),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Windows(default=8192, rule=_not_fourth),
        Rope(usual={**LLAMA3, "rope_theta": 1e6, "factor": 16.0}),
    ],
)
# Of these, the layout of tensors: neighbours rotate as ours do, or what stands apart here is one matrix.
ERNIE = LLAMA.but(
    "ernie4_5",
    "Ernie4_5ForCausalLM",
    [
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 2),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=131072),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Several("use_bias", ("model.bias", "attention.qkv_bias", "attention.out_bias"), FLAG, False),
        Must("attention_bias", (None,)),
        Must("mlp_bias", (None,)),
        Rope(base=5e5),
    ],
    tensors=INTERLEAVED,
)
HELIUM = LLAMA.but(
    "helium",
    "HeliumForCausalLM",
    [
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 20),
        Same("max_position_embeddings", "model.context", default=4096),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-8),
        Same("attention_bias", "attention.qkv_bias", FLAG, False),
        Rope(base=1e5),
    ],
    tensors=INTERLEAVED,
)
PHI3 = LLAMA.but(
    "phi3",
    "Phi3ForCausalLM",
    [
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=4096),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Unused(("original_max_position_embeddings",)),
        Windows(types=None),
    ],
    tensors={
        **{
            ours: theirs
            for ours, theirs in TENSORS.items()
            if not ours.endswith(("to_q", "to_k", "to_v", "gate", "up"))
        },
        QKV: (f"{LAYER}.self_attn.qkv_proj", then(QKV_ROWS, PAIRS_OF_QK)),
        GATE_UP: (f"{LAYER}.mlp.gate_up_proj", HALVES),
    },
)
GLM = LLAMA.but(
    "glm",
    "GlmForCausalLM",
    [
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 2),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1.5625e-07),
        Same("max_position_embeddings", "model.context", default=131072),
        Same("attention_bias", "attention.qkv_bias", FLAG, True),
        Must("mlp_bias", (False,)),
        Rope(fraction=0.5),
    ],
    tensors={
        **{ours: theirs for ours, theirs in INTERLEAVED.items() if ours not in GATE_UP},
        GATE_UP: (f"{LAYER}.mlp.gate_up_proj", HALVES),
    },
)
GLM4 = GLM.but(
    "glm4",
    "Glm4ForCausalLM",
    model={"norm": "rms", "norm_place": "sandwich"},
    tensors={
        **GLM.tensors,
        "blocks.{i}.norm_attention_out": f"{LAYER}.post_self_attn_layernorm",
        "blocks.{i}.norm_mlp_out": f"{LAYER}.post_mlp_layernorm",
    },
)
APERTUS = QWEN3.but(
    "apertus",
    "ApertusForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=131072),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, None),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, None),
        Same("max_position_embeddings", "model.context", default=65536),
        Choice("hidden_act", "model.mlp", {"xielu": "xielu", **UNGATED}, "xielu"),
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-5),
        Must("mlp_bias", (False,)),
        Unused(("post_norm", "qk_norm")),
        Rope(usual={**LLAMA3, "rope_theta": 12e6, "factor": 8.0}),
    ],
    tensors={
        **TENSORS,
        "blocks.{i}.norm_attention": f"{LAYER}.attention_layernorm",
        "blocks.{i}.norm_mlp": f"{LAYER}.feedforward_layernorm",
        **{
            f"blocks.{{i}}.mlp.activation.{name}": f"{LAYER}.mlp.act_fn.{name}"
            for name in ("alpha_p", "alpha_n", "beta", "eps")
        },
    },
)


@dataclass(frozen=True)
class RopeOfMinistral3(Rope):
    """YaRN, where queries grow beyond the original context by llama_4_scaling_beta."""

    def node(self, reading: Reading, given: Mapping[str, Any], base: float | None = None) -> dict[str, Any]:
        beta = Reading(given, f"{reading.source}: rope_parameters").checked("llama_4_scaling_beta", 0.0, NONNEGATIVE)
        apart = ("llama_4_scaling_beta", "max_position_embeddings")
        node = super().node(reading, {name: value for name, value in given.items() if name not in apart}, base)
        if "original_context" not in node:
            raise reading.refused(self.theirs, given, "cannot be expressed: only YaRN can")
        return {**node, "query_beta": beta}

    def write_node(self, node: Mapping[str, Any], content: dict[str, Any]) -> None:
        super().write_node(node, content)
        for name in ("rope_parameters", "rope_scaling"):
            content[name] = {**(content[name] or {}), "llama_4_scaling_beta": node.get("query_beta", 0.0)}


MINISTRAL3 = MISTRAL.but(
    "ministral3",
    "Ministral3ForCausalLM",
    [
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=262144),
        Windows(types=None),
        RopeOfMinistral3(
            usual={
                **{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0},
                **{"original_max_position_embeddings": 16384, "llama_4_scaling_beta": 0.1},
            }
        ),
    ],
)
# Of these, nothing but names, and what is usual where their config.json is silent.
EXAONE_LAYER = "transformer.h.{i}"
EXAONE = LLAMA.but(
    "exaone",
    "LlamaForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=102400),
        Same("hidden_size", "model.d_model", default=4096),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 8),
        Same("intermediate_size", "model.mlp_width", default=14336),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=4096),
        Rope(base=5e5),
    ],
    aliases={
        **{"num_layers": "num_hidden_layers", "layer_norm_epsilon": "rms_norm_eps"},
        "activation_function": "hidden_act",
    },
    tensors={
        "embedding": "transformer.wte",
        "blocks.{i}.norm_attention": f"{EXAONE_LAYER}.ln_1",
        "blocks.{i}.attention.qkv.to_q": (f"{EXAONE_LAYER}.attn.attention.q_proj", PAIRS),
        "blocks.{i}.attention.qkv.to_k": (f"{EXAONE_LAYER}.attn.attention.k_proj", PAIRS),
        "blocks.{i}.attention.qkv.to_v": f"{EXAONE_LAYER}.attn.attention.v_proj",
        "blocks.{i}.attention.to_out": f"{EXAONE_LAYER}.attn.attention.out_proj",
        "blocks.{i}.norm_mlp": f"{EXAONE_LAYER}.ln_2",
        "blocks.{i}.mlp.gate": f"{EXAONE_LAYER}.mlp.c_fc_0",
        "blocks.{i}.mlp.up": f"{EXAONE_LAYER}.mlp.c_fc_1",
        "blocks.{i}.mlp.down": f"{EXAONE_LAYER}.mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    prefix="transformer.",
)
INTERNLM3 = LLAMA.but(
    "internlm3",
    "LlamaForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=128512),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 2),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=32768),
    ],
    aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
)
IQUESTCODER = LLAMA.but(
    "iquestcoder",
    "LlamaForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=76800),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 8),
        Same("head_dim", "attention.head_dim", COUNT_OR_NULL, 128),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("max_position_embeddings", "model.context", default=131072),
        Must("clip_qkv", (None,)),
        Must("use_sliding_window", (False, None)),
    ],
)
HYPERCLOVAX = GRANITE.but(
    "hyperclovax",
    "HyperCLOVAXForCausalLM",
    [
        Same("attention_multiplier", "attention.score.scaled.scale", POSITIVE_OR_NULL, None),
        Same("logits_scaling", "model.logit_scale", POSITIVE, 1.0),
        Choice("use_post_norm", "model.norm_place", {True: "sandwich", False: "pre"}, True),
    ],
    tensors={
        **TENSORS,
        "blocks.{i}.norm_attention_out": f"{LAYER}.post_norm1",
        "blocks.{i}.norm_mlp_out": f"{LAYER}.post_norm2",
    },
)
