"""What of hybrids and memories cannot be expressed is refused by name; their layouts move rows, and no number."""

from typing import Any

import pytest
import torch
from tests.interchange.tiny import TYPES

from attnlab.attention.differential import DifferentialAttention
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rotary import RoPE
from attnlab.errors import UsageError
from attnlab.interchange.families import deepseek, diffllama, hybrid, mamba2
from attnlab.interchange.families.registry import family_for


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        (
            "deepseek_v3",
            {"first_k_dense_replace": 1},
            r"\(1\) must be at least 2: layers behind it are mixtures",
        ),
        ("deepseek_v3", {"rope_interleave": False}, r"rope_interleave \(false\) cannot be expressed"),
        ("qwen3_next", {"num_experts": 4}, r"\(4\) makes layer 0 a mixture of experts, which cannot be expressed"),
        ("qwen3_next", {"num_experts": 4, "decoder_sparse_step": 3}, r"\(4\) makes layer 2 a mixture of experts"),
        ("qwen3_next", {"layer_types": ["linear_attention"] * 3}, "must name full_attention or linear_attention"),
        (
            "qwen3_5_text",
            {"layer_types": ["sliding_attention"] * 4},
            "must name full_attention or linear_attention",
        ),
        ("qwen3_5_text", {"attention_bias": True}, r"attention_bias \(true\) cannot be expressed"),
        ("mamba2", {"use_bias": True}, r"use_bias \(true\) cannot be expressed"),
        ("mamba2", {"expand": 3}, r"expand \(3\) must be num_heads \* head_dim / hidden_size \(32 / 16\)"),
        ("mamba2", {"time_step_limit": [0.1]}, "must be the shortest and the longest step"),
        ("mamba2", {"time_step_limit": [0.1, 0.1]}, "must be the shortest and the longest step"),
        ("mamba2", {"time_step_limit": [0.0, "long"]}, "must be the shortest and the longest step"),
    ],
)
def test_refused(name: str, change: dict[str, Any], problem: str) -> None:
    """In one line with the key and the value."""
    model_type, sizes = TYPES[name]
    config = {"model_type": model_type, **sizes, **change}
    with pytest.raises(UsageError, match=problem) as refusal:
        family_for(config, "a folder").settings(config, "a folder")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen3_next", {"num_experts": 4, "mlp_only_layers": [0, 1, 2, 3]}),
        ("qwen3_next", {"num_experts": 4, "decoder_sparse_step": 5}),
        ("mamba2", {"time_step_limit": [0.0, float("inf")]}),
        ("mamba2", {"time_step_limit": [0.01, 0.1]}),
        ("mamba2", {"norm_before_gate": True, "rms_norm": True, "intermediate_size": 32, "time_step_scale": 1.0}),
        ("qwen3_5_text", {"attn_output_gate": True, "mamba_ssm_dtype": "float32", "full_attention_interval": 2}),
        (
            "qwen3_5_text",
            {"rope_parameters": {"rope_theta": 1e6, "mrope_section": [1, 1, 0], "mrope_interleaved": True}},
        ),
        ("olmo_hybrid", {"rope_parameters": None}),
        ("olmo_hybrid", {"rope_parameters": {"rope_theta": None, "rope_type": "default"}}),
    ],
)
def test_expressed(name: str, change: dict[str, Any]) -> None:
    """Settings that a model can have without what cannot be expressed; they can be said again."""
    model_type, sizes = TYPES[name]
    config = {"model_type": model_type, **sizes, **change}
    family = family_for(config, "a folder")
    settings = family.settings(config, "a folder")
    assert family.settings(family.config_json(settings), "again") == settings


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}


def test_mscale_alone() -> None:
    """Is not read by their code, which the other alone would be, here and there."""
    config = {"model_type": "llama", **TYPES["llama"][1], "rope_parameters": {**YARN, "mscale": 0.7}}
    node = family_for(config, "a folder").settings(config, "a folder").get("attention.position")
    assert node["mscale"] is None and node["mscale_all_dim"] is None
    config["rope_parameters"] = {**YARN, "mscale_all_dim": 0.7}
    with pytest.raises(UsageError, match=r"mscale_all_dim \(0.7\) cannot be expressed without mscale"):
        family_for(config, "a folder").settings(config, "a folder")


@pytest.mark.parametrize(
    ("change", "is_rotated"),
    [
        ({"rope_parameters": None}, True),
        ({"rope_parameters": {"rope_theta": None, "rope_type": "default"}}, False),
        ({"rope_parameters": None, "rope_theta": None}, False),
        ({"rope_parameters": {"rope_theta": 5e5}}, True),
    ],
)
def test_no_rotation(change: dict[str, Any], is_rotated: bool) -> None:
    """OLMo Hybrid rotates unless the base is null: no key means the usual base."""
    config = {"model_type": "olmo_hybrid", **TYPES["olmo_hybrid"][1], **change}
    layers = family_for(config, "a folder").settings(config, "a folder").layers
    assert ("base" in layers[3]["position"]) == is_rotated


def test_pairs_of_heads() -> None:
    """Heads h and h + n of theirs are the two maps of our head h."""
    layer = DifferentialAttention(8, n_heads=4, head_dim=2, position=RoPE)
    rows = torch.arange(8.0)
    (ours,) = diffllama.TOGETHER.ours([rows], layer)
    assert ours.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
    assert torch.equal(diffllama.TOGETHER.theirs([ours], layer)[0], rows)


def test_rows_by_key_head() -> None:
    """Of each key head its query, its key, and the values and gates of the heads that share it."""
    layer = RecurrentAttention(8, n_heads=4, n_key_heads=2, head_dim=1, value_dim=1)
    rows = torch.arange(12.0)
    q, k, v, gate = hybrid.QKVZ.ours([rows], layer)
    assert [part.tolist() for part in (q, k, v, gate)] == [[0, 6], [1, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(hybrid.QKVZ.theirs([q, k, v, gate], layer)[0], rows)


def test_sharpened_scores() -> None:
    """YaRN's factor for all dimensions is squared into the scale."""
    config = {"model_type": "deepseek_v3", **TYPES["deepseek_v3"][1]}
    settings = deepseek.DEEPSEEK_V3.settings(config, "a folder")
    assert settings.get("attention.score.scaled.scale") is None
    settings.put("attention.position", {"factor": 40.0, "mscale_all_dim": 1.0})
    assert deepseek._scale(settings) == pytest.approx(10**-0.5 * 1.3688879454**2)


def test_convolution_of_values_last() -> None:
    """Their channels are values, keys and queries, ours the other way round."""
    layer = mamba2.MAMBA2.settings({"model_type": "mamba2", **TYPES["mamba2"][1]}, "a folder").layers[0]
    sizes = {key: layer[key] for key in ("n_heads", "n_key_heads", "head_dim", "value_dim")}
    built = RecurrentAttention(16, **sizes)
    rows = torch.arange(52.0)
    ours = mamba2._values_last(rows, built)
    assert ours.tolist() == [*range(42, 52), *range(32, 42), *range(32)]
    assert torch.equal(mamba2._values_first(ours, built), rows)
