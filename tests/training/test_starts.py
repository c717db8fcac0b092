"""What a table of variants says of how each starts."""

from typing import Any

import pytest
import torch
from tests.laws.cases import shipped

from attnlab.config.compose import compose_config
from attnlab.config.keys import settings_of
from attnlab.model import start_as_published
from attnlab.training.optimizer import AdamW
from attnlab.training.starts import starts_of

RECIPE: dict[str, Any] = {
    "lr": 1e-3,
    "warmup_fraction": 0.1,
    "final_lr_fraction": 0.1,
    "decay": "cosine",
    "grad_clip": 1.0,
}


def records(name: str, n_layers: int, weight_decay: float = 0.1) -> list[dict[str, Any]]:
    recipe = AdamW(**RECIPE, weight_decay=weight_decay, betas=(0.9, 0.95))
    return starts_of(shipped(name).gpt(n_layers), recipe)


def test_memory() -> None:
    """A decay has its own start and is not pulled at; the convolution, the gate and the write are named."""
    (record,) = records("gated_delta", 2)
    assert (record["layers"], record["class"], record["dropout"]) == ([0, 1], "RecurrentAttention", None)
    parts = record["parts"]
    assert (parts["qkv.conv"], parts["gate"], parts["write"]) == ("ShortConv of 4", "Swish", "DeltaWrite")
    bias, matrix = record["parameters"]["decay.bias"], record["parameters"]["qkv.to_q.weight"]
    assert bias["size"] == "4" and not bias["decayed"] and bias["mean"] < -1
    assert matrix["decayed"] and matrix["std"] == pytest.approx(0.02, rel=0.1)
    norm = record["parameters"]["output_norm.norm.weight"]
    assert norm["std"] == 0.0 and norm["mean"] > 0


def test_kinds_of_layers() -> None:
    """Layers of other kinds have records of their own, and options that change nothing are no parts."""
    local, whole = records("hybrid", 4)
    assert local["layers"] == [0, 1, 2] and whole["layers"] == [3]
    assert local["parts"]["mask"] == "Window" and whole["parts"]["mask"] == "Causal"
    assert "gate" not in local["parts"] and local["dropout"] is not None


def test_no_decay() -> None:
    """Where nothing decays, nothing is said to."""
    (record,) = records("multi_head", 1, weight_decay=0.0)
    assert not any(parameter["decayed"] for parameter in record["parameters"].values())


def test_published() -> None:
    """What a source starts otherwise is named beside our start, and is what model.start=published begins with."""
    for name, parameter, ours, theirs in (
        ("gated_delta", "output_norm.norm.weight", 0.1, (1.0, 0.0)),
        ("mamba2_mixer", "gain", 0.1, (1.0, 0.0)),
        ("differential", "lambda_q", 0.1, (0.0, 0.1)),
    ):
        (record,) = records(name, 1)
        assert record["published"][parameter] == list(theirs)
        assert record["parameters"][parameter]["mean"] == pytest.approx(ours)
        model, other = shipped(name).gpt(1), shipped(name).gpt(1)
        start_as_published(model, seed=0)
        (begun,) = starts_of(model, AdamW(**RECIPE, weight_decay=0.1, betas=(0.9, 0.95)))
        started = begun["parameters"][parameter]
        assert started["mean"] == pytest.approx(theirs[0], abs=0.1) and bool(started["std"]) == bool(theirs[1])
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, other.get_parameter(n))}
        assert {n.partition("attention.")[2] for n in moved} == {*record["published"]}, "and nothing else"
    (record,) = records("multi_head", 1)
    assert record["published"] == {}


def test_published_is_another_run() -> None:
    """The start is part of a run's identity only where it is not ours."""
    usual, published = (compose_config([f"model.start={start}"]) for start in ("ours", "published"))
    assert "model.start" not in settings_of(usual.as_dict(), besides=())
    assert settings_of(published.as_dict(), besides=())["model.start"] == "published"
