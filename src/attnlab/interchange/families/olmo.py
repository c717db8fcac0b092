"""OLMo (arXiv 2402.00838, 2501.00656): norms without gains, then norms behind the halves and over all heads at once."""

from attnlab.interchange.families.gemma import LAYER
from attnlab.interchange.families.keys_of_config import FLAG, Must, Same, Several
from attnlab.interchange.families.llama import ATTENTION, LLAMA, QK_NORM, SCALED, TENSORS
from attnlab.options.rules import POSITIVE

OLMO = LLAMA.but(
    "olmo",
    "OlmoForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=50304),
        Must("rms_norm_eps", (None,)),
        Must("mlp_bias", (False,)),
        Must("clip_qkv", (None,)),
    ],
    model={"norm": "layer", "norm_gain": False, "norm_eps": 1e-5},
)
OLMO2 = LLAMA.but(
    "olmo2",
    "Olmo2ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=50304),
        Must("mlp_bias", (False,)),
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
    ],
    model={"norm": "rms", "norm_place": "post"},
    attention={**ATTENTION, "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "over": "all"}}},
    tensors={
        **TENSORS,
        "blocks.{i}.norm_attention_out": f"{LAYER}.post_attention_layernorm",
        "blocks.{i}.norm_mlp_out": f"{LAYER}.post_feedforward_layernorm",
    },
)
