"""GPT-2 (Radford et al. 2019): learned positions, one transposed matrix for queries, keys and values."""

from dataclasses import dataclass
from typing import Any

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    NOPE,
    Choice,
    Key,
    Must,
    Reading,
    Same,
    Several,
    Unused,
    rotary,
    window,
)
from attnlab.interchange.families.llama import ATTENTION, QKV, UNGATED
from attnlab.interchange.families.model_settings import HOME, NO_EMBEDDING, ModelSettings
from attnlab.interchange.families.transforms import QKV_BY_GROUP, QKV_ROWS, QVK_IN_FOUR, TRANSPOSED, then
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "transformer.h.{i}"
LAYER_NORM = {"norm": "layer", "norm_bias": True}
GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    model={**LAYER_NORM, "bias": True, "mlp_ratio": 4.0},
    attention={**ATTENTION, "position": NOPE, "qkv_bias": True, "out_bias": True},
    embed={"_target_": f"{HOME}embedding.LearnedEmbedding", "_partial_": True},
    keys=(
        Same("vocab_size", "vocab_size", default=50257),
        Same("n_embd", "model.d_model", default=768),
        Same("n_positions", "model.context", default=1024),
        Several("n_head", ("attention.n_heads", "model.n_heads"), COUNT, 12),
        Same("n_inner", "model.mlp_width", COUNT_OR_NULL, None),
        Choice("activation_function", "model.mlp", UNGATED, "gelu_new"),
        Same("layer_norm_epsilon", "model.norm_eps", POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("scale_attn_weights", (True,)),
        Must("scale_attn_by_inverse_layer_idx", (False,)),
        Unused(("n_ctx", "reorder_and_upcast_attn")),
    ),
    tensors={
        "embedding": "transformer.wte",
        "embed.table": "transformer.wpe",
        "blocks.{i}.norm_attention": f"{LAYER}.ln_1",
        QKV: (f"{LAYER}.attn.c_attn", then(TRANSPOSED, QKV_ROWS)),
        "blocks.{i}.attention.to_out": (f"{LAYER}.attn.c_proj", TRANSPOSED),
        "blocks.{i}.norm_mlp": f"{LAYER}.ln_2",
        "blocks.{i}.mlp.up": (f"{LAYER}.mlp.c_fc", TRANSPOSED),
        "blocks.{i}.mlp.down": (f"{LAYER}.mlp.c_proj", TRANSPOSED),
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    n_layers="n_layer",
    prefix="transformer.",
    aliases={
        **{"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"},
        "max_position_embeddings": "n_positions",
    },
    unused=(r".*attn\.(bias|masked_bias)",),
)
BIGCODE = GPT2.but(
    "gpt_bigcode",
    "GPTBigCodeForCausalLM",
    [
        Choice("activation_function", "model.mlp", UNGATED, "gelu_pytorch_tanh"),
        Choice("multi_query", "attention.n_kv_heads", {True: 1, False: None}, True),
        Unused(("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner", "max_batch_size")),
        Unused(
            (
                "num_key_value_heads",
                "max_sequence_length",
                "pre_allocate_kv_cache",
                "pad_key_length",
                "validate_runner_input",
            )
        ),
    ],
    tensors={
        **GPT2.tensors,
        QKV: (f"{LAYER}.attn.c_attn", QKV_BY_GROUP),
        "blocks.{i}.attention.to_out": f"{LAYER}.attn.c_proj",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.c_fc",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.c_proj",
    },
)


@dataclass(frozen=True)
class GlobalAndLocal(Key):
    """attention_types, as [[["global", "local"], 6]], or attention_layers; a local one sees window_size tokens."""

    theirs: str = "attention_types"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        size, n = reading.checked("window_size", 256, COUNT), len(settings.layers)
        types = reading.get("attention_types") or [[["global", "local"], n // 2]]
        try:
            expanded = [name for names, times in types for _ in range(min(times, n)) for name in names]
        except (TypeError, ValueError) as error:
            raise reading.refused("attention_types", types, "must be lists of names and how often they come") from error
        names = reading.get("attention_layers") or expanded
        if not isinstance(names, list) or len(names) != n or not all(name in ("global", "local") for name in names):
            raise reading.refused("attention_layers", names, "must say global or local for every layer")
        for node, name in zip(settings.layers, names, strict=True):
            if name == "local":
                node["mask"] = window(size)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        sizes = [node["mask"].get("window") for node in settings.layers]
        content["window_size"] = next((size for size in sizes if size), 256)
        content["attention_layers"] = ["local" if size else "global" for size in sizes]
        content["attention_types"] = [[[name], 1] for name in content["attention_layers"]]


ATTN = f"{LAYER}.attn.attention"
GPT_NEO = GPT2.but(
    "gpt_neo",
    "GPTNeoForCausalLM",
    [
        Same("hidden_size", "model.d_model", default=2048),
        Same("max_position_embeddings", "model.context", default=2048),
        Several("num_heads", ("attention.n_heads", "model.n_heads"), COUNT, 16),
        Same("intermediate_size", "model.mlp_width", COUNT_OR_NULL, None),
        *(Must(name, (None,)) for name in ("n_embd", "n_positions", "n_head", "n_inner")),
        GlobalAndLocal(),
    ],
    attention={
        **{**ATTENTION, "position": NOPE, "out_bias": True},
        "score": {"unscaled": {"_target_": f"{HOME}score.Unscaled", "_partial_": True}},
    },
    tensors={
        **{ours: theirs for ours, theirs in GPT2.tensors.items() if ours != QKV},
        **{ours: f"{ATTN}.{name}_proj" for ours, name in zip(QKV, "qkv", strict=True)},
        "blocks.{i}.attention.to_out": f"{ATTN}.out_proj",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.c_fc",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.c_proj",
    },
    n_layers="num_layers",
    aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
    unused=(r".*attn\.attention\.(bias|masked_bias)",),
)


@dataclass(frozen=True)
class RotaryDim(Key):
    """How many coordinates of a head rotate."""

    theirs: str = "rotary_dim"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        width = reading.checked("rotary_dim", 64, COUNT)
        if width > settings.head_dim or width % 2:
            raise reading.refused("rotary_dim", width, f"must be even, and at most {settings.head_dim}, a head's width")
        settings.put("attention.position", rotary("RoPE", fraction=width / settings.head_dim))

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content["rotary_dim"] = round(settings.layers[0]["position"].get("fraction", 1.0) * settings.head_dim)


GPTJ = GPT2.but(
    "gptj",
    "GPTJForCausalLM",
    [
        Same("n_positions", "model.context", default=2048),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Must("rotary", (True,)),
        RotaryDim(),
    ],
    model={**GPT2.model, "head_bias": True, "parallel": True, "norm_shared": True},
    attention=ATTENTION,
    embed=NO_EMBEDDING,
    tensors={
        **{ours: theirs for ours, theirs in GPT2.tensors.items() if ours != QKV},
        **{ours: f"{LAYER}.attn.{name}_proj" for ours, name in zip(QKV, "qkv", strict=True)},
        "blocks.{i}.attention.to_out": f"{LAYER}.attn.out_proj",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.fc_in",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.fc_out",
    },
)
QVK = tuple(f"blocks.{{i}}.attention.qkv.to_{name}" for name in "qvk")
CODEGEN = GPTJ.but(
    "codegen",
    "CodeGenForCausalLM",
    [Same("vocab_size", "vocab_size", default=50400), Must("rotary", (None, True))],
    tensors={
        **{ours: theirs for ours, theirs in GPTJ.tensors.items() if ours not in QKV},
        QVK: (f"{LAYER}.attn.qkv_proj", QVK_IN_FOUR),
    },
    unused=(r".*attn\.causal_mask",),
)
BLOOM = GPT2.but(
    "bloom",
    "BloomForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=250880),
        Same("hidden_size", "model.d_model", default=64),
        Same("seq_length", "model.context", default=2048),
        Several("n_head", ("attention.n_heads", "model.n_heads"), COUNT, 8),
        *(Must(name, (None,)) for name in ("n_embd", "n_positions", "n_inner", "activation_function")),
        Must("apply_residual_connection_post_layernorm", (False,)),
        Unused(("slow_but_exact", "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion")),
        Unused(("offset_alibi", "skip_bias_add", "skip_bias_add_qkv", "unk_token_id", "n_ctx")),
    ],
    model={**GPT2.model, "mlp": "gelu_tanh", "embed_norm": True},
    attention={
        **{**ATTENTION, "qkv_bias": True, "out_bias": True},
        "position": {"_target_": f"{HOME}position_bias.ALiBi", "_partial_": True},
    },
    embed=NO_EMBEDDING,
    tensors={
        "embedding": "transformer.word_embeddings",
        "embed_norm": "transformer.word_embeddings_layernorm",
        "blocks.{i}.norm_attention": f"{LAYER}.input_layernorm",
        QKV: (f"{LAYER}.self_attention.query_key_value", QKV_BY_GROUP),
        "blocks.{i}.attention.to_out": f"{LAYER}.self_attention.dense",
        "blocks.{i}.norm_mlp": f"{LAYER}.post_attention_layernorm",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    aliases={"num_attention_heads": "n_head", "n_embed": "hidden_size", "num_hidden_layers": "n_layer"},
)
