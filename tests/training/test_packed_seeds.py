"""Seeds stepped as one batch are the single runs: weights after twenty steps."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.training.optimizer import Recipe
from attnlab.training.packed_seeds import PackedSeeds

STEPS, SEEDS = 20, (0, 1)
SMALL = ("model.d_model=16", "model.n_layers=1", "model.n_heads=4", "model.context=12", "model.dropout=0.0")


def prepared(*words: str, dtype: torch.dtype = torch.float64) -> tuple[list[GPT], Recipe]:
    configs = [compose_config([*SMALL, *words, f"seed={seed}"]) for seed in SEEDS]
    recipe: Any = instantiate(configs[0], "optimizer", Recipe)
    return [build_model(config, 11).to(dtype) for config in configs], recipe


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(11, (len(SEEDS), 3, 13), generator=torch.Generator().manual_seed(step))
    return ids[..., :-1], ids[..., 1:]


def train_alone(model: GPT, recipe: Recipe, row: int) -> None:
    optimizer, trained = recipe.optimizer(model), [p for p in model.parameters() if p.requires_grad]
    for step in range(STEPS):
        ids, targets = (part[row] for part in batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.factor(step, STEPS)
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("gqa", torch.float64, 1e-6),
        *(
            pytest.param(n, torch.float64, 1e-6, marks=pytest.mark.slow)
            for n in ("multi_head", "linear", "gated_delta")
        ),
        # Rounding in another order turns the sign of AdamW's first steps where a gradient is nearly zero.
        *(pytest.param(n, torch.float32, 1e-2, marks=pytest.mark.slow) for n in ("multi_head", "gated_delta")),
    ],
)
def test_single_run(name: str, dtype: torch.dtype, most: float) -> None:
    """Of every seed, in float64 to 1e-6, and in float32 as far as rounding allows."""
    models, recipe = prepared(f"attention={name}", dtype=dtype)
    packed = PackedSeeds(models, recipe, STEPS)
    for step in range(STEPS):
        packed.step(*batch(step))
    together, _ = prepared(f"attention={name}", dtype=dtype)
    packed.unpack(together)
    for row, (alone, other) in enumerate(zip(models, together, strict=True)):
        begun = alone.embedding.weight.detach().clone()
        train_alone(alone, recipe, row)
        assert (alone.embedding.weight - begun).abs().max() > most
        for ours, theirs in zip(other.parameters(), alone.parameters(), strict=True):
            assert (ours - theirs).abs().max() < most


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model.dropout=0.1",), "without dropout"),
        (("optimizer=muon",), "not with Muon"),
        (("attention=sigmoid",), "cannot be packed"),
    ],
)
def test_refused(words: tuple[str, ...], reason: str) -> None:
    models, recipe = prepared(*words)
    with pytest.raises(UsageError, match=reason):
        PackedSeeds(models, recipe, STEPS).step(*batch(0))
