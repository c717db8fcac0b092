"""A short causal convolution over queries, keys and values: each token also sees the few before it."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Documents, Start
from attnlab.attention.precision import full_precision
from attnlab.attention.published import Starts, uniform
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import OptionError


class ShortConv(nn.Module):
    """Mixes each channel with its last `width` values, then SiLU: silu(sum_i w_i x_{t-i} + b), zeros before the start.

    Source: Mamba (arXiv 2312.00752) and the linear-attention models after it. By itself it solves some recall
    tasks, so an ablation holds it fixed or varies it for every variant.
    """

    @property
    def published(self) -> Starts:
        edge = self.width**-0.5
        return {"bias": uniform(-edge, edge)}  # torch's convolutions

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        if width < 2:
            problem = "must be 0 (none) or at least 2: a width of 1 sees only the token itself"
            raise OptionError("conv", width, problem)
        self.width = width
        self.weight = nn.Parameter(torch.empty(channels, width))
        nn.init.uniform_(self.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def empty(self, batch: int) -> Float[Tensor, "b w channels"]:
        """What is remembered before the first token."""
        return self.weight.new_zeros(batch, self.width - 1, self.weight.size(0))

    def forward(
        self, y: Float[Tensor, "b t channels"], tail: Float[Tensor, "b w channels"] | None, start: Start = 0
    ) -> tuple[Float[Tensor, "b t channels"], Float[Tensor, "b w channels"]]:
        """Convolve `y` after the remembered `tail`, or each document after none; returns that and the next tail."""
        past = F.pad(y, (0, 0, self.width - 1, 0)) if tail is None else torch.cat([tail.to(y.dtype), y], dim=1)
        work = torch.promote_types(y.dtype, torch.float32)  # a sum and its SiLU, rounded once, where they are used
        if not y.size(1):
            return y.to(work), past.clone()
        # A decoded token: the sum itself, where a convolution begins slowly; on the meta device its FLOPs are counted.
        if y.size(1) == 1 and tail is not None and not y.is_meta:
            with full_precision(y.device):
                mixed = (past.to(work) * self.weight.to(work).mT).sum(dim=1, keepdim=True)
            return self.finished(mixed if self.bias is None else mixed + self.bias.to(work), y), past[:, 1:].clone()
        with full_precision(y.device):
            lines, weight = past.to(work).transpose(1, 2), self.weight.to(work)[:, None]
            bias = None if self.bias is None else self.bias.to(work)
            mixed = F.conv1d(lines, weight, bias, groups=weight.size(0)).transpose(1, 2)
            if isinstance(start, Documents):
                mixed = self._begun_again(mixed, y.to(work), start)
        # Channels side by side in memory again, as everything after it expects. A copy, so that a decode state does not
        # keep a whole prompt alive through a view of its end.
        return self.finished(mixed.contiguous(), y), past[:, past.size(1) - (self.width - 1) :].clone()

    def finished(
        self, mixed: Float[Tensor, "b t channels"], y: Float[Tensor, "b t channels"]
    ) -> Float[Tensor, "b t channels"]:
        """What is handed on of the convolution of y."""
        return F.silu(mixed)

    @uncompiled  # how many tokens it is for differs from pass to pass
    def _begun_again(
        self, mixed: Float[Tensor, "b t channels"], y: Float[Tensor, "b t channels"], documents: Documents
    ) -> Float[Tensor, "b t channels"]:
        """`mixed` with the first tokens of each document anew, which saw the document before."""
        token = documents.first_tokens(self.width - 1)
        lag = torch.arange(self.width - 1, -1, -1, device=y.device)  # of each weight
        outside = documents.positions.flatten()[token, None] < lag
        near = (
            y.flatten(0, 1).index_select(0, (token[:, None] - lag).clamp(min=0).flatten()).unflatten(0, outside.shape)
        )
        anew = (near.masked_fill(outside[..., None], 0.0) * self.weight.to(y.dtype).mT).sum(dim=1)
        anew = anew if self.bias is None else anew + self.bias.to(y.dtype)
        # Into the copy that `reshape` makes: a convolution leaves each channel's tokens side by side.
        return mixed.reshape(-1, mixed.size(-1)).index_copy_(0, token, anew).view_as(y)


class Canon(ShortConv):
    """Adds to each channel a mixture of its last `width` values: y_t + sum_i w_i y_{t-i}, without an activation.

    Source: Canon layers, SSRN 5240330 and arXiv 2512.17351, with a width of 4.
    """

    def finished(
        self, mixed: Float[Tensor, "b t channels"], y: Float[Tensor, "b t channels"]
    ) -> Float[Tensor, "b t channels"]:
        return y.to(mixed.dtype) + mixed
