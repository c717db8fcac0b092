"""Callbacks for Lightning, of the group callbacks= and those handed over in Python: built, judged, and described."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging, Timer, WeightAveraging

from attnlab.build import construct, plan_group
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError

ENDS_EARLY = (EarlyStopping, Timer)
AVERAGES = (WeightAveraging, StochasticWeightAveraging)


def with_callbacks(config: RunConfig, handed_over: Sequence[L.Callback]) -> tuple[RunConfig, list[L.Callback]]:
    """The config with every callback described in it, and the callbacks.

    One counts as changing the result, and so enters the identity of the run, unless its YAML or its class says
    `watches: true`. Raises UsageError for what Lightning, or match=, does not go with.
    """
    group = {name: construct(factory) for name, factory in plan_group(config, "callbacks", L.Callback).items()}
    nodes = {name: dict(node) for name, node in config.callbacks.items()}
    for name, callback in group.items():
        if _watches(callback):
            nodes[name]["watches"] = True
    callbacks = dict(group)
    for callback in handed_over:
        name = type(callback).__name__
        name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, len(handed_over) + 2))) if n not in callbacks)
        callbacks[name] = callback
        if not _watches(callback):
            nodes[name] = describe_callback(callback)
    _check(config, callbacks)
    return replace(config, callbacks=nodes), list(callbacks.values())


def describe_callback(callback: L.Callback) -> dict[str, Any]:
    """What is known of a callback that was handed over: its class and the plain values that it holds."""
    kind = type(callback)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", **_plain(vars(callback))}


def weights_evaluated(callbacks: Sequence[L.Callback]) -> str:
    """Which weights validations and checkpoints are of: raw, or averaged over steps."""
    return "averaged" if any(isinstance(callback, AVERAGES) for callback in callbacks) else "raw"


def _watches(callback: L.Callback) -> bool:
    return getattr(callback, "watches", False) is True


def _check(config: RunConfig, callbacks: Mapping[str, L.Callback]) -> None:
    for name, callback in callbacks.items():
        if config.match is not None and isinstance(callback, ENDS_EARLY):
            raise UsageError(
                f"match ({config.match}) brings runs to the same budget, and callbacks.{name} may end one before: "
                "leave one of them out"
            )
    silent: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    try:
        if callbacks:
            L.Trainer(accelerator="cpu", devices=1, max_steps=1, callbacks=list(callbacks.values()), **silent)
    except Exception as error:  # two of a kind, or one for checkpoints, which attnlab writes itself
        raise UsageError(f"callbacks ({', '.join(callbacks)}): {' '.join(str(error).split())}") from error


def _plain(value: Any) -> Any:
    """A value as it may stand in a config: what is no plain data by its name or its contents."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, torch.Tensor):
        return f"tensor {hashlib.sha256(value.detach().cpu().numpy().tobytes()).hexdigest()[:16]}"
    if isinstance(value, torch.device):
        return str(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
