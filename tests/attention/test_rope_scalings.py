"""Rotations for longer texts against the tables of Hugging Face transformers, and where they meet."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from attnlab.attention.rotary import LinearRoPE, Llama3RoPE, RoPE, YaRN
from attnlab.errors import UsageError

WIDTH, ORIGINAL, BASE = 32, 300, 10000.0
YARN = {"ramp": "pairs", "beta_fast": 32.0, "beta_slow": 1.0}
CASES: list[tuple[str, type[RoPE], dict[str, Any]]] = [
    ("linear", LinearRoPE, {"factor": 3.0}),
    ("llama3", Llama3RoPE, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
    ("yarn", YaRN, {"factor": 4.0} | YARN),
    ("yarn", YaRN, {"factor": 4.0, "truncate": False} | YARN),
    ("yarn", YaRN, {"factor": 4.0, "ramp": "pairs", "beta_fast": 3.9, "beta_slow": 3.8, "truncate": True}),
    ("yarn", YaRN, {"factor": 40.0, "mscale": 0.7, "mscale_all_dim": 1.3} | YARN),
    ("yarn", YaRN, {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0} | YARN),
    ("yarn", YaRN, {"factor": 4.0, "attention_factor": 0.8} | YARN),
    ("yarn", YaRN, {"factor": 4.0, "base": 50.0} | YARN),  # all pairs turn: the ramp's end lies beyond them
]


def theirs(kind: str, options: dict[str, Any], fraction: float) -> tuple[torch.Tensor, float]:
    """The frequencies, and what rotated coordinates are multiplied by."""
    parameters = {name: value for name, value in options.items() if name not in ("ramp", "base")}
    parameters |= {"rope_type": kind, "rope_theta": options.get("base", BASE), "partial_rotary_factor": fraction}
    if kind != "linear":
        parameters["original_max_position_embeddings"] = ORIGINAL
    config = LlamaConfig(hidden_size=4 * WIDTH, num_attention_heads=4, head_dim=WIDTH, rope_parameters=parameters)
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize(("kind", "cls", "options"), CASES)
def test_frequencies(kind: str, cls: type[RoPE], options: dict[str, Any], fraction: float) -> None:
    """The angles and the sharpening of what rotates are theirs; what does not rotate is left alone."""
    frequencies, sharpness = theirs(kind, options, fraction)
    sizes = {} if cls is LinearRoPE else {"original_context": ORIGINAL}
    rope = cls(**{"base": BASE, **sizes, **options}, fraction=fraction, head_dim=WIDTH, n_heads=4, context=64)
    ours = rope.frequencies(torch.arange(rope.width // 2, dtype=torch.float64))
    torch.testing.assert_close(ours.float(), frequencies, rtol=2e-6, atol=0)  # theirs are float32
    x = torch.randn(1, 4, 1, WIDTH, dtype=torch.float64)
    y = rope.rotate(x, 0)  # the first position turns nothing
    torch.testing.assert_close(y[..., : rope.width], sharpness * x[..., : rope.width])
    assert torch.equal(y[..., rope.width :], x[..., rope.width :])


def test_llama3_is_a_ramp_over_turns() -> None:
    """Llama 3's factors are YaRN's betas, without the sharpening."""
    sizes: dict[str, Any] = {"head_dim": WIDTH, "n_heads": 4, "context": 64, "original_context": ORIGINAL, "base": BASE}
    llama3 = Llama3RoPE(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, **sizes)
    yarn = YaRN(factor=8.0, beta_slow=1.0, beta_fast=4.0, attention_factor=1.0, **sizes)
    x = torch.randn(1, 4, 9, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(llama3.rotate(x, 5), yarn.rotate(x, 5), rtol=0, atol=1e-12)
    assert not torch.allclose(llama3.rotate(x, 5), RoPE(base=BASE, head_dim=WIDTH, n_heads=4, context=64).rotate(x, 5))


@pytest.mark.parametrize(
    ("cls", "options", "problem"),
    [
        (Llama3RoPE, {"low_freq_factor": 4.0}, r"high_freq_factor \(4.0\) must be greater than low_freq_factor"),
        (YaRN, {"mscale": 1.0}, r"mscale \(1.0\) must be given with mscale_all_dim"),
        (
            YaRN,
            {"ramp": "pairs", "beta_slow": 0.0},
            r"ramp \(pairs\) must be turns unless beta_slow \(0.0\) is above 0",
        ),
        (YaRN, {"ramp": "pairs", "base": 1.0}, r"ramp \(pairs\) must be turns unless"),
        (YaRN, {"ramp": "sines"}, "ramp"),
    ],
)
def test_refused(cls: type[RoPE], options: dict[str, Any], problem: str) -> None:
    """What has no meaning is refused by name."""
    with pytest.raises(UsageError, match=problem):
        cls(**options, head_dim=WIDTH, n_heads=4, context=64)


def test_query_beta() -> None:
    """Queries grow with each original context that they are beyond, keys do not."""
    sizes = {"head_dim": 6, "n_heads": 2, "context": 32, "factor": 4.0, "original_context": 4}
    plain, growing = YaRN(**sizes), YaRN(query_beta=0.3, **sizes)
    x = torch.randn(1, 2, 9, 6, dtype=torch.float64)
    contexts = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2], dtype=torch.float64)  # from position 2 on
    growth = 1 + 0.3 * torch.log(1 + contexts)
    torch.testing.assert_close(growing.rotate(x, 2), plain.rotate(x, 2) * growth[:, None], rtol=0, atol=1e-12)
    assert torch.equal(growing.rotate_keys(x, 2), plain.rotate(x, 2))
