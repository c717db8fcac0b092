"""Keys and values from a latent: DeepSeek-V2 and V3 (arXiv 2405.04434, 2412.19437) all dense, and Youtu."""

import math
from dataclasses import dataclass
from typing import Any

from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    Derived,
    Key,
    Must,
    Reading,
    Same,
    Unused,
)
from attnlab.interchange.families.llama import ATTENTION, LAYER, LLAMA, TENSORS
from attnlab.interchange.families.model_settings import HOME, ModelSettings
from attnlab.interchange.families.transforms import by_group, parts
from attnlab.options.rules import COUNT, Rule

SELF = f"{LAYER}.self_attn"
EXPERTS = (
    *("moe_intermediate_size", "n_shared_experts", "n_routed_experts", "routed_scaling_factor", "n_group"),
    *(
        "topk_group",
        "num_experts_per_tok",
        "norm_topk_prob",
        "ep_size",
        "topk_method",
        "scoring_func",
        "aux_loss_alpha",
    ),
    *("seq_aux", "moe_layer_freq", "output_router_logits", "num_mtp_layers", "num_nextn_predict_layers"),
)


@dataclass(frozen=True)
class AllDense(Key):
    """No layer is a mixture of experts: the first dense ones are all."""

    default: int = 3
    theirs: str = "first_k_dense_replace"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        dense, n = reading.checked(self.theirs, self.default, Rule(int, least=0, optional=True)), len(settings.layers)
        if dense is None or dense < n:
            raise reading.refused(self.theirs, dense, f"must be at least {n}: layers behind it are mixtures of experts")

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = len(settings.layers)


@dataclass(frozen=True)
class LatentHeads(Key):
    """The width of a query is that of what is rotated and that of what is not."""

    theirs: str = "qk_nope_head_dim"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        plain, rotated = reading.checked(self.theirs, 128, COUNT), reading.checked("qk_rope_head_dim", 64, COUNT)
        settings.put("attention.head_dim", plain + rotated)
        settings.put("attention.rope_dim", rotated)
        for key, width in (("head_dim", rotated), ("qk_head_dim", plain + rotated)):  # as their config class sets them
            if (value := reading.get(key, width)) != width:
                raise reading.refused(key, value, f"cannot be expressed: only {width} can, as the others are")

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        rotated = settings.get("attention.rope_dim") or max(2, settings.head_dim // 4 * 2)
        content["qk_rope_head_dim"], content[self.theirs] = rotated, settings.head_dim - rotated


def _scale(settings: ModelSettings) -> float | None:
    """1 / sqrt(d), sharpened where YaRN's mscale_all_dim says so."""
    node = settings.layers[0]["position"]
    if not node.get("mscale_all_dim"):
        return None
    return float(settings.head_dim**-0.5 * (0.1 * node["mscale_all_dim"] * math.log(node["factor"]) + 1) ** 2)


A = "blocks.{i}.attention"
DEEPSEEK_V3 = LLAMA.but(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=129280),
        Same("max_position_embeddings", "model.context", default=4096),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Same("kv_lora_rank", "attention.kv_rank", COUNT, 512),
        Same("q_lora_rank", "attention.q_rank", COUNT_OR_NULL, 1536),
        Same("v_head_dim", "attention.value_dim", COUNT, 128),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Must("rope_interleave", (True,)),
        Unused(("num_key_value_heads", "head_dim", "qk_head_dim", *EXPERTS)),
        LatentHeads(),
        AllDense(),
        Derived("attention.score.scaled.scale", _scale, "scale"),
    ],
    attention={
        **{key: value for key, value in ATTENTION.items() if key not in ("_target_",)},
        "_target_": f"{HOME}latent.LatentAttention",
        "norm_eps": 1e-6,  # whatever rms_norm_eps says
    },
    tensors={
        **{ours: theirs for ours, theirs in TENSORS.items() if "attention." not in ours},
        f"{A}.to_q_latent": f"{SELF}.q_a_proj",
        f"{A}.q_norm": f"{SELF}.q_a_layernorm",
        f"{A}.to_q": lambda block: f"{SELF}.q_b_proj" if block.attention.q_rank else f"{SELF}.q_proj",
        (f"{A}.to_latent", f"{A}.to_k_rotary"): (
            f"{SELF}.kv_a_proj_with_mqa",
            parts(lambda a: [a.kv_rank, a.rope_dim]),
        ),
        f"{A}.norm": f"{SELF}.kv_a_layernorm",
        (f"{A}.to_k", f"{A}.to_v"): (
            f"{SELF}.kv_b_proj",
            by_group(lambda a: a.n_heads, lambda a: [a.plain_dim, a.value_dim]),
        ),
        f"{A}.to_out": f"{SELF}.o_proj",
    },
)
DEEPSEEK_V2 = DEEPSEEK_V3.but(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=102400),
        Same("max_position_embeddings", "model.context", default=2048),
        Same("mlp_bias", "model.bias", FLAG, False),
        AllDense(default=0),
        Must("rope_interleave", (None,)),
    ],
)
YOUTU = DEEPSEEK_V3.but(
    "youtu",
    "YoutuForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=128256),
        Same("max_position_embeddings", "model.context", default=131072),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Unused(("first_k_dense_replace", "embedding_initializer_range")),
    ],
)
