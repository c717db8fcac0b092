"""Sparse by contents, token by token: a small indexer picks the keys that attention reads."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.block_topk import best
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.mask import Causal
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.precision import full_precision
from attnlab.attention.softmax import SoftmaxState
from attnlab.errors import UsageError
from attnlab.options import Count, option


class Index(NamedTuple):
    """The indexer's queries, keys and weights."""

    index_q: Float[Tensor, "b j t e"]
    index_k: Float[Tensor, "b s e"]
    index_w: Float[Tensor, "b t j"]


class IndexedAttention(MultiHeadAttention):
    """A small indexer rates every key for every query, and attention reads only the best ones.

    Rule: A_t = softmax over the topk keys s of highest I_ts = sum_j w_tj relu(q^I_tj . k^I_s). There are `index_heads`
    small query heads q^I = W_q x with weights w = W_w x, and one small key k^I = W_k x of `index_dim` numbers per
    token. Of equal keys s <= t the earliest are read; scores are q_t . k_s / sqrt(d). All heads share the choice.

    Source: DeepSeek Sparse Attention of DeepSeek-V3.2, arXiv 2512.02556. Where we differ: the choice has no gradient,
    and they train the indexer by a divergence from the full map; we add I - I.detach() to the scores, which is zero, so
    that the indexer, and nothing below it, learns what would lower the loss if I were part of the scores of the chosen
    keys. The indexer reads the tokens rather than a latent, its key has no LayerNorm, it knows no positions, works in
    float32, and ranks by I without its last digits, so that keys that differ by rounding errors tie; the keys are those
    of multi-head attention; the whole map is formed and the rest of it masked. Decoded in bfloat16, a near tie may fall
    otherwise than in float32, which is a jump in the output.

    Decoding keeps the indexer's keys beside the others: each key head's row carries an equal share of them.
    """

    documents = True
    topk: Count = option(default=64, short=2, doc="Keys that a query reads.")
    index_heads: Count = option(default=4, doc="Query heads of the indexer.")
    index_dim: Count = option(default=16, doc="Width of the indexer's queries and keys.")

    fusable = False

    def setup(self) -> None:
        super().setup()
        if type(self.mask) is not Causal:
            raise UsageError(f"attention/mask ({type(self.mask).__name__}) must be causal: keys are chosen from all")
        self.keep_index(self.index_dim)
        self.to_index_q = nn.Linear(self.d_model, self.index_heads * self.index_dim, bias=False)
        self.to_index_k = nn.Linear(self.d_model, self.index_dim, bias=False)
        self.to_index_w = nn.Linear(self.d_model, self.index_heads, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        with full_precision(x.device):  # a rounded rating would choose other keys
            # Detached, as in the source: a gradient of something that changes no value must not reach the tokens.
            wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
            return heads._replace(own=self.make_index(wide, start))

    def make_index(self, x: Float[Tensor, "b t c"], start: Start) -> Any:
        """What the indexer makes of the tokens; `index_k` is among it."""
        q, k, w = (
            F.linear(x, linear.weight.to(x.dtype)) for linear in (self.to_index_q, self.to_index_k, self.to_index_w)
        )
        return Index(split_heads(q, self.index_heads), k, w)

    def index(self, heads: Heads) -> Float[Tensor, "*b t s"]:
        """How the indexer rates each key for each query, I_ts; in float32 at least."""
        q, k, w = heads.own
        with full_precision(q.device):
            hits = (q @ k[:, None].to(q.dtype).mT).relu()  # (b, j, t, s)
            return (hits * w.mT[..., None]).sum(dim=1, keepdim=True)

    @torch.no_grad()
    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "*b t s"]:
        return best(self.index(heads), self.visible(q_pos, k_pos), self.topk)

    def scores(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], visible: Bool[Tensor, "*b t s"]
    ) -> Float[Tensor, "b h t s"]:
        scores = super().scores(heads, q_pos, k_pos, visible)
        if not torch.is_grad_enabled():  # what is added is zero: it only leads a gradient to the indexer
            return scores
        rated = self.index(heads)
        return scores + (rated - rated.detach())

    def keep_index(self, width: int) -> None:
        """Keep an index key of this width in the rows of the keys, a share of it in each head's, rounded up."""
        self.index_width, self.index_share = width, -(-width // self.n_kv_heads)

    @property
    def key_width(self) -> int:
        return super().key_width + self.index_share

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        share = F.pad(heads.own.index_k, (0, self.index_share * self.n_kv_heads - self.index_width))
        rows = torch.cat([heads.k, split_heads(share, self.n_kv_heads).to(heads.k.dtype)], dim=-1)
        return super().update_cache(heads._replace(k=rows), state, shared)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        carried = visible_kv.k.size(-1) - self.key_dim - self.index_share
        k, share, rest = visible_kv.k.split([self.key_dim, self.index_share, carried], dim=-1)
        index_k = share.transpose(1, 2).flatten(2)[..., : self.index_width]
        heads = heads._replace(own=heads.own._replace(index_k=index_k))
        return super().read_cache(heads, visible_kv._replace(k=torch.cat([k, rest], dim=-1)))
