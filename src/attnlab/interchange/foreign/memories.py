"""The maps of memories, which never write their weights down: o = A v, so the identity as values gives A.

A memory (linear attention, a delta rule, Mamba) computes in a kernel, a function of its values and of what it needs
besides. Such functions are known by their parameters and called once more, with other values and all else as it was.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.errors import UsageError

MOST_CHANNELS = 64  # of a layer in which each channel has a map of its own
CHANNEL_ROWS = 32  # one-hot values that such a layer is given at once
# What a kernel calls its values, by parameters that it has; a state-space kernel begins with them.
VALUES = (({"key", "value"}, "value"), ({"k", "v"}, "v"))
STATE_SPACE = {"dt", "A", "B", "C"}
CACHES = ("cache", "past_key_values")  # what a layer may have filled in its first run

Function = Callable[..., Any]


class WeightedSum(NamedTuple):
    """What a layer computed as o = A v."""

    a: Float[Tensor, "h t s"]
    v: Float[Tensor, "h s d"]
    o: Float[Tensor, "h t d"]


class Kernel(NamedTuple):
    """A function that mixes positions: its home, its name in it, and its parameter for the values."""

    home: dict[str, Any]
    name: str
    function: Function
    values: str


def kernels(model: nn.Module) -> Iterator[Kernel]:
    """The functions in the modules of a model's classes that take keys and values, or a state space."""
    names = sorted({type(module).__module__ for module in model.modules()} & sys.modules.keys())
    for home in (vars(sys.modules[name]) for name in names if not name.startswith("torch.")):
        for name, function in list(home.items()):
            if inspect.isfunction(function) and (values := _values(function)):
                yield Kernel(home, name, function, values)


def _values(function: Function) -> str | None:
    parameters = list(inspect.signature(function).parameters)
    if parameters[:1] == ["module"]:  # the softmax attention of transformers
        return None
    if {*parameters} >= STATE_SPACE:
        return parameters[0]
    return next((values for needs, values in VALUES if needs <= {*parameters}), None)


def implied_sum(kernel: Kernel, call: inspect.BoundArguments, result: Any, positions: int | None) -> WeightedSum | None:
    """The map of a kernel that was called with these arguments and gave this result, over so many positions.

    None for a kernel that was given a step or a chunk of them; refuses what has no map.
    """
    v, o = call.arguments[kernel.values], _output(result)
    if positions is not None and positions not in v.shape[1:3]:
        return None
    if v.shape != o.shape or v.ndim not in (3, 4) or len(v) != 1:
        raise UsageError(f"{kernel.name} takes values of shape {tuple(v.shape)} and gives {tuple(o.shape)}")
    if call.arguments.get("z") is not None:  # a gate on the result is no part of the map
        call.arguments["z"] = None
        o = _output(kernel.function(*call.args, **call.kwargs))

    def again(values: Tensor) -> Tensor:
        batch = len(values)
        others = {key: _repeated(argument, batch) for key, argument in call.arguments.items()}
        bound = inspect.BoundArguments(call.signature, {**others, kernel.values: values})
        return _output(kernel.function(*bound.args, **bound.kwargs))

    if v.ndim == 4:
        return _of_heads(again, v, o, positions)
    channels_first = "dt" in call.arguments
    swap = (lambda x: x.transpose(1, 2)) if channels_first else (lambda x: x)  # to positions, channels
    if (channels := swap(v).shape[2]) > MOST_CHANNELS:
        raise UsageError(f"each of its {channels} channels has a map of its own")
    return _of_channels(lambda values: swap(again(swap(values))), swap(v), swap(o))


