"""Mamba-2 (arXiv 2405.21060): blocks without an MLP, each a memory with all that stands around it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import FLAG, NOPE, Key, Must, Reading, Same, Several, Unused
from attnlab.interchange.families.model_settings import HOME, ModelSettings
from attnlab.interchange.families.transforms import CHANNELWISE, each, parts, then
from attnlab.options.rules import COUNT, POSITIVE, Rule

INFINITY = {"__float__": "Infinity"}  # as transformers writes it, for JSON has no word for it


@dataclass(frozen=True)
class Expansion(Key):
    """How much wider than the model all heads are together: follows from their number and width."""

    theirs: str = "expand"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        factor, width = reading.checked(self.theirs, 2, POSITIVE), settings.model["d_model"]
        heads = settings.get("attention.n_heads") * settings.get("attention.value_dim")
        if factor * width != heads:
            problem = f"must be num_heads * head_dim / hidden_size ({heads} / {width})"
            raise reading.refused(self.theirs, factor, problem)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        heads = settings.get("attention.n_heads") * settings.get("attention.value_dim")
        content[self.theirs] = heads // settings.model["d_model"]


@dataclass(frozen=True)
class StepLimits(Key):
    """The shortest and the longest step."""

    theirs: str = "time_step_limit"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        limits = reading.get(self.theirs, [0.0, INFINITY])
        least, most = limits if isinstance(limits, list) and len(limits) == 2 else (None, None)
        most = None if most in (INFINITY, math.inf) else most
        if not Rule(float, least=0).accepts(least) or not Rule(float, above=least, optional=True).accepts(most):
            raise reading.refused(self.theirs, limits, "must be the shortest and the longest step")
        settings.put("attention.decay.least", least)
        settings.put("attention.decay.most", most)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        most = settings.get("attention.decay.most")
        content[self.theirs] = [settings.get("attention.decay.least") or 0.0, INFINITY if most is None else most]


def _in_proj(attention: Any) -> list[int]:
    values, keys = attention.n_heads * attention.value_dim, attention.n_key_heads * attention.head_dim
    return [values, values, keys, keys, attention.n_heads]


def _values_last(t: Tensor, attention: Any) -> Tensor:
    values, keys = _in_proj(attention)[1:3]
    return torch.cat(list(reversed(t.split([values, keys, keys]))))


def _values_first(t: Tensor, attention: Any) -> Tensor:
    values, keys = _in_proj(attention)[1:3]
    return torch.cat(list(reversed(t.split([keys, keys, values]))))


LAYER, OURS = "backbone.layers.{i}", "blocks.{i}.attention"
MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    model={"norm": "rms", "mlp": "none", "context": 1024},
    attention={
        "_target_": f"{HOME}mamba.Mamba2Attention",
        "_partial_": True,
        "decay": {"_target_": f"{HOME}decay.StepDecay", "_partial_": True},
        "position": NOPE,
    },
    keys=(
        Same("vocab_size", "vocab_size", default=32768),
        Same("hidden_size", "model.d_model", default=4096),
        Several("num_heads", ("attention.n_heads", "model.n_heads"), COUNT, 128),
        Same("head_dim", "attention.value_dim", COUNT, 64),
        Same("state_size", "attention.head_dim", COUNT, 128),
        Same("n_groups", "attention.n_key_heads", COUNT, 8),
        Same("conv_kernel", "attention.conv", COUNT, 4),
        Same("use_conv_bias", "attention.conv_bias", FLAG, True),
        Several("layer_norm_epsilon", ("model.norm_eps", "attention.norm_eps"), POSITIVE, 1e-5),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        Expansion(),
        StepLimits(),
        Must("hidden_act", ("silu", "swish")),
        Must("use_bias", (False,)),
        Unused(("chunk_size", "residual_in_fp32", "rescale_prenorm_residual", "time_step_rank", "time_step_min")),
        Unused(("time_step_max", "time_step_floor", "time_step_scale", "time_step_init_scheme", "intermediate_size")),
        Unused(("rms_norm", "norm_before_gate")),  # which transformers does not read: there is a norm, behind the gate
    ),
    tensors={
        "embedding": "backbone.embeddings",
        "blocks.{i}.norm_attention": f"{LAYER}.norm",
        (f"{OURS}.to_gate", f"{OURS}.qkv.to_v", f"{OURS}.qkv.to_k", f"{OURS}.qkv.to_q", f"{OURS}.decay.to_decay"): (
            f"{LAYER}.mixer.in_proj",
            parts(_in_proj),
        ),
        f"{OURS}.qkv.conv": (f"{LAYER}.mixer.conv1d", then(CHANNELWISE, each(_values_last, _values_first))),
        f"{OURS}.decay.log_rate": f"{LAYER}.mixer.A_log",
        f"{OURS}.decay.bias": f"{LAYER}.mixer.dt_bias",
        f"{OURS}.skip": f"{LAYER}.mixer.D",
        f"{OURS}.gain": f"{LAYER}.mixer.norm.weight",
        f"{OURS}.to_out": f"{LAYER}.mixer.out_proj",
        "norm": "backbone.norm_f",
        "head": "lm_head",
    },
    prefix="backbone.",
    also={"backbone.embeddings.weight": "backbone.embedding.weight"},
)
