"""Models in which layers of attention stand between layers with a memory: Qwen3-Next, Qwen3.5, OLMo Hybrid."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from attnlab.attention.recurrent import RecurrentAttention
from attnlab.config.run_config import Node
from attnlab.interchange.families.family import Family
from attnlab.interchange.families.keys_of_config import (
    COUNT_OR_NULL,
    FLAG,
    NOPE,
    Choice,
    Derived,
    Key,
    Must,
    Reading,
    Rope,
    Same,
    Several,
    Unused,
)
from attnlab.interchange.families.llama import ATTENTION, LAYER, LLAMA, QK_NORM, SCALED, TENSORS
from attnlab.interchange.families.model_settings import HOME, ModelSettings
from attnlab.interchange.families.transforms import CHANNELWISE, PAIRS, Transform, by_group, parts, then
from attnlab.options.rules import COUNT, NATURAL, POSITIVE


def _part(name: str, **settings: Any) -> Node:
    return {"_target_": f"{HOME}{name}", "_partial_": True, **settings}


MEMORY = _part(
    "recurrent.RecurrentAttention",
    feature_map=_part("feature_map.UnitLength", eps=1e-6),
    decay=_part("decay.ScalarDecay"),
    write=_part("write.DeltaWrite"),
    output_norm=_part("output_norm.RMSOutputNorm"),
    gate=_part("gate.Swish"),
    position=NOPE,
)
MEMORY_KEYS = (
    Same("linear_num_value_heads", "attention.n_heads", COUNT, 32),
    Same("linear_num_key_heads", "attention.n_key_heads", COUNT, 16),
    Same("linear_key_head_dim", "attention.head_dim", COUNT, 128),
    Same("linear_value_head_dim", "attention.value_dim", COUNT, 128),
    Same("linear_conv_kernel_dim", "attention.conv", COUNT, 4),
)


@dataclass(frozen=True)
class LayerKinds(Key):
    """Which layers have attention and which a memory, with the keys of each."""

    attention: Node
    memory: Node
    attention_keys: Sequence[Key]
    memory_keys: Sequence[Key]
    theirs: str = "layer_types"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        every, n = reading.checked("full_attention_interval", 4, COUNT), len(settings.layers)
        kinds = reading.get(self.theirs)
        if kinds is None:
            kinds = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(n)]
        names = [name for name, _, _ in self._kinds()]
        if not isinstance(kinds, list) or len(kinds) != n or not all(kind in names for kind in kinds):
            raise reading.refused(self.theirs, kinds, f"must name {' or '.join(names)} for every layer")
        for name, node, keys in self._kinds():
            numbers = [i for i, kind in enumerate(kinds) if kind == name]
            part = replace(settings, layers=[copy.deepcopy(node) for _ in numbers])
            for key in keys:
                key.read(reading, part)
            for i, layer in zip(numbers, part.layers, strict=True):
                settings.layers[i] = layer

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = [""] * len(settings.layers)
        for name, node, keys in self._kinds():
            numbers = [i for i, layer in enumerate(settings.layers) if layer["_target_"] == node["_target_"]]
            part = replace(settings, layers=[settings.layers[i] for i in numbers])
            for key in keys if numbers else ():
                key.write(part, content)
            for i in numbers:
                content[self.theirs][i] = name

    def _kinds(self) -> Iterator[tuple[str, Node, Sequence[Key]]]:
        yield "full_attention", self.attention, self.attention_keys
        yield "linear_attention", self.memory, self.memory_keys


@dataclass(frozen=True)
class WithoutExperts(Key):
    """How many experts a layer has: none."""

    theirs: str = "num_experts"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        n, step = reading.checked(self.theirs, 512, NATURAL), reading.checked("decoder_sparse_step", 1, COUNT)
        dense = reading.get("mlp_only_layers") or []
        sparse = [i for i in range(len(settings.layers)) if n and i not in dense and (i + 1) % step == 0]
        if sparse:
            problem = f"makes layer {sparse[0]} a mixture of experts, which cannot be expressed"
            raise reading.refused(self.theirs, n, problem)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = 0


def in_memory(name: str) -> Any:
    """A name of theirs in layers with a memory alone."""
    return lambda block: f"{LAYER}.linear_attn.{name}" if isinstance(block.attention, RecurrentAttention) else ""


def in_attention(name: str) -> Any:
    """A name of theirs in layers of attention alone."""
    return lambda block: "" if isinstance(block.attention, RecurrentAttention) else f"{LAYER}.self_attn.{name}"


def in_either(attention: str, memory: str) -> Any:
    """What a tensor that both have is called in each."""
    return lambda block: in_attention(attention)(block) or in_memory(memory)(block)


def _shared(attention: Any) -> int:
    return int(attention.n_heads // attention.n_key_heads)


QUERY_AND_GATE = then(
    by_group(lambda a: a.n_heads, lambda a: [a.head_dim, a.head_dim]),
    Transform(lambda x, a: [*PAIRS.ours(x[:1], a), x[1]], lambda x, a: [*PAIRS.theirs(x[:1], a), x[1]]),
)
QKVZ = by_group(
    lambda a: a.n_key_heads,
    lambda a: [a.head_dim, a.head_dim, _shared(a) * a.value_dim, _shared(a) * a.value_dim],
)
BETA_AND_DECAY = by_group(lambda a: a.n_key_heads, lambda a: [_shared(a), _shared(a)])
OURS = "blocks.{i}.attention"
QUERY, KEY, VALUE, GATE = (f"{OURS}.{name}" for name in ("qkv.to_q", "qkv.to_k", "qkv.to_v", "gate.to_gate"))
BETA, DECAY = f"{OURS}.write.to_beta", f"{OURS}.decay.to_decay"
BLOCK: dict[Any, Any] = {
    **{key: entry for key, entry in TENSORS.items() if ".attention." not in str(key)},
    f"{OURS}.score.*.q_norm": (f"{LAYER}.self_attn.q_norm", PAIRS),
    f"{OURS}.score.*.k_norm": (f"{LAYER}.self_attn.k_norm", PAIRS),
    f"{OURS}.qkv.conv": (f"{LAYER}.linear_attn.conv1d", CHANNELWISE),
    f"{OURS}.decay.log_rate": f"{LAYER}.linear_attn.A_log",
    f"{OURS}.decay.bias": f"{LAYER}.linear_attn.dt_bias",
}
GATED: dict[Any, Any] = {
    **BLOCK,
    (QUERY, GATE): (in_attention("q_proj"), QUERY_AND_GATE),
    KEY: (in_attention("k_proj"), PAIRS),
    VALUE: in_attention("v_proj"),
    f"{OURS}.to_out": in_either("o_proj", "out_proj"),
    f"{OURS}.output_norm.norm": f"{LAYER}.linear_attn.norm",
}


def _qwen(model_type: str, architecture: str, sizes: Sequence[int], more: Sequence[Key], tensors: Any) -> Family:
    """`sizes`: what a config.json means that leaves out vocab_size, hidden_size, intermediate_size, key heads."""
    vocab_size, d_model, width, n_kv_heads = sizes
    kinds = LayerKinds(
        attention={
            **ATTENTION,
            "gate": _part("gate.Elementwise"),
            "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "unit_offset": True}},
        },
        memory=MEMORY,
        attention_keys=(
            Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 16),
            Same("num_key_value_heads", "attention.n_kv_heads", COUNT, n_kv_heads),
            Same("head_dim", "attention.head_dim", COUNT, 256),
            Same("rms_norm_eps", "attention.score.qk_norm.eps", POSITIVE, 1e-6),
            Rope(fraction=0.25),
        ),
        memory_keys=(*MEMORY_KEYS, Same("rms_norm_eps", "attention.output_norm.eps", POSITIVE, 1e-6)),
    )
    return Family(
        model_type=model_type,
        architecture=architecture,
        model={"norm": "rms", "norm_unit_offset": True},
        attention=ATTENTION,
        keys=(
            Same("vocab_size", "vocab_size", default=vocab_size),
            Same("hidden_size", "model.d_model", default=d_model),
            Same("max_position_embeddings", "model.context", default=32768),
            Same("intermediate_size", "model.mlp_width", default=width),
            Choice("hidden_act", "model.mlp", {"silu": "swiglu", "swish": "swiglu"}, "silu"),
            Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-6),
            Same("tie_word_embeddings", "model.tie", FLAG, False),
            Must("attention_bias", (False,)),
            Must("attn_output_gate", (True,)),
            Unused(("mamba_ssm_dtype", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")),
            kinds,
            *more,
        ),
        tensors={**GATED, **tensors},
        unused=(*LLAMA.unused, r"mtp\..*"),
    )


def _qkv_rows(attention: Any) -> list[int]:
    keys = attention.n_key_heads * attention.head_dim
    return [keys, keys, attention.n_heads * attention.value_dim]


# Queries, keys and values of theirs apart, of ours one below the other.
JOINED = Transform(lambda x, _: [torch.cat(list(x))], lambda x, a: list(x[0].split(_qkv_rows(a))))
EXPERTS = ("moe_intermediate_size", "shared_expert_intermediate_size", "num_experts_per_tok", "norm_topk_prob")
QWEN3_NEXT = _qwen(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    (151936, 2048, 5632, 2),
    (WithoutExperts(), Unused((*EXPERTS, "output_router_logits"))),
    {
        (QUERY, KEY, VALUE, GATE): (in_memory("in_proj_qkvz"), QKVZ),
        (BETA, DECAY): (in_memory("in_proj_ba"), BETA_AND_DECAY),
    },
)
QWEN3_5 = _qwen(
    "qwen3_5_text",
    "Qwen3_5ForCausalLM",
    (248320, 4096, 12288, 4),
    (),
    {
        (QUERY, KEY, VALUE): (in_memory("in_proj_qkv"), parts(_qkv_rows)),
        (GATE,): in_memory("in_proj_z"),
        BETA: in_memory("in_proj_b"),
        DECAY: in_memory("in_proj_a"),
    },
)


@dataclass(frozen=True)
class RopeOrNone(Rope):
    """A rotation, or none where its base is null."""

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        given = reading.get("rope_parameters") or reading.get("rope_scaling") or {}
        if isinstance(given, Mapping) and given.get("rope_theta", reading.get("rope_theta", self.base)) is None:
            settings.put("attention.position", NOPE)
        else:
            super().read(reading, settings)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        if "base" in settings.get("attention.position"):
            super().write(settings, content)
        else:
            content["rope_parameters"] = {"rope_theta": None, "rope_type": "default"}


@dataclass(frozen=True)
class NegativeEigenvalues(Key):
    """Whether a write may turn a stored value around: a strength of up to 2."""

    theirs: str = "linear_allow_neg_eigval"

    def read(self, reading: Reading, settings: ModelSettings) -> None:
        settings.put("attention.write.beta_max", 2.0 if reading.checked(self.theirs, True, FLAG) else 1.0)

    def write(self, settings: ModelSettings, content: dict[str, Any]) -> None:
        content[self.theirs] = settings.get("attention.write.beta_max") == 2


def _norm_places(settings: ModelSettings) -> str:
    """Behind the halves of layers of attention, before those of layers with a memory."""
    return " ".join("pre" if node["_target_"] == MEMORY["_target_"] else "post" for node in settings.layers)


OLMO_HYBRID = Family(
    model_type="olmo_hybrid",
    architecture="OlmoHybridForCausalLM",
    model={"norm": "rms"},
    attention=ATTENTION,
    keys=(
        Same("vocab_size", "vocab_size", default=100352),
        Same("hidden_size", "model.d_model", default=3840),
        Same("max_position_embeddings", "model.context", default=65536),
        Same("intermediate_size", "model.mlp_width", default=11008),
        Choice("hidden_act", "model.mlp", {"silu": "swiglu", "swish": "swiglu"}, "silu"),
        Same("rms_norm_eps", "model.norm_eps", POSITIVE, 1e-6),
        Same("tie_word_embeddings", "model.tie", FLAG, False),
        LayerKinds(
            attention={**ATTENTION, "score": {"scaled": SCALED, "qk_norm": {**QK_NORM, "over": "all"}}},
            memory={**MEMORY, "output_norm": _part("output_norm.RMSOutputNorm", eps=1e-5)},
            attention_keys=(
                Several("num_attention_heads", ("attention.n_heads", "model.n_heads"), COUNT, 30),
                Same("num_key_value_heads", "attention.n_kv_heads", COUNT_OR_NULL, None),
                Same("head_dim", "attention.head_dim", COUNT_OR_NULL, None),
                Several("attention_bias", ("attention.qkv_bias", "attention.out_bias"), FLAG, False),
                Same("rms_norm_eps", "attention.score.qk_norm.eps", POSITIVE, 1e-6),
                RopeOrNone(),
            ),
            memory_keys=(*MEMORY_KEYS, NegativeEigenvalues()),
        ),
        Derived("model.norm_place", _norm_places),
        Must("linear_use_gate", (True,)),
        Unused(("linear_a_log_min", "linear_a_log_max", "linear_dt_min", "linear_dt_max", "linear_dt_init_floor")),
    ),
    tensors={
        **BLOCK,
        "blocks.{i}.norm_attention": f"{LAYER}.attention_layer_norm",
        "blocks.{i}.norm_mlp": f"{LAYER}.feedforward_layer_norm",
        f"{OURS}.qkv.conv": (tuple(f"{LAYER}.linear_attn.{n}_conv1d" for n in "qkv"), then(JOINED, CHANNELWISE)),
        "blocks.{i}.norm_attention_out": f"{LAYER}.post_attention_layernorm",
        "blocks.{i}.norm_mlp_out": f"{LAYER}.post_feedforward_layernorm",
        QUERY: (in_either("q_proj", "q_proj"), PAIRS),
        KEY: (in_either("k_proj", "k_proj"), PAIRS),
        VALUE: in_either("v_proj", "v_proj"),
        GATE: in_memory("g_proj"),
        BETA: in_memory("b_proj"),
        DECAY: in_memory("a_proj"),
        f"{OURS}.to_out": in_either("o_proj", "o_proj"),
        f"{OURS}.output_norm.norm": f"{LAYER}.linear_attn.o_norm",
    },
    also={  # as transformers names them in its modules, and in what it saves
        f"{LAYER}.attention_layer_norm.weight": f"{LAYER}.input_layernorm.weight",
        f"{LAYER}.feedforward_layer_norm.weight": f"{LAYER}.post_attention_layernorm.weight",
        f"{LAYER}.post_attention_layernorm.weight": f"{LAYER}.feedforward_layer_norm.weight",
    },
)
