"""DeltaFormer: softmax attention over values that were corrected by what attention would have found before."""

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.normalizer import SharpSoftmax
from attnlab.attention.precision import full_precision
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.softmax import SoftmaxState
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Count, option


class DeltaFormerAttention(MultiHeadAttention):
    """Keeps of each value what attention does not find already: the delta rule, with a softmax in place of products.

    Rule: u_t = v_t - b_t sum_{s<t} A_ts u_s, o_t = sum_{s<=t} B_ts u_s, A_t and B_t = softmax(q_t . k_s / sqrt(d)). A
    is over the tokens before, B over these and the token itself; b = sigmoid(W x + c). Decoding keeps keys and
    corrected values. Training corrects a block of tokens at once, by a triangular solve, and attends by the kernel.

    Source: arXiv 2505.19488, and the operator of flash-linear-attention. c starts at 0, so b near 1/2. Where we differ:
    that library's layer asks A with keys, softmax(k_t . k_s / sqrt(d)), and its b is W x + c itself, without bounds.
    """

    published: ClassVar[Starts] = {"beta_bias": ALIKE}
    withdrawn = {"mask", "score", "normalizer", "n_kv_heads"}
    hooks = frozenset({"rotate"})
    block: Count = option(default=64, doc="Tokens that are corrected by one solve; changes speed, not results.")

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, map_kind="signed")
        self.to_beta = nn.Linear(self.d_model, self.n_heads, bias=False)
        self.beta_bias = nn.Parameter(torch.zeros(self.n_heads))

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        work = torch.promote_types(x.dtype, torch.float32)
        beta = (self.to_beta(x) + self.beta_bias).to(work).sigmoid().mT
        return super().project(x, start, tail)._replace(beta=beta)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        return super().mix(heads._replace(v=self.corrected(heads, heads.k, heads.v[:, :, :0])))

    @uncompiled  # as in scan.py: a loop over blocks
    def corrected(
        self, heads: Heads, k: Float[Tensor, "b h s d"], before: Float[Tensor, "b h r v"]
    ) -> Float[Tensor, "b h t v"]:
        """u of the tokens of `heads`, of which the last of the keys k are theirs, after those of the tokens before."""
        assert heads.beta is not None
        work, first = torch.promote_types(heads.v.dtype, torch.float32), before.size(2)
        with full_precision(heads.v.device):
            q, k, u = heads.q.to(work), k.to(work), before.to(work)
            parts = (x.split(self.block, dim=2) for x in (q, heads.v.to(work), heads.beta.to(work)[..., None]))
            for q_here, v_here, beta in zip(*parts, strict=True):
                done, n = u.size(2), q_here.size(2)
                scores = (q_here @ k[:, :, : done + n].mT) * self.scale
                hidden = torch.ones(n, done + n, dtype=torch.bool, device=q.device).triu(done)
                scores = scores.masked_fill(hidden, torch.finfo(work).min)  # the first token sees none
                weights = beta * SharpSoftmax.apply(scores).masked_fill(hidden, 0.0)
                far, near = weights.split([done, n], dim=-1)
                rest = v_here - far @ u
                new = torch.linalg.solve_triangular(near, rest, upper=False, unitriangular=True)
                u = torch.cat([u, new], dim=2)
            return u[:, :, first:].to(heads.v.dtype)

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        cache = state.cache
        k, u = (x[:, :, : cache.length] for x in (cache.k, cache.v))
        if heads.v.size(2):
            keys = torch.cat([k.to(heads.k.dtype), heads.k], dim=2)
            heads = heads._replace(v=self.corrected(heads, keys, u.to(heads.v.dtype)))
        return super().update_cache(heads, state, shared)
