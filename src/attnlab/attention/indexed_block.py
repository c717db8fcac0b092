"""Sparse by contents, block by block: a small indexer picks blocks of keys for each group of query heads."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.attention.block_topk import best_blocks, over_tokens, own_block
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, per_query_head, split_heads
from attnlab.attention.indexed import IndexedAttention
from attnlab.attention.norm import RMSNorm
from attnlab.attention.precision import full_precision
from attnlab.options import Count, option


class BlockIndex(NamedTuple):
    """The indexer's queries, one for each key head, and keys."""

    index_q: Float[Tensor, "b g t e"]
    index_k: Float[Tensor, "b s e"]


class IndexedBlockAttention(IndexedAttention):
    """A small indexer rates every key for each group of query heads, which reads the blocks of the best-rated keys.

    Rule: A_i = softmax over the own block and the topk blocks B of highest max_j I_gij, j in B, I_gij = q^I_gi . k^I_j.
    Keys are cut into blocks of `block` tokens by absolute position; those ranked end before the query's own, and of its
    own it reads what is not later. Each key head g has a small query q^I_g = rotate(rms(W_g x)) of `index_dim` numbers;
    one small key k^I = rotate(rms(W x)) serves all. The query heads of a key head share its choice; of equal blocks the
    earliest is read. Scores are q . k / sqrt(d).

    Source: MiniMax Sparse Attention of MiniMax-M3, arXiv 2606.13392. Where we differ: the own block does not count
    among the `topk`; the choice has no gradient, and they train the indexer by a divergence from the full map; we add
    I - I.detach(), I divided by sqrt(index_dim), to the scores, as for attention=dsa; queries and keys have no norm
    unless attention/score has qk_norm; ranking leaves out the last digits; the whole map is formed and then masked. In
    bfloat16 a near tie may fall otherwise than in float32, which is a jump in the output.
    """

    documents = True
    withdrawn = {"index_heads"}
    block: Count = option(default=16, short=2, doc="Tokens of a block.")
    topk: Count = option(default=3, short=2, doc="Past blocks that a query reads, beside its own.")

    def setup(self) -> None:
        self.index_heads = self.n_kv_heads or self.n_heads
        super().setup()
        del self.to_index_w
        self.index_q_norm, self.index_k_norm = RMSNorm(self.index_dim), RMSNorm(self.index_dim)
        sizes = {"head_dim": self.index_dim, "n_heads": self.index_heads, "context": self.context}
        self.index_position = self.build("position", **sizes) if "rotate" in self.position.hooks else None
        self.keep_index(self.position.rotated_dim(self.index_dim))

    def make_index(self, x: Float[Tensor, "b t c"], start: Start) -> BlockIndex:
        q, k = (F.linear(x, linear.weight.to(x.dtype)) for linear in (self.to_index_q, self.to_index_k))
        q, k = self.index_q_norm(split_heads(q, self.index_heads)), self.index_k_norm(k)
        if self.index_position is not None:
            q, k = self.index_position.rotate(q, start), self.index_position.rotate_keys(k[:, None], start)[:, 0]
        return BlockIndex(q, k)

    def index(self, heads: Heads) -> Float[Tensor, "b h t s"]:
        return per_query_head(self.index_of_groups(heads), self.n_heads)

    def index_of_groups(self, heads: Heads) -> Float[Tensor, "b g t s"]:
        """How each group rates each key for each query; in float32 at least."""
        q, k = heads.own
        with full_precision(q.device):
            rating: Tensor = q @ k[:, None].to(q.dtype).mT * self.index_dim**-0.5
            return rating

    @torch.no_grad()
    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "b h t s"]:
        length = k_pos.numel()
        whole = self.index_of_groups(heads)[..., : length // self.block * self.block]
        best_keys = whole.unflatten(-1, (-1, self.block)).amax(dim=-1)
        chosen = per_query_head(best_blocks(best_keys, q_pos, self.block, self.topk), self.n_heads)
        return over_tokens(chosen, self.block, length) | own_block(q_pos, k_pos, self.block)
