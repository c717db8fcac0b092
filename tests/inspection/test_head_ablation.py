"""Silencing a head has the effect that cutting its columns of the output projection has, and leaves no trace."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import one_of_each
from torch import Tensor, nn

from attnlab.attention.base import Attention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.inspection.head_ablation import ablate, headed_parts, loss_of
from attnlab.inspection.maps import collect
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig

VOCAB, CONTEXT, HEADS = 11, 12, 2


def model_with(attention: partial[Attention]) -> GPT:
    torch.manual_seed(0)
    return GPT(ModelConfig(context=CONTEXT, n_layers=2, d_model=8), vocab_size=VOCAB, attention=attention)


def batches(n: int = 2) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    rows = [torch.randint(VOCAB, (3, CONTEXT + 1), generator=draw) for _ in range(n)]
    pairs = [(row[:, :-1], row[:, 1:].clone()) for row in rows]
    pairs[0][1][0, :5] = -100  # not scored
    return pairs


@pytest.fixture
def model() -> GPT:
    found = model_with(partial(MultiHeadAttention, n_heads=HEADS, dropout=0.5))
    with torch.no_grad():
        for p in found.parameters():  # far from where a head does almost nothing
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return found


def plain_loss(model: GPT) -> float:
    model.eval()
    with torch.no_grad():
        nats = [F.cross_entropy(model(x).mT, y, reduction="none") for x, y in batches()]
    total = sum(float(part.sum()) for part in nats)
    return total / sum(int((y != -100).sum()) for _, y in batches())


def test_whole_loss(model: GPT) -> None:
    """The whole loss is the mean over scored tokens."""
    assert loss_of(model, batches()) == pytest.approx(plain_loss(model), rel=1e-6)


def test_effect_of_a_head(model: GPT) -> None:
    """An effect is that of cutting the head's columns."""
    whole, effects = ablate(model, batches())
    found = {(e.layer, e.head): e for e in effects}
    assert sorted(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for (layer, head), effect in found.items():
        out: nn.Linear = model.layers[layer].attention.to_out
        columns = slice(4 * head, 4 * head + 4)
        seen: list[Tensor] = []
        hook = out.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        plain_loss(model)
        hook.remove()
        average = torch.cat([x.flatten(0, 1) for x in seen]).mean(dim=0)[columns]
        for value, got in ((torch.zeros(4), effect.zero), (average, effect.mean)):

            def replaced(_: nn.Module, args: tuple[Tensor], value: Tensor = value, part: slice = columns) -> Tensor:
                o = args[0].clone()
                o[..., part] = value
                return o

            hook = out.register_forward_pre_hook(replaced)
            assert got == pytest.approx(plain_loss(model) - whole, abs=1e-6)
            hook.remove()
    assert max(abs(e.zero) for e in found.values()) > 1e-3, "heads that matter were asked for"


def test_a_head_that_gives_nothing_has_no_effect(model: GPT) -> None:
    with torch.no_grad():
        model.layers[1].attention.to_out.weight[:, :4] = 0
    effects = {(e.layer, e.head): e for e in ablate(model, batches())[1]}
    assert effects[1, 0].zero == effects[1, 0].mean == 0 != effects[1, 1].zero


def test_constant_head(model: GPT) -> None:
    """Only what differs between texts and places is missed when a head gives its own average."""
    with torch.no_grad():
        model.layers[1].attention.qkv.to_v.weight.zero_()
    effects = {(e.layer, e.head): e for e in ablate(model, batches())[1]}
    assert effects[1, 0].mean == pytest.approx(0, abs=1e-7)


def test_padding_is_in_no_mean(model: GPT) -> None:
    """A text that ends within a row has the same effects however long its padding is, and whatever stands there."""
    text = torch.randint(VOCAB, (1, 7), generator=torch.Generator().manual_seed(2))
    expected = [(e.zero, e.mean) for e in ablate(model, [(text[:, :-1], text[:, 1:])])[1]]
    for filler in (0, 3):
        ids, targets = torch.full((2, CONTEXT), filler), torch.full((2, CONTEXT), -100)
        ids[0, :6], targets[0, :6] = text[0, :-1], text[0, 1:]
        effects = [(e.zero, e.mean) for e in ablate(model, [(ids, targets)])[1]]
        assert np.array(effects) == pytest.approx(np.array(expected), abs=1e-6)


def test_the_model_is_afterwards_as_it_was(model: GPT) -> None:
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    stream = torch.get_rng_state()
    list(ablate(model, batches())[1])
    assert model.training and all(block.attention.training for block in model.layers)
    assert all("merge" not in vars(part) for block in model.layers for part in headed_parts(block.attention))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), stream)


def test_model_is_restored(model: GPT) -> None:
    """A model is as it was even when one stops half way."""
    effects = ablate(model, batches())[1]
    next(effects)
    del effects
    assert loss_of(model, batches()) == pytest.approx(plain_loss(model), rel=1e-6)


@pytest.mark.parametrize("variant", one_of_each())
def test_every_variant_with_heads_can_be_ablated(variant: str) -> None:
    words = [f"attention={variant}", "model.n_heads=2", "model.d_model=16", "model.n_layers=2", "model.context=12"]
    torch.manual_seed(0)
    model = build_model(compose_config(words), VOCAB)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    whole, effects = ablate(model, batches(1))
    found = list(effects)
    for layer in collect(model, list(range(CONTEXT - 2))):
        mixer = model.layers[layer.layer].attention
        if layer.weights is not None and headed_parts(mixer):
            per_head = 2 if variant == "delta_product" else 1  # it draws a map for each of a head's two writes
            heads = [e.head for e in found if e.layer == layer.layer]
            assert heads == list(range(len(layer.weights) // per_head))
    assert all(e.zero != 0 for e in found), "a head was named that no output depends on"
    assert loss_of(model, batches(1)) == whole
