"""Command R (Cohere): parallel halves behind one norm, neighbours that rotate, logits that are scaled."""

from attnlab.interchange.families.keys_of_config import FLAG, Must, Reading, Rope, RopeOfWindows, Same, Windows
from attnlab.interchange.families.llama import INTERLEAVED, LLAMA
from attnlab.options.rules import COUNT, POSITIVE

COHERE = LLAMA.but(
    "cohere",
    "CohereForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=256000),
        Same("max_position_embeddings", "model.context", default=8192),
        Same("layer_norm_eps", "model.norm_eps", POSITIVE, 1e-5),
        Same("logit_scale", "model.logit_scale", POSITIVE, 0.0625),
        Same("tie_word_embeddings", "model.tie", FLAG, True),
        Must("rms_norm_eps", (None,)),
        Must("mlp_bias", (None, False)),
        Must("use_qk_norm", (False,)),
        Rope(base=5e5),
    ],
    model={"norm": "layer", "parallel": True, "norm_shared": True},
    tensors=INTERLEAVED,
)


def _by_pattern(i: int, reading: Reading) -> bool:
    return (i + 1) % reading.checked("sliding_window_pattern", 4, COUNT) != 0


COHERE2 = COHERE.but(
    "cohere2",
    "Cohere2ForCausalLM",
    [
        Windows(default=4096, rule=_by_pattern, ignored=("sliding_window_pattern", "order_of_interleaved_layers")),
        RopeOfWindows(),
    ],
)
