"""What a table of variants says of how each starts."""

import math
from typing import Any

import pytest
import torch
from tests.laws.cases import NAMES, shipped

from attnlab.attention.convolution import ShortConv
from attnlab.attention.decay_start import first_rates, first_steps
from attnlab.attention.position_bias import softplus_inverse
from attnlab.attention.published import published_starts
from attnlab.attention.rwkv_start import rwkv7_starts
from attnlab.config.compose import compose_config
from attnlab.config.keys import settings_of
from attnlab.errors import UsageError
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


RANGES = {  # what model.start=published begins with, as the sources print it: lowest and highest
    ("gated_delta", "output_norm.norm.weight"): (1.0, 1.0),
    ("gated_delta", "decay.log_rate"): (math.log(1e-4), math.log(16)),
    ("kda", "decay.log_rate"): (0.0, math.log(16)),
    ("mamba2", "decay.bias"): (softplus_inverse(0.001), softplus_inverse(0.1)),
    ("mamba2_mixer", "gain"): (1.0, 1.0),
    ("differential", "lambda_q"): (-0.6, 0.6),
    ("cca", "key_scale"): (0.0, 0.0),
    ("cca", "depthwise"): (-(2**-0.5), 2**-0.5),
    ("momentum_delta", "correct"): (0.0, 1.0),
    ("momentum_delta", "log_factor"): (math.log(1e-4), math.log(4)),
    ("momentum_delta", "momentum.log_rate"): (math.log(1e-4), math.log(16)),
    ("rwkv7", "alpha"): (1.02, 1.02),
    ("rwkv7", "rho"): (-0.04, -0.04),
    ("rwkv7", "xi"): (0.66, 0.76),
    ("rwkv7", "to_out.weight"): (0.0, 0.0),
    ("log_linear", "decay.log_rate"): (0.0, math.log(8)),
    ("precond_kda", "decay.bias"): (0.0, 0.0),
    ("ttt", "weight"): (-0.1, 0.1),
}


@pytest.mark.parametrize("name", sorted({name for name, _ in RANGES}))
def test_published(name: str) -> None:
    """What a source starts otherwise lies in its range and is not ours, nothing else moves, and a seed is one start."""
    model, again, other = (shipped(name).gpt(2) for _ in range(3))
    start_as_published(model, seed=0)
    start_as_published(again, seed=0)
    assert all(torch.equal(p, again.get_parameter(n)) for n, p in model.named_parameters())
    layer, ours = model.layers[1].attention, other.layers[1].attention
    for parameter in (parameter for of, parameter in RANGES if of == name):
        low, high = RANGES[name, parameter]
        numbers = layer.get_parameter(parameter).detach()
        assert low - 1e-5 <= numbers.min() and numbers.max() <= high + 1e-5
        assert not torch.equal(numbers, ours.get_parameter(parameter))
    starts = published_starts(layer)
    moved = {n for n, p in layer.named_parameters() if not torch.equal(p, ours.get_parameter(n))}
    assert moved <= {n for n, start in starts.items() if start.draw is not None}
    assert {*records(name, 2)[-1]["published"]} == {*starts}


def test_rwkv_by_layer() -> None:
    """The author's numbers, of the first and the last of two layers: shares, decays and the gain of the norm."""
    model = shipped("rwkv7").gpt(2)
    start_as_published(model, seed=0)
    first, last = (block.attention for block in model.layers)
    width, d = first.d_model, first.head_dim
    channel = torch.arange(width)
    assert torch.allclose(first.get_parameter("shares.k"), 1 - (channel / width) ** 0.7)
    assert torch.allclose(last.get_parameter("shares.k"), 1 - (channel / width) ** 0.35)
    zigzag = (channel % d - (d - 1) / 2) / ((d - 1) / 2)
    zigzag = zigzag * zigzag.abs()
    decay_bias = -6 + 6 * (channel / (width - 1)) ** 2 + 0.5 + 2.5 * zigzag
    assert torch.allclose(last.get_parameter("to_decay.bias"), decay_bias, atol=1e-5)
    assert float(first.get_parameter("gain").detach().flatten()[0]) == pytest.approx(0.5**0.7)
    matrix = first.get_parameter("to_rate.to_all.weight").detach()
    small = matrix.mT @ matrix if matrix.size(0) >= matrix.size(1) else matrix @ matrix.mT
    tall = max(1.0, matrix.size(1) / matrix.size(0))
    assert torch.allclose(small, 0.01 * tall * torch.eye(small.size(0)), atol=1e-6)


