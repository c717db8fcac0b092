"""Several small latents per token, each for the keys and values of a group of heads."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import per_query_head, split_heads
from attnlab.attention.latent import LatentAttention
from attnlab.attention.norm import EPS, RMSNorm
from attnlab.attention.published import ALIKE, Starts
from attnlab.options import Count, OptionError, option


class GroupedLatentAttention(LatentAttention):
    """Latent attention with several latents per token, each of which serves a group of heads.

    Rule: c_g = rms(W_DKV_g x), k_h = [W_UK_h c_g; rotate(W_KR x)], v_h = W_UV_h c_g, g the group of head h. Two devices
    can hold a latent each. Decoding keeps the latents, the rotary key beside each of them. All else is as in
    attention=mla, which this is with one group.

    Source: Grouped Latent Attention, arXiv 2505.21487. Where we differ: their code gives projections a bias.
    """

    documents = True
    groups: Count = option(default=2, doc="Latents, each for an equal number of heads.")
    kv_rank: Count = option(default=None, null="d_model / 2 / groups", doc="Width of each latent of keys and values.")

    published: ClassVar[Starts] = {"gain": ALIKE}

    def setup(self) -> None:
        if self.n_heads % self.groups:
            raise OptionError("groups", self.groups, f"must divide n_heads ({self.n_heads})")
        self.kv_rank = self.kv_rank or max(1, self.d_model // 2 // self.groups)
        super().setup()
        self.to_latent = nn.Linear(self.d_model, self.groups * self.kv_rank, bias=False)
        self.norm = RMSNorm(self.kv_rank, eps=self.norm_eps or EPS, gain=False)
        self.gain = nn.Parameter(torch.ones(self.groups, 1, self.kv_rank))

    def latents(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b g t r"]:
        return self.norm(split_heads(self.to_latent(x), self.groups)) * self.gain

    def expand(self, up: nn.Linear, c: Float[Tensor, "b g t r"]) -> Float[Tensor, "b h t d"]:
        return per_query_head(c, self.n_heads) @ up.weight.unflatten(0, (self.n_heads, -1)).to(c.dtype).mT
