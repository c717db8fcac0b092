"""Families of types: their moves of numbers have inverses, none is forgotten, and what they cannot say they refuse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.interchange.tiny import LLAMA

from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.interchange.families import (
    cohere,
    falcon,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    mpt,
    nanochat,
    olmo,
    opt,
    transforms,
)
from attnlab.interchange.families.family import Family
from attnlab.interchange.families.registry import ALL, FAMILIES, native_form

HEADS = SimpleNamespace(n_heads=4, n_kv_heads=2, head_dim=6, value_dim=6, position=SimpleNamespace(width=4))
ROWS = {"QKV_ROWS": 48, "QKV_BY_GROUP": 48, "HALVES": 24, "PAIRS": 24, "SWAPPED": 24, "TRANSPOSED": 24, "SAME": 24}


@pytest.mark.parametrize("name", ROWS)
def test_there_and_back(name: str) -> None:
    """Every move of rows is undone by its inverse, of weights and of biases, in bfloat16 as in float32."""
    move = getattr(transforms, name)
    for shape in ((ROWS[name], 3), (ROWS[name],)):
        theirs = [torch.randn(shape).bfloat16()]
        ours = move.ours(theirs, HEADS)
        assert all(torch.equal(a, b) for a, b in zip(move.theirs(ours, HEADS), theirs, strict=True))


def test_pairs() -> None:
    """Of a head's first four rows, of which i rotates with i + 2, neighbours rotate; the two behind them stay."""
    rows = torch.arange(6.0)
    one_head = SimpleNamespace(head_dim=6, position=SimpleNamespace(width=4))
    assert transforms.PAIRS.ours([rows], one_head)[0].tolist() == [0, 2, 1, 3, 4, 5]
    assert transforms.SWAPPED.ours([rows], one_head)[0].tolist() == [1, 0, 3, 2, 4, 5]


def test_groups() -> None:
    """For each key head its two queries, its key and its value, of one row each."""
    small = SimpleNamespace(n_heads=4, n_kv_heads=2, head_dim=1, value_dim=1)
    q, k, v = transforms.QKV_BY_GROUP.ours([torch.arange(8.0)], small)
    assert (q.tolist(), k.tolist(), v.tolist()) == ([0, 1, 4, 5], [2, 6], [3, 7])


@pytest.mark.parametrize("module", [cohere, falcon, gemma, gpt2, gpt_neox, llama, mpt, nanochat, olmo, opt])
def test_none_is_forgotten(module: Any) -> None:
    """What a module makes is registered."""
    own = {family.model_type for family in vars(module).values() if isinstance(family, Family)}
    assert own and own <= {*FAMILIES}


LOCAL = {"layer_types": ["sliding_attention", "elsewhere"]}


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("llama", {"num_local_experts": 8}, r"num_local_experts \(8\) is not understood"),
        ("llama", {"clip_qkv": 8.0}, r"clip_qkv \(8.0\) is not understood"),
        ("llama", {"hidden_act": "xielu_2"}, r"hidden_act \(xielu_2\) must be among: silu"),
        ("llama", {"hidden_size": True}, r"hidden_size \(true\) must be an integer"),
        ("llama", {"hidden_size": 1e3}, "hidden_size"),
        ("llama", {"rope_theta": 0}, r"rope_theta \(0\) must be a number above 0"),
        ("llama", {"rope_scaling": [1]}, "rope_parameters .* must hold settings by name"),
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, r"rope_type \(longrope\) cannot"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor .* is missing"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "bend": 1}}, r"bend \(1\) is not understood"),
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("mistral", {"sliding_window": 0}, "sliding_window"),
        (
            "qwen3",
            {"use_sliding_window": True, **LOCAL},
            "layer_types .* must name full_attention or sliding_attention",
        ),
        ("qwen2", {"mlp_bias": True}, r"mlp_bias \(true\) cannot be expressed"),
        ("smollm3", {"no_rope_layers": [1, 2]}, "no_rope_layers .* must be 0 or 1"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention .* cannot be expressed"),
        ("olmo", {"clip_qkv": 8.0}, r"clip_qkv \(8.0\) cannot be expressed"),
        ("cohere", {"use_qk_norm": True}, "use_qk_norm .* cannot be expressed"),
        ("stablelm", {"qk_layernorm": True}, "qk_layernorm .* cannot be expressed"),
        ("deepseek_v3", {"first_k_dense_replace": 1}, "mixtures of experts"),
    ],
)
def test_refused(model_type: str, change: dict[str, Any], message: str) -> None:
    """By the name of the key, with what is allowed."""
    with pytest.raises(UsageError, match=message):
        FAMILIES[model_type].settings({**LLAMA, "model_type": model_type, **change}, "config.json")


@pytest.mark.parametrize(
    ("overrides", "model_type"),
    [
        (["attention=gqa", "model.norm=rms", "model.mlp=swiglu"], "llama"),
        (["attention=multi_head", "position=learned", "model.norm_bias=true", "model.mlp=gelu_tanh"], None),
        (["attention=gqa", "attention/mask=window", "model.norm=rms", "model.mlp=swiglu"], "mistral"),
        (["attention=qk_norm", "model.norm=rms", "model.mlp=swiglu"], "qwen3"),
        (["attention=multi_head", "position=alibi", "model.mlp=gelu"], "mpt"),
        (["attention=softpick", "model.norm=rms", "model.mlp=swiglu"], None),
        (["attention=talking_heads"], None),
        (["attention=delta_net"], None),
    ],
)
def test_layout_of_a_run(overrides: list[str], model_type: str | None) -> None:
    """The first type that can say all settings of a run; none where one cannot be said."""
    form = native_form(compose_config(overrides), 256)
    assert (form and form[0].model_type) == model_type


def test_order() -> None:
    """A Llama is written as a Llama, though others could say the same."""
    settings = FAMILIES["llama"].settings(LLAMA, "config.json")
    fitting = [family.model_type for family in ALL if family.fits(settings)]
    assert fitting[0] == "llama" and len(fitting) > 1
