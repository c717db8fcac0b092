"""nanochat (A. Karpathy 2025): norms without gains, one of them behind the embedding, queries normed once rotated."""

from attnlab.interchange.families.keys_of_config import FLAG, POSITIVE_OR_NULL, Choice, Must, Same, Several
from attnlab.interchange.families.llama import ATTENTION, LAYER, LLAMA, QK_NORM, SCALED, TENSORS, UNGATED
from attnlab.interchange.families.transforms import PAIRS, SWAPPED, then
from attnlab.options.rules import POSITIVE

NANOCHAT = LLAMA.but(
    "nanochat",
    "NanoChatForCausalLM",
    [
        Same("vocab_size", "vocab_size", default=50304),
        Choice("hidden_act", "model.mlp", UNGATED, "relu2"),
        Several("rms_norm_eps", ("model.norm_eps", "attention.score.qk_norm.eps"), POSITIVE, 1e-6),
        Same("final_logit_softcapping", "model.final_softcap", POSITIVE_OR_NULL, 15.0),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Must("mlp_bias", (None, False)),
    ],
    model={"norm": "rms", "norm_gain": False, "embed_norm": True},
    attention={**ATTENTION, "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "when": "after", "gain": False}}},
    tensors={
        **TENSORS,
        "blocks.{i}.attention.qkv.to_q": (f"{LAYER}.self_attn.q_proj", then(PAIRS, SWAPPED)),
        "blocks.{i}.attention.qkv.to_k": (f"{LAYER}.self_attn.k_proj", then(PAIRS, SWAPPED)),
        "blocks.{i}.mlp.up": f"{LAYER}.mlp.fc1",
        "blocks.{i}.mlp.down": f"{LAYER}.mlp.fc2",
    },
)
