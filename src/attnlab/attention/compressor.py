"""One vector of each block of tokens."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.norm import RMSNorm
from attnlab.attention.normalizer import SharpSoftmax
from attnlab.attention.published import ALIKE, Starts


class Compressor(nn.Module):
    """One vector of each block of tokens: rms(sum_j softmax_j(z_j + b_j) * c_j), channel by channel.

    With `overlap` a token has two contents and logits: the second serve its own block, the first the next one.
    """

    published: ClassVar[Starts] = {"bias": ALIKE}

    def __init__(self, d_model: int, width: int, block: int, *, overlap: bool = False) -> None:
        super().__init__()
        self.block, self.overlap, channels = block, overlap, width * (1 + overlap)
        self.to_content = nn.Linear(d_model, channels, bias=False)
        self.to_logit = nn.Linear(d_model, channels, bias=False)
        self.bias = nn.Parameter(torch.zeros(block, channels))
        self.norm = RMSNorm(width)
        self.width, self.row = width, 2 * channels

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t e"]:
        return torch.cat([F.linear(x, w.weight.to(x.dtype)) for w in (self.to_content, self.to_logit)], dim=-1)

    def pool(self, rows: Float[Tensor, "b t e"], first: int) -> Float[Tensor, "b n w"]:
        """The blocks from number `first` on; with `overlap` the rows begin with those of the block before it."""
        count = rows.size(1) // self.block
        if count == self.overlap:
            return rows.new_zeros(rows.size(0), 0, self.width)
        work = torch.promote_types(rows.dtype, torch.float32)
        content, logit = rows.to(work).unflatten(1, (count, self.block)).chunk(2, dim=-1)
        logit = logit + self.bias.to(work)
        if self.overlap:
            (next_content, content), (next_logit, logit) = content.chunk(2, dim=-1), logit.chunk(2, dim=-1)
            missing = torch.arange(first, first + count - 1, device=rows.device)[:, None, None] == 0
            content = torch.cat([next_content[:, :-1], content[:, 1:]], dim=2)
            logit = torch.cat([next_logit[:, :-1].masked_fill(missing, -torch.inf), logit[:, 1:]], dim=2)
        weights: Tensor = SharpSoftmax.apply(logit.mT)  # (b, n, w, m)
        return self.norm((weights * content.mT).sum(dim=-1))
