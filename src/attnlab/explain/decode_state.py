"""What a layer of fixed memory keeps after each token, as its own decode step leaves it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.base import Attention, State
from attnlab.attention.shared import Shared
from attnlab.explain.steps import Step


def memory_steps(layer: Attention, x: Float[Tensor, "1 t c"], shared: Shared) -> list[Step]:
    """The memory after each token and what the token wrote into it; nothing for a cache that grows with the text."""
    if layer.traits.growth != "constant" or layer.traits.requires:
        return []
    state, after = layer.init_state(1, x.size(1)), []
    before = dict(_tensors(state))
    for i in range(x.size(1)):
        _, state = layer.step(x[:, i : i + 1], state, shared.copy())
        after.append({name: tensor.clone() for name, tensor in _tensors(state)})
    steps = []
    for name in after[0] if after else ():
        states = np.stack([_table(tensors[name]) for tensors in after if tensors[name].shape == after[0][name].shape])
        if len(states) < len(after) or states.size == 0 or states.ndim != 4 or not np.ptp(states):
            continue
        start = _table(before[name])
        written = np.diff(states, axis=0, prepend=start[None])
        text = "The change that each token makes: what decays, what is erased and what is added, together."
        steps.append(Step(f"state.{name}.written", "state", f"Written into the {name}", text, "state", written))
        text = "All that is left of the past after each token; its size does not grow. Queries read from it."
        steps.append(Step(f"state.{name}", "state", f"The {name} after each token", text, "state", states))
    return steps


def _tensors(state: State, name: str = "state") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a state that is a table per head (not the tail of a convolution), by the name of its field."""
    if isinstance(state, Tensor):
        if state.ndim >= 4:
            yield name, state
        return
    if not isinstance(state, tuple):
        return
    fields: tuple[Any, ...] = getattr(type(state), "_fields", tuple(f"{name} {i}" for i in range(len(state))))
    for inner, value in zip(fields, state, strict=True):
        yield from _tensors(value, str(inner))


def _table(state: Tensor) -> Float[np.ndarray, "h d v"]:
    """(1, h, d, v) or (1, h, l, d, v) -> (h, rows, columns)."""
    return state[0].detach().to("cpu", torch.float32).flatten(1, -2).numpy().copy()
