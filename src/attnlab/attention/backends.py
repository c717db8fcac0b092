"""What computes a layer's `mix` in training: torch's operations, FlexAttention, or flash-linear-attention's kernels.

A backend changes no rule: a law holds each to the layer's own code. Maps, decoding and the eager path stay with torch.
"""

from importlib.util import find_spec
from typing import Literal

from torch import nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.mask import Causal
from attnlab.attention.softmax import SoftmaxAttention
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
    from attnlab.attention.flex import FlexMix  # as slow to import as the compiler, which only it needs
    from attnlab.attention.linear_kernels import fla_mix

    flex, chosen = FlexMix(), list[Backend]()
    for layer in layers:
        reasons = {backend: _refusal(backend, layer, precision) for backend in setting.split("+")}
        able = [backend for backend, reason in reasons.items() if reason is None]
        if not able:
            raise UsageError(
                f"{KEY} ({setting}) cannot serve layer {layer.layer} ({type(layer).__name__}): "
                f"{'; '.join(map(str, reasons.values()))}; use auto or torch"
            )
        backend: Backend = "torch" if "torch" in able and _is_plain(layer) else able[0]  # type: ignore[assignment]
        layer.kernel = {"torch": None, "flex": flex, "fla": fla_mix}[backend]
        chosen.append(backend)
    return chosen


def _is_plain(layer: HeadedAttention) -> bool:
    """Whether torch's fused kernel computes a layer as it is, without a mask that is written out."""
    return isinstance(layer, SoftmaxAttention) and (
        layer.fused and type(layer.mask) is Causal and "bias" not in layer.position.hooks
    )


def _refusal(backend: str, layer: HeadedAttention, precision: str) -> str | None:
    from attnlab.attention.flex import NARROWEST, flex_refusal
    from attnlab.attention.linear_kernels import fla_refusal

    if backend == "torch":
        return None
    if backend == "flex":
        if getattr(layer, "dropout", 0.0) > 0:
            return f"attention.dropout ({layer.dropout:g}) drops weights, which it never forms"
        if precision == "fp64":
            return "its kernel has no float64"
        narrow = min(layer.head_dim, layer.value_dim) < NARROWEST
        return flex_refusal(layer) or (f"heads narrower than {NARROWEST} are too small for it" if narrow else None)
    if "16" not in precision:
        return f"its kernels multiply in 16 bits, and trainer.precision is {precision}"
    return fla_refusal(layer)
