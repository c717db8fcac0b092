"""How RWKV-7's author starts it: by the number of the layer and of the channel."""

import math

import torch
from torch import Tensor, nn

from attnlab.attention.published import ALIKE, Shape, SourceStart, exactly, uniform

SHARES = {"r": 0.2, "k": 0.7, "v": 0.7, "w": 0.9, "a": 0.9, "g": 0.2}  # the powers of c / C at the first layer


def rwkv7_starts(d_model: int, n_heads: int, d: int, layer: int, n_layers: int) -> dict[str, SourceStart]:
    """What each parameter of an RWKV7Attention starts with, arXiv 2503.14456 in the code of BlinkDL/RWKV-LM (x070)."""
    width, deep = n_heads * d, layer / max(1, n_layers - 1)
    channel = torch.arange(width)
    line = channel / max(1, width - 1) - 0.5
    middle = max(0.5, (d - 1) / 2)
    zigzag = (channel % d - (d - 1) / 2) / middle
    zigzag = zigzag * zigzag.abs()
    decay_bias = -5.5 + 6 * (line + 0.5) ** (1 + deep**0.3) + 2.5 * zigzag
    before = {
        f"shares.{name}": exactly(1 - (torch.arange(d_model) / d_model) ** (power * (1 - layer / n_layers)), "by layer")
        for name, power in SHARES.items()
    }
    low_rank = {
        f"{name}.{matrix}.weight": start
        for name in ("to_decay", "to_rate", "to_gate", "to_first")
        for matrix, start in (("to_rank", exactly(0.0)), ("to_all", SourceStart("orthogonal 0.1", _orthogonal)))
    }
    edge = d_model**-0.5
    return (
        before
        | low_rank
        | {
            "to_decay.bias": exactly(decay_bias, "by layer"),
            "to_rate.bias": exactly(-0.19 + 0.3 * zigzag + 0.4 * line, "-0.19 by channel"),
            "to_first.bias": ALIKE,
            "xi": exactly((0.71 - 0.1 * line).view(n_heads, 1, d), "0.71 by channel"),
            "alpha": exactly(1.02),
            "rho": exactly(-0.04),
            "gain": exactly(((layer + 1) / n_layers) ** 0.7),
            "offset": ALIKE,
            "to_r.weight": uniform(-0.5 * edge, 0.5 * edge),
            "to_k.weight": uniform(-0.05 * edge, 0.05 * edge),
            "to_v.weight": uniform(-0.5 * edge, 0.5 * edge),
            "to_out.weight": exactly(0.0),
        }
    )


def _orthogonal(shape: Shape, generator: torch.Generator) -> Tensor:
    """A tenth of an orthogonal matrix, times the root of how much taller than wide the author's, its transpose, is."""
    matrix = nn.init.orthogonal_(torch.empty(shape), generator=generator)
    return 0.1 * math.sqrt(max(1.0, shape[1] / shape[0])) * matrix
