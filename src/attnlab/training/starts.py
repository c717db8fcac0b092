"""How the attention of a model starts and is regularised, and which parts it carries: it may decide a short run."""

from typing import Any

from torch import nn

from attnlab.attention.base import Attention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.published import published_starts
from attnlab.model import GPT
from attnlab.training.optimizer import Recipe


def starts_of(model: GPT, recipe: Recipe) -> list[dict[str, Any]]:
    """One record for layers that are alike: which, their class, its parameters as they are now, and its parts.

    `published` is what its source says of how parameters start, in words: otherwise than we do (`model.start=published`
    takes that), as here, or nothing. Of each parameter: its size, mean and standard deviation, and whether weight decay
    pulls at it. A part is whatever has a name in the layer and is no bare matrix: gate, decay, convolution, norms.
    """
    groups = recipe.optimizer(model).param_groups
    pulled = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    records: list[dict[str, Any]] = []
    for i, block in enumerate(model.layers):
        record = _record(block.attention, pulled)
        alike = next((r for r in records if _shape(r) == _shape(record)), None)
        if alike is None:
            records.append({"layers": [i], **record})
        else:
            alike["layers"].append(i)
    return records


def _record(layer: Attention, pulled: set[int]) -> dict[str, Any]:
    parameters = {}
    for name, parameter in layer.named_parameters():
        numbers = parameter.detach().double()
        mean, std = float(numbers.mean()), float(numbers.std(correction=0))
        size = "x".join(map(str, parameter.shape))
        parameters[name] = {"size": size, "mean": mean, "std": std, "decayed": id(parameter) in pulled}
    return {
        "class": type(layer).__name__,
        "dropout": getattr(layer, "dropout", None),  # of its weights; None for a layer that drops none
        "parts": {name: _part(module) for name, module in layer.named_modules() if name and _is_part(module)},
        "parameters": parameters,
        "published": {name: start.text for name, start in published_starts(layer).items()},
    }


def _is_part(module: nn.Module) -> bool:
    bare = isinstance(module, nn.Linear | nn.Identity | nn.ModuleDict | nn.ModuleList)
    return not bare and not getattr(module, "neutral", False)


def _part(module: nn.Module) -> str:
    return f"{type(module).__name__} of {module.width}" if isinstance(module, ShortConv) else type(module).__name__


def _shape(record: dict[str, Any]) -> tuple[Any, ...]:
    """What layers that are alike share: everything but the numbers that were drawn."""
    sizes = {name: (p["size"], p["decayed"]) for name, p in record["parameters"].items()}
    return record["class"], record["dropout"], record["parts"], sizes
