"""Falcon (arXiv 2311.16867): parallel halves, one key head or a few, and norms whose names tell how many there are."""

from dataclasses import dataclass
from typing import Any

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.gpt2 import LAYER_NORM
from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    Choice,
    Key,
    Must,
    Reading,
    Rope,
    Same,
    Several,
    Unused,
)
from attnlab.interchange.families.llama import ATTENTION, QKV, UNGATED
from attnlab.interchange.families.model_settings import ModelSettings
from attnlab.interchange.families.transforms import PAIRS_OF_QK, QKV_BY_GROUP, then
from attnlab.options.rules import COUNT, POSITIVE

LAYER = "transformer.h.{i}"


@dataclass(frozen=True)
class Architecture(Key):
    """The older architecture has one key head or as many as of queries, and one norm where halves are parallel; the
    newer one any number of key heads, and one norm or two."""

    theirs: str = "new_decoder_architecture"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        is_new, n_heads = reading.checked(self.theirs, False, FLAG), settings.layers[0]["n_heads"]
        multi_query, parallel = reading.checked("multi_query", True, FLAG), reading.checked("parallel_attn", True, FLAG)
        n_kv_heads = reading.checked("num_kv_heads", None, COUNT_OR_NULL) or n_heads
        norms = reading.checked("num_ln_in_parallel_attn", None, COUNT_OR_NULL) or (2 if is_new else 1)
        if norms not in ((1, 2) if is_new else (1,)):
            raise reading.refused("num_ln_in_parallel_attn", norms, "cannot be expressed")
        if is_new and not parallel:
            raise reading.refused("parallel_attn", parallel, f"cannot be expressed with {self.theirs}")
        settings.put("attention.n_kv_heads", n_kv_heads if is_new else 1 if multi_query else n_heads)
        settings.model |= {"parallel": parallel, "norm_shared": parallel and norms == 1}

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        node, model = settings.layers[0], settings.model
        n_heads, parallel = node["n_heads"], bool(model.get("parallel"))
        n_kv_heads, is_shared = node.get("n_kv_heads") or n_heads, bool(model.get("norm_shared"))
        is_new = parallel and not (is_shared and n_kv_heads in (1, n_heads))
        content |= {self.theirs: is_new, "parallel_attn": parallel, "multi_query": not is_new and n_kv_heads == 1}
        content |= {"num_kv_heads": n_kv_heads if is_new else n_heads}
        content |= {"num_ln_in_parallel_attn": 1 if is_shared else 2} if is_new else {}


def _apart(block: Any) -> bool:
    return bool(block.parallel and not block.norm_shared)


FALCON = Family(
    model_type="falcon",
    architecture="FalconForCausalLM",
    model=LAYER_NORM,
    attention=ATTENTION,
    keys=(
        Same("vocab_size", "vocab_size", default=65024),
        Same("hidden_size", "model.d_model", default=4544),
        Same("max_position_embeddings", "model.context", default=2048),
        Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 71),
        Same("ffn_hidden_size", "model.mlp_width", COUNT_OR_NULL, None),
        Choice("activation", "model.mlp", UNGATED, "gelu"),
        Same("layer_norm_epsilon", "model.norm_eps", POSITIVE, 1e-5),
        Several("bias", ("model.bias", "attention.qkv_bias", "attention.out_bias"), FLAG, False),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("alibi", (False,)),  # its biases are rounded to bfloat16
        Unused(("apply_residual_connection_post_layernorm",)),
        Rope(),
        Architecture(),
    ),
    tensors={
        "embedding": "transformer.word_embeddings",
        "blocks.{i}.norm_attention": lambda block: f"{LAYER}.{'ln_attn' if _apart(block) else 'input_layernorm'}",
        QKV: (f"{LAYER}.self_attention.query_key_value", then(QKV_BY_GROUP, PAIRS_OF_QK)),
        "blocks.{i}.attention.to_out": f"{LAYER}.self_attention.dense",
        "blocks.{i}.norm_mlp": lambda block: f"{LAYER}.{'ln_mlp' if _apart(block) else 'post_attention_layernorm'}",
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.dense_h_to_4h",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    prefix="transformer.",
    aliases={"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"},
    unused=(r".*rotary_emb\.inv_freq", r".*self_attention\.maybe_rotary\.inv_freq"),
)
