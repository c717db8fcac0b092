"""OLMo (arXiv 2402.00838, 2501.00656): norms without gains, then norms behind the halves and over all heads at once."""

from attnlab.interchange.families.gemma import LAYER
from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    Must,
    Reading,
    RopeByKind,
    RopeOfWindows,
    Same,
    Several,
    Windows,
)
from attnlab.interchange.families.llama import ATTENTION, LLAMA, QK_NORM, SCALED, TENSORS, WITH_QK_NORM
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


def _not_fourth(i: int, reading: Reading) -> bool:
    return (i + 1) % 4 != 0


OLMO3 = OLMO2.but(
    "olmo3",
    "Olmo3ForCausalLM",
    [Windows(default=4096, rule=_not_fourth), RopeByKind(base=5e5, local=5e5)],
)


def _by_pattern(i: int, reading: Reading) -> bool:
    pattern = reading.checked("sliding_window_pattern", 4, COUNT_OR_NULL)
    return reading.get("sliding_window", 4096) is not None and (pattern is None or (i + 1) % pattern != 0)


EXAONE4 = OLMO2.but(
    "exaone4",
    "Exaone4ForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=102400),
        Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, 32),
        Must("attention_bias", (False,)),
        Windows(default=4096, rule=_by_pattern, ignored=("sliding_window_pattern",)),
        RopeOfWindows(all_without=True),
    ],
    attention=WITH_QK_NORM,
)