def test_rwkv_names() -> None:
    """Every parameter that the author's start names is one of the layer: a name that moved would start as ours does."""
    model = shipped("rwkv7").gpt(2)
    for i, block in enumerate(model.layers):
        layer: Any = block.attention
        stated = rwkv7_starts(layer.d_model, layer.n_heads, layer.head_dim, i, 2)
        of_others = {name for name in stated if name.startswith("to_first.") and layer.to_first is None}
        assert {*stated} - {name for name, _ in layer.named_parameters()} == of_others


def test_evenly_spaced() -> None:
    """From the first to the last: rates evenly, steps evenly in their logarithm; one alone is the first."""
    assert first_rates(3, 2.0, 8.0).exp().tolist() == pytest.approx([2.0, 5.0, 8.0])
    steps = torch.nn.functional.softplus(first_steps(3, 0.1, 0.001))
    assert steps.tolist() == pytest.approx([0.1, 0.01, 0.001], rel=1e-4)
    assert first_rates(1, 2.0, 8.0).exp().tolist() == pytest.approx([2.0])


def unstated(layer: torch.nn.Module) -> list[str]:
    """The parameters of a layer of whose start nothing is stated, and which model.init does not draw."""
    matrices = {
        f"{owner}.{leaf}".lstrip(".")
        for owner, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding | ShortConv)
        for leaf, _ in module.named_parameters(recurse=False)
        if leaf == "weight" or isinstance(module, torch.nn.Linear)
    }
    return sorted({name for name, _ in layer.named_parameters()} - matrices - {*published_starts(layer)})


@pytest.mark.parametrize("name", NAMES)
def test_every_variant(name: str) -> None:
    """Every variant says what its source starts each parameter with, that ours is alike, or that nothing is said."""
    for block in shipped(name).gpt(2).layers:
        assert not unstated(block.attention)


def test_unstated() -> None:
    """A parameter of a rule of one's own that says nothing is named."""
    layer = shipped("multi_head").gpt(1).layers[0].attention
    layer.own = torch.nn.Parameter(torch.ones(2))
    assert unstated(layer) == ["own"] and published_starts(layer) == {}


def test_decay_start() -> None:
    """One head alone, too, begins at the decay that is asked for."""
    one = ["model.n_heads=1", "model.d_model=16"]

    def kept(name: str, *words: str) -> torch.Tensor:
        layer: Any = shipped(name, *one, *words).gpt(1).layers[0].attention
        return layer.decay.project(torch.zeros(1, 1, layer.d_model)).exp().flatten()

    steps = ["+attention.decay.first_step=[0.001,0.001]", "+attention.decay.rates=[2,2]"]
    assert kept("gated_delta", *steps).tolist() == pytest.approx([math.exp(-0.002)])
    gla = kept("gla", "+attention.decay.start=5")
    assert gla.tolist() == pytest.approx([(1 / (1 + math.exp(-5))) ** (1 / 16)] * len(gla))
    assert kept("retention", "+attention.decay.first=8").tolist() == pytest.approx([1 - 2**-8])
    assert kept("gated_delta").tolist() == pytest.approx([math.exp(-0.1)]), "as it was"
    with pytest.raises(
        UsageError, match=r"attention\.decay\.rates \(\[0, 1\]\) must be a list of 2, each a number above 0"
    ):
        compose_config(["attention=gated_delta", "+attention.decay.rates=[0,1]"])


def test_published_is_another_run() -> None:
    """The start is part of a run's identity only where it is not ours."""
    usual, published = (compose_config([f"model.start={start}"]) for start in ("ours", "published"))
    assert "model.start" not in settings_of(usual.as_dict(), besides=())
    assert settings_of(published.as_dict(), besides=())["model.start"] == "published"
