"""What computes a layer's `mix` in training: torch's operations, FlexAttention, or flash-linear-attention's kernels.

A backend changes no rule: a law holds each to the layer's own code. Maps, decoding and the eager path stay with torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

from torch import nn

from attnlab.attention.base import HeadedAttention
from attnlab.errors import UsageError

Backend = Literal["torch", "flex", "fla"]
KEY = "trainer.attention_backend"


def best_backends(accelerator: str) -> str:
    """What `auto` comes to: each layer by the first of these that can, and by torch where none does."""
    if accelerator != "cuda":
        return "torch"
    return "flex+fla+torch" if find_spec("fla") and find_spec("triton") else "flex+torch"


def missing(setting: str, accelerator: str) -> str:
    """What this machine lacks for a setting; empty if it lacks nothing."""
    for backend in setting.split("+"):
        if backend == "flex" and accelerator == "cpu":
            return "FlexAttention has no backward pass on a CPU"
        if backend != "torch" and accelerator != "cuda":
            return f"{backend} needs a CUDA GPU"
        if backend == "fla" and not (find_spec("fla") and find_spec("triton")):
            return "flash-linear-attention is not installed: pip install 'attnlab[gpu]'"
    return ""


def use_backends(model: nn.Module, setting: str, precision: str) -> list[Backend]:
    """Give every layer what computes its mix: the first backend of a setting, such as flex+torch, that can.

    Returns what each layer got. Raises UsageError where none can. Where torch may serve, too, it keeps the layers whose
    whole rule is its own fused kernel.
    """
    layers = [module for module in model.modules() if isinstance(module, HeadedAttention)]
    if setting == "torch":
        for layer in layers:
            layer.kernel = None
        return ["torch"] * len(layers)
    flex, chosen = _kernels("flex"), list[Backend]()
    kernels = {"torch": None, "flex": flex.FlexMix(), "fla": _kernels("linear_kernels").fla_mix}
    for layer in layers:
        reasons = {backend: _refusal(backend, layer, precision) for backend in setting.split("+")}
        able = [backend for backend, reason in reasons.items() if reason is None]
        if not able:
            raise UsageError(
                f"{KEY} ({setting}) cannot serve layer {layer.layer} ({type(layer).__name__}): "
                f"{'; '.join(map(str, reasons.values()))}; use auto or torch"
            )
        backend: Any = "torch" if "torch" in able and flex.is_plain(layer) else able[0]
        layer.kernel = kernels[backend]
        chosen.append(backend)
    return chosen


# Imported by name: flex is as slow to import as the compiler, and the code of a run is all that its import statements
# lead to, among which every family would stand.
def _kernels(name: str) -> Any:
    return import_module(f"{__package__}.{name}")


def _refusal(backend: str, layer: HeadedAttention, precision: str) -> str | None:
    if backend == "torch":
        return None
    if backend == "flex":
        if getattr(layer, "dropout", 0.0) > 0:
            return f"attention.dropout ({layer.dropout:g}) drops weights, which it never forms"
        if precision == "fp64":
            return "its kernel has no float64"
        flex = _kernels("flex")
        narrow = min(layer.head_dim, layer.value_dim) < flex.NARROWEST
        return flex.flex_refusal(layer) or (
            f"heads narrower than {flex.NARROWEST} are too small for it" if narrow else None
        )
    if "16" not in precision:
        return f"its kernels multiply in 16 bits, and trainer.precision is {precision}"
    reason: str | None = _kernels("linear_kernels").fla_refusal(layer)
    return reason
