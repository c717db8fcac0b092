"""DiffLlama: Llama's block around differential attention (arXiv 2410.05258)."""

from typing import Any

from torch import Tensor

from attnlab.interchange.families.keys_of_config import Must, Several, Unused
from attnlab.interchange.families.llama import ATTENTION, LAYER, LLAMA, TENSORS
from attnlab.interchange.families.model_settings import HOME
from attnlab.interchange.families.transforms import PAIRS, STACKED, each, then
from attnlab.options.rules import POSITIVE

SELF = f"{LAYER}.self_attn"


def _together(t: Tensor, attention: Any) -> Tensor:
    return t.unflatten(0, (2, -1, attention.head_dim)).transpose(0, 1).flatten(0, 2)


def _apart(t: Tensor, attention: Any) -> Tensor:
    return t.unflatten(0, (-1, 2, attention.head_dim)).transpose(0, 1).flatten(0, 2)


# Their first half of the heads makes the first maps, and the second half the second; our two maps stand together.
TOGETHER = each(_together, _apart)

DIFFLLAMA = LLAMA.but(
    "diffllama",
    "DiffLlamaForCausalLM",
    [
        Several("rms_norm_eps", ("model.norm_eps", "attention.norm_eps"), POSITIVE, 1e-5),
        Must("mlp_bias", (False,)),
        Unused(("lambda_std_dev",)),
    ],
    attention={
        "_target_": f"{HOME}differential.DifferentialAttention",
        **{key: node for key, node in ATTENTION.items() if key not in ("_target_", "gate")},
        "norm_gain": False,
    },
    tensors={
        **{key: entry for key, entry in TENSORS.items() if ".attention." not in str(key)},
        "blocks.{i}.attention.to_q": (f"{SELF}.q_proj", then(PAIRS, TOGETHER)),
        "blocks.{i}.attention.to_k": (f"{SELF}.k_proj", then(PAIRS, TOGETHER)),
        "blocks.{i}.attention.to_v": (f"{SELF}.v_proj", TOGETHER),
        "blocks.{i}.attention.to_out": f"{SELF}.o_proj",
        "blocks.{i}.attention.lambda_q": ((f"{SELF}.lambda_q1", f"{SELF}.lambda_q2"), STACKED),
        "blocks.{i}.attention.lambda_k": ((f"{SELF}.lambda_k1", f"{SELF}.lambda_k2"), STACKED),
    },
)
