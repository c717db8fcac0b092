"""How fast the memory of a recurrent layer fades."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Decay(nn.Module):
    """Gives the log of a_t in S_t = a_t S_{t-1} + ...; this base never forgets (a = 1)."""

    def __init__(self, *, d_model: int, n_heads: int) -> None:
        super().__init__()

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return None


class FixedDecay(Decay):
    """Each head fades at its own constant rate: a_h = 1 - 2^(-5-h). Source: RetNet, arXiv 2307.08621."""

    rate: Tensor

    def __init__(self, *, d_model: int, n_heads: int) -> None:
        super().__init__(d_model=d_model, n_heads=n_heads)
        rate = torch.tensor([math.log1p(-(2.0 ** (-5.0 - h))) for h in range(n_heads)])
        self.register_buffer("rate", rate, persistent=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return self.rate[None, :, None].expand(x.size(0), -1, x.size(1))


class ScalarDecay(Decay):
    """Each token decides how much each head forgets: log a = -exp(A) softplus(w . x + b).

    A starts at log of 1 .. 16 over the heads and b so that softplus(b) runs from 0.001 to 0.1, as in Mamba-2
    (arXiv 2405.21060), which draws them at random; here they are spaced evenly, so that a seed changes nothing.
    """

    def __init__(self, *, d_model: int, n_heads: int) -> None:
        super().__init__(d_model=d_model, n_heads=n_heads)
        self.to_decay = nn.Linear(d_model, n_heads, bias=False)
        self.log_rate = nn.Parameter(torch.linspace(1, 16, n_heads).log())
        step = torch.logspace(-3, -1, n_heads).flip(0)
        self.bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        speed = F.softplus((self.to_decay(x) + self.bias).to(torch.promote_types(x.dtype, torch.float32)))
        return (-self.log_rate.exp() * speed).transpose(1, 2)
