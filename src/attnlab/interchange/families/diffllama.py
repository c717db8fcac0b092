"""DiffLlama (arXiv 2410.05258): Llama whose heads are the difference of two maps."""

import torch

from attnlab.interchange.families.keys_of_config import (
    CAUSAL,
    FLAG,
    Implied,
    Must,
    Same,
    Several,
    Unused,
    rotary,
)
from attnlab.interchange.families.llama import LAYER, LLAMA, SCALED, TENSORS
from attnlab.interchange.families.model_settings import HOME
from attnlab.interchange.families.transforms import PAIRS, Transform, each, then
from attnlab.options.rules import POSITIVE

# Theirs pairs head i with the one that stands half of all heads behind it, ours with its neighbour.
NEIGHBOURS = each(
    lambda t, a: t.unflatten(0, (2, a.n_heads, -1)).transpose(0, 1).flatten(0, 2),
    lambda t, a: t.unflatten(0, (a.n_heads, 2, -1)).transpose(0, 1).flatten(0, 2),
)
STACKED = Transform(lambda x, a: [torch.stack(list(x))], lambda x, a: list(x[0].unbind()))
SELF = f"{LAYER}.self_attn"


DIFFLLAMA = LLAMA.but(
    "diffllama",
    "DiffLlamaForCausalLM",
    [
        Implied("head_dim", lambda settings: settings.head_dim),
        Implied("num_key_value_heads", lambda settings: settings.layers[0]["n_heads"]),
        Several("rms_norm_eps", ("model.norm_eps", "attention.norm_eps"), POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Must("attention_bias", (False,)),
        Must("mlp_bias", (False,)),
        Unused(("lambda_std_dev",)),
    ],
    attention={
        **{"_target_": f"{HOME}differential.DifferentialAttention", "_partial_": True, "mask": CAUSAL},
        **{"score": {"scaled": SCALED}, "position": rotary("RoPE"), "norm_gain": False},
    },
    tensors={
        **{ours: theirs for ours, theirs in TENSORS.items() if "attention." not in ours},
        **{
            f"blocks.{{i}}.attention.to_{name}": (
                f"{SELF}.{name}_proj",
                then(PAIRS, NEIGHBOURS) if name != "v" else NEIGHBOURS,
            )
            for name in "qkv"
        },
        "blocks.{i}.attention.to_out": f"{SELF}.o_proj",
        "blocks.{i}.attention.lambda_q": ((f"{SELF}.lambda_q1", f"{SELF}.lambda_q2"), STACKED),
        "blocks.{i}.attention.lambda_k": ((f"{SELF}.lambda_k1", f"{SELF}.lambda_k2"), STACKED),
    },
)