def _of_heads(again: Function, v: Tensor, o: Tensor, positions: int | None) -> WeightedSum:
    """Values (1, t, h, d), as most kernels take them, or (1, h, t, d)."""
    products = []
    for heads in (2, 1):
        by_head = [x[0].movedim(heads - 1, 0) for x in (v, o)]
        if positions not in (None, by_head[0].shape[1]):
            continue

        def mix(values: Float[Tensor, "h s n"], heads: int = heads) -> Float[Tensor, "h t n"]:
            result: Tensor = again(values.movedim(0, heads - 1)[None].contiguous())[0].movedim(heads - 1, 0)
            return result

        try:
            a = _columns(mix, by_head[0], by_head[0].shape[1])
        except (RuntimeError, ValueError):  # a kernel with a state that is as wide as its values
            a = _columns(mix, by_head[0], v.shape[-1])
        products.append(WeightedSum(a, *by_head))
        if relative_error(products[-1]) < 1e-3:
            break
    return min(products, key=relative_error)


def _columns(mix: Function, v: Float[Tensor, "h s d"], width: int) -> Float[Tensor, "h t s"]:
    """What comes out for the identity as values, so many of its columns at a time."""
    h, s, _ = v.shape
    identity = torch.eye(s, dtype=v.dtype, device=v.device).expand(h, s, s)
    parts = [mix(F.pad(some, (0, width - some.shape[-1]))) for some in identity.split(width, dim=-1)]
    return torch.cat(parts, dim=-1)[..., :s]


def _of_channels(again: Function, v: Tensor, o: Tensor) -> WeightedSum:
    """Values (1, t, c), each channel with a map of its own: one-hot in the positions, many at once."""
    t = v.shape[1]
    one_hot = torch.eye(t, dtype=v.dtype, device=v.device)[:, :, None].expand(t, *v.shape[1:])
    columns = torch.cat([again(some.contiguous()) for some in one_hot.split(CHANNEL_ROWS)])  # (s, t, c)
    return WeightedSum(columns.permute(2, 1, 0), v[0].T[..., None], o[0].T[..., None])


def lightning_sum(layer: Any, args: Any, kwargs: Any) -> WeightedSum:
    """The map of MiniMax's lightning attention, which has no kernel: the layer is run again, with other values.

    Its values are the last third of each head in what its activation gives; what it mixed goes into its norm.
    """
    h, d = layer.num_attention_heads, layer.head_dim
    values: list[Tensor] = []
    outputs: list[Tensor] = []

    def run(replacement: Float[Tensor, "h s d"] | None) -> Tensor:
        def on_activation(module: nn.Module, inputs: Any, qkv: Tensor) -> Tensor:
            heads = qkv.unflatten(-1, (h, 3 * d)).clone()
            values.append(heads[0, ..., 2 * d :].transpose(0, 1).clone())
            if replacement is not None:
                heads[0, ..., 2 * d :] = replacement.transpose(0, 1)
            return heads.flatten(-2)

        hooks = (
            layer.act_fn.register_forward_hook(on_activation),
            layer.norm.register_forward_pre_hook(lambda module, inputs: outputs.append(inputs[0])),
        )
        try:
            layer.forward(*args, **{key: None if key in CACHES else value for key, value in kwargs.items()})
        finally:
            for hook in hooks:
                hook.remove()
        return outputs[-1][0].unflatten(-1, (h, d)).transpose(0, 1)

    o = run(None)
    v = values[0]
    return WeightedSum(_columns(run, v, d), v, o)


INLINE: dict[str, Callable[[Any, Any, Any], WeightedSum]] = {"MiniMaxLightningAttention": lightning_sum}


def relative_error(product: WeightedSum) -> float:
    """How far A v is from o, as part of the largest number in o; infinite where one of them is not finite."""
    a, v, o = (x.double() for x in product)
    error = float((a @ v - o).abs().max() / o.abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")


def _output(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def _repeated(argument: Any, batch: int) -> Any:
    """An argument for so many examples instead of one; what has no batch stays."""
    one = isinstance(argument, Tensor) and argument.ndim > 2 and len(argument) == 1
    return argument.expand(batch, *argument.shape[1:]) if one else argument
