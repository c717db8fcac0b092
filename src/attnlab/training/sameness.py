"""Whether two attentions are one at the sizes given: a window is none where it is longer than the context."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from attnlab.attention.base import Shared
from attnlab.build import attention_factory
from attnlab.config.run_config import RunConfig

PLAIN = "multi_head"  # what a single run is held against
MOST_WORK = 2**24  # query-key pairs, or numbers of tokens, in all layers: more would be felt before a run starts
BUILT_FROM = ("model", "attention", "allow_targets")
TOLERANCE = 1e-10  # of outputs of about 1 in float64


def plain(config: RunConfig) -> RunConfig:
    """The config with multi-head attention and nothing in its slots."""
    attention = {
        "_target_": "attnlab.attention.multi_head.MultiHeadAttention",
        "_partial_": True,
        "n_heads": config.model.n_heads,
        "dropout": config.model.dropout,
        "position": config.position.inside,
    }
    return replace(config, attention=attention)


def computes_the_same(config: RunConfig, base: RunConfig) -> bool:
    """Whether every layer of both gives the same outputs and gradients, once they have the same parameters.

    Tried in float64 on one random row of model.context tokens. What the first has beyond the parameters of `base` is
    drawn at random, for a gate that starts at nothing would pass for none. Too large a model is not tried, and what
    was tried once is not tried again.
    """
    parts = ({key: value for key, value in each.as_dict().items() if key in BUILT_FROM} for each in (config, base))
    return _tried(*map(json.dumps, parts))


@cache
def _tried(ours: str, theirs: str) -> bool:
    config, base = (RunConfig.of(json.loads(parts)) for parts in (ours, theirs))
    model = config.model
    if model.n_layers * model.context * max(model.d_model, model.n_heads * model.context) > MOST_WORK:
        return False
    try:
        if not _shapes_of(theirs).items() <= _shapes_of(ours).items():
            return False
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.default_generator.manual_seed(0)  # of the CPU alone: torch.manual_seed would seed GPUs, too
            return _agree(_layers(config).double(), _layers(base).double(), model.context, model.d_model)
    except Exception:  # a class of the user's that does no float64, heads that do not divide: then it is not the same
        return False


@cache
def _shapes_of(parts: str) -> dict[str, tuple[torch.Size, bool]]:
    with torch.device("meta"):
        return _shapes(_layers(RunConfig.of(json.loads(parts))))


def in_words(config: RunConfig, other: str) -> str:
    """What it means for an ablation that two attentions compute the same."""
    model = config.model
    sizes = f"model.n_layers {model.n_layers}, model.n_heads {model.n_heads}, model.context {model.context}"
    return (
        f"computes what {other} does at these sizes ({sizes}): between the two, a difference is noise; "
        "longer rows (evaluation.lengths) may tell them apart"
    )


def _layers(config: RunConfig) -> nn.ModuleList:
    """The attention of every layer."""
    sizes, factory = config.model, attention_factory(config)
    layers = range(sizes.n_layers)
    mixers = [factory(sizes.d_model, layer=layer, n_layers=len(layers), context=sizes.context) for layer in layers]
    return nn.ModuleList(mixers)


def _shapes(layers: nn.ModuleList) -> dict[str, tuple[torch.Size, bool]]:
    """The shape of each parameter, and whether it is trained."""
    return {name: (parameter.shape, parameter.requires_grad) for name, parameter in layers.named_parameters()}


def _agree(ours: nn.ModuleList, theirs: nn.ModuleList, context: int, d_model: int) -> bool:
    """Whether the layers agree with the values of `theirs` in both; ends at the first that does not."""
    if _without_dropout(ours) != _without_dropout(theirs):
        return False
    _set_parameters(ours, theirs)
    towards = torch.randn(1, context, d_model, dtype=torch.float64)
    ours_shared, theirs_shared = Shared(), Shared()
    for mine, other in zip(ours, theirs, strict=True):
        x = torch.randn_like(towards).requires_grad_()
        names = [name for name, _ in other.named_parameters()]
        results = _results(mine, names, x, ours_shared, towards), _results(other, names, x, theirs_shared, towards)
        if not all(torch.allclose(a, b, rtol=0, atol=TOLERANCE) for a, b in zip(*results, strict=True)):
            return False
    return True


def _results(
    mixer: nn.Module, names: Sequence[str], x: torch.Tensor, shared: Shared, towards: torch.Tensor
) -> list[torch.Tensor]:
    """The output in training and besides, and its gradients towards `towards`, by x and the named parameters."""
    with torch.no_grad():
        training = mixer.train()(x, shared.copy())  # where a rule may draw noise of its own
    y = mixer.eval()(x, shared)
    inputs = [x, *(parameter for name in names if (parameter := mixer.get_parameter(name)).requires_grad)]
    return [training, y, *torch.autograd.grad(y, inputs, towards, retain_graph=True, materialize_grads=True)]


@torch.no_grad()
def _set_parameters(ours: nn.ModuleList, theirs: nn.ModuleList) -> None:
    """Random values of every parameter, the same in both where both have it."""
    values: dict[str, torch.Tensor] = {}
    for name, parameter in [*theirs.named_parameters(), *ours.named_parameters()]:
        if name in values:
            parameter.copy_(values[name])
        else:
            parameter.normal_(std=parameter.size(-1) ** -0.5 if parameter.ndim > 1 else 1.0)
            values[name] = parameter


def _without_dropout(layers: nn.ModuleList) -> set[float]:
    """Switch dropout off; returns the rates that there were."""
    owners: list[Any] = [m for m in layers.modules() if isinstance(getattr(m, "dropout", None), int | float)]
    rates = {owner.dropout for owner in owners}
    for owner in owners:
        owner.dropout = 0.0
    return rates
