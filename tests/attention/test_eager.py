"""Maps written out on the way: the same outputs, and a place where a hook reads or replaces them."""

import pytest
import torch
from tests.laws.cases import NAMES, shipped
from torch import nn

from attnlab.attention.base import HeadedAttention
from attnlab.laws.subject import SAME, gap, ids, perturbed


def headed(module: nn.Module) -> list[HeadedAttention]:
    return [each for each in module.modules() if isinstance(each, HeadedAttention)]


FAST = ("differential", "delta_product", "stacked_heads", "ttt")
CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", CASES)
def test_eager(name: str) -> None:
    """Eager attention gives what `forward` gives; a map that is replaced by nothing leaves nothing to merge."""
    model = shipped(name).gpt(2).double().eval()
    perturbed(model)
    tokens = ids(2, 19)
    usual, layers = model(tokens), headed(model)
    for layer in layers:
        layer.eager = True
    assert gap(model(tokens), usual) <= SAME
    maps: list[torch.Tensor] = []
    hooks = [each.map.register_forward_hook(lambda _, __, weights: maps.append(weights)) for each in layers]
    model(tokens)
    for hook in hooks:
        hook.remove()
    with_maps = [each for each in layers if each.traits.map_kind != "none"]
    assert len(maps) == len(with_maps)
    drawn = (
        torch.cat([a.weights for a in model.attention_maps(tokens) if a.weights is not None], dim=1) if maps else None
    )
    assert drawn is None or gap(torch.cat(maps, dim=1), drawn) <= SAME
    for layer in with_maps:
        layer.map.register_forward_hook(lambda _, __, weights: 0 * weights)
    moved = gap(model(tokens), usual)
    assert (moved > SAME) == bool(with_maps)
