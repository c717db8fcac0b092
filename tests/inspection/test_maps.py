"""Which steps, which sentences, and maps out of a model."""

import itertools
import subprocess
import sys
from collections.abc import Iterable
from functools import partial

import numpy as np
import pytest
import torch

from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.errors import UsageError
from attnlab.inspection.maps import check_probe, collect, map_steps
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig


class Letters:
    """A tokenizer of the letters a to z and the space."""

    def encode_prompt(self, text: str) -> list[int]:
        for c in text:
            if c not in "abcdefghijklmnopqrstuvwxyz ":
                raise UsageError(f"the text holds {c!r}")
        return ["abcdefghijklmnopqrstuvwxyz ".index(c) for c in text]

    def labels(self, ids: Iterable[int]) -> list[str]:
        return ["abcdefghijklmnopqrstuvwxyz·"[i] for i in ids]


@pytest.mark.parametrize("max_steps", [1, 2, 3, 7, 30, 100, 1000, 2000, 99_999])
@pytest.mark.parametrize("n", [2, 3, 5, 12, 60])
def test_map_steps(max_steps: int, n: int) -> None:
    """Steps start at 0 end at the last and grow."""
    steps = map_steps(max_steps, n)
    assert steps[0] == 0 and steps[-1] == max_steps
    assert all(a < b for a, b in itertools.pairwise(steps))
    assert len(steps) == min(n, max_steps + 1)


def test_steps_are_spaced_like_powers() -> None:
    assert map_steps(1000, 8) == [0, 1, 3, 10, 32, 100, 316, 1000]
    assert map_steps(400, 12) == map_steps(400, 12)


def test_impossible_numbers_of_steps_are_refused() -> None:
    with pytest.raises(UsageError, match=r"maps\.steps \(61\) must be at least 2, at most 60"):
        map_steps(100, 61)
    with pytest.raises(UsageError, match=r"trainer\.max_steps \(-1\) must be at least 1"):
        map_steps(-1, 12)


def test_a_probe_has_ids_and_labels() -> None:
    probe = check_probe("prompt", "a bc", Letters(), 4)
    assert probe == ("prompt", "a bc", [0, 26, 1, 2], ["a", "·", "b", "c"], "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abcdef", r"^maps\.prompt \(6 tokens\) is longer than model\.context \(5\); shorten it$"),
        ("", r"^maps\.prompt \(''\) must hold at least one token of this tokenizer$"),
        ("abC", r"^maps\.prompt: the text holds 'C'$"),
    ],
)
def test_prompt_too_long(text: str, message: str) -> None:
    """A prompt that does not fit is refused under its key."""
    with pytest.raises(UsageError, match=message):
        check_probe("prompt", text, Letters(), 5)


def test_maps_too_large() -> None:
    """A prompt is refused where maps would become too large."""
    with pytest.raises(
        UsageError, match=r"^maps\.prompt \(9 tokens\) is longer than the most that maps are drawn of \(8"
    ):
        check_probe("prompt", "a" * 9, Letters(), 4096, max_tokens=8)


def test_probe_cut_to_context() -> None:
    probe = check_probe("probe", "your journey", Letters(), 5)
    assert probe.labels == ["y", "o", "u", "r", "·"] and probe.note == "its first 5 of 12 tokens"
    with pytest.raises(UsageError, match=r"^maps\.probe: the text holds 'Y'"):
        check_probe("probe", "Your journey", Letters(), 5)
    with pytest.raises(UsageError, match=r"maps\.probe \(''\) must hold at least one token"):
        check_probe("probe", "", Letters(), 5)


def test_collecting_changes_nothing() -> None:
    """Collecting changes neither the model nor a random stream."""
    attention = partial(MultiHeadAttention, n_heads=2, dropout=0.5)
    model = GPT(ModelConfig(context=7, n_layers=3, d_model=6, dropout=0.5), vocab_size=11, attention=attention)
    model.train()
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    layers = collect(model, [3, 1, 4, 1, 5])
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert [layer.layer for layer in layers] == [0, 1, 2]
    for layer, again in zip(layers, collect(model, torch.tensor([3, 1, 4, 1, 5])), strict=True):
        assert layer.kind == "probability"
        assert layer.weights is not None and layer.value_norm is not None
        assert layer.weights.shape == (2, 5, 5) and layer.weights.dtype == np.float32
        assert layer.value_norm.shape == (2, 5)
        np.testing.assert_allclose(layer.weights.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(layer.weights, again.weights)


class Noisy(MultiHeadAttention):
    """Attention that draws random numbers whenever it mixes."""

    def mix(self, heads: Heads) -> torch.Tensor:
        torch.rand(3)
        return super().mix(heads)


def test_random_variant_disturbs_no_stream() -> None:
    """A variant that draws random numbers disturbs no stream either."""
    model = GPT(ModelConfig(context=7, n_layers=1, d_model=6), vocab_size=11, attention=partial(Noisy, n_heads=2))
    before = torch.get_rng_state()
    collect(model, [3, 1, 4])
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        model(torch.tensor([[3, 1, 4]]))
    assert not torch.equal(torch.get_rng_state(), before)


def test_imports_of_inspection() -> None:
    """Inspection needs neither lightning nor Hydra nor training."""
    code = (
        "import sys, attnlab.inspection.maps, attnlab.inspection.records, attnlab.inspection.head_metrics\n"
        "print([m for m in ('lightning', 'hydra', 'attnlab.training', 'attnlab.data') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_imports_without_torch() -> None:
    """Pictures numbers and records need no torch."""
    code = (
        "import sys, attnlab.inspection.figures, attnlab.inspection.records, attnlab.inspection.head_metrics\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
