"""Sparse by contents, block by block: each query looks at whole blocks of keys that match it on average."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.attention.heads import Heads, per_query_head
from attnlab.attention.mask import Causal
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.errors import UsageError
from attnlab.options import Count, option


def own_block(q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], block: int) -> Bool[Tensor, "t s"]:
    """Which keys stand in the block of each query; blocks are cut by absolute position."""
    return q_pos[:, None] // block == k_pos[None, :] // block


def best(rating: Float[Tensor, "b h t n"], allowed: Bool[Tensor, "*b t n"], topk: int) -> Bool[Tensor, "b h t n"]:
    """Which of the allowed items are among the `topk` of highest rating; of equal ones the earliest win.

    Ratings are compared without their last digits: what is equal but for rounding errors, such as keys of a repeated
    token, must tie, for those errors differ between a whole sequence and single steps. Float32 is compared to 16 of its
    24 bits, so that ratings which differ by a part in 30,000 are told apart.
    """
    rating = rating.detach()
    coarse = (
        rating.float()
        if rating.dtype == torch.float64
        else (rating.float().view(torch.int32) & -256).view(torch.float32)
    )
    order = coarse.masked_fill(~allowed, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order[..., :topk], True) & allowed


def best_blocks(
    affinity: Float[Tensor, "b h t n"], q_pos: Int[Tensor, " t"], block: int, topk: int
) -> Bool[Tensor, "b h t n"]:
    """Which of n blocks are among the `topk` of highest affinity that end before the query's own."""
    past = torch.arange(affinity.size(-1), device=q_pos.device) < q_pos[:, None] // block
    return best(affinity, past, topk)


def over_tokens(blocks: Bool[Tensor, "b h t n"], block: int, length: int) -> Bool[Tensor, "b h t s"]:
    """From whole blocks to their tokens; those after the last whole block are left out."""
    tokens = blocks.repeat_interleave(block, dim=-1)
    return F.pad(tokens, (0, length - tokens.size(-1)))


class BlockTopKAttention(MultiHeadAttention):
    """Each query reads its own block and the few past blocks whose average key matches it best.

    Rule: A_i = softmax over the own block and the topk blocks B of highest q_i . mean(k_j, j in B). Keys are cut into
    blocks of `block` tokens by absolute position; those ranked end before the query's own, and of its own it reads what
    is not later. Scores are q_i . k_j / sqrt(d). Each query head chooses for itself; of equal blocks the earliest wins;
    no gradient flows through the choice.

    Source: MoBA, arXiv 2502.13189. Where we differ: the own block does not count among the `topk`; ranking leaves out
    the last digits of these products, so that blocks which differ by rounding errors tie; the whole map is formed and
    the rest of it masked, so that a query costs what it costs in full attention. In bfloat16 a near tie may fall
    otherwise than in float32, which is a jump in the output.
    """

    block: Count = option(default=16, short=2, doc="Tokens of a block.")
    topk: Count = option(default=3, short=2, doc="Past blocks that a query reads, beside its own.")

    fusable = False

    def setup(self) -> None:
        super().setup()
        if type(self.mask) is not Causal:
            raise UsageError(f"attention/mask ({type(self.mask).__name__}) must be causal: blocks are chosen from all")

    @torch.no_grad()
    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "b h t s"]:
        work = torch.promote_types(heads.q.dtype, torch.float32)
        whole = heads.k[:, :, : heads.k.size(2) // self.block * self.block].to(work)
        means = per_query_head(whole.unflatten(2, (-1, self.block)).mean(dim=3), self.n_heads)
        chosen = best_blocks(heads.q.to(work) @ means.mT, q_pos, self.block, self.topk)
        return over_tokens(chosen, self.block, k_pos.numel()) | own_block(q_pos, k_pos, self.block)
