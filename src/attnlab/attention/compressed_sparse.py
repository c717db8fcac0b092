"""A window of single tokens, and of the summaries of blocks before it those that a small indexer picks."""

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.attention.block_topk import best
from attnlab.attention.compressed import HeavilyCompressedAttention
from attnlab.attention.compressor import Compressor
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.position import Position
from attnlab.attention.precision import full_precision
from attnlab.options import Count, option


class UncompressedIndex(NamedTuple):
    """What blocks and their keys for the indexer are made of, token by token; the indexer's queries and weights."""

    rows: Float[Tensor, "b t e"]
    index_q: Float[Tensor, "b j t e"]
    index_w: Float[Tensor, "b t j"]


class CompressedSparseAttention(HeavilyCompressedAttention):
    """Each query reads a window of tokens and the best summaries of blocks that have ended, which an indexer picks.

    Rule: o_i = R_i^-1 sum_j a_ij R_j u_j over window, sink and the topk blocks B of highest
    I_iB = sum_j w_ij relu(q^I_ij . k^I_B). All is as in attention=hca, but blocks are small and overlap: u_B pools the
    contents of its own tokens and others, made for it, of the block before. The indexer's keys k^I are pooled likewise,
    to `index_dim` numbers; its queries q^I come from the latent of the queries, its weights w from the token; queries
    and keys are rotated. Of equal blocks the earliest are read.

    Source: DeepSeek-V4, arXiv 2606.19348 (CSA). Where we differ: as in attention=hca; the choice has no gradient, and
    we add I - I.detach(), I divided by sqrt(index_dim index_heads), to the scores, as for attention=dsa, so that the
    indexer and nothing below it learns; it works in float32 and ranks without the last digits. In bfloat16 a near tie
    may fall otherwise than in float32, which is a jump in the output.
    """

    block: Count = option(default=4, short=2, doc="Tokens of a block.")
    topk: Count = option(default=8, short=1, doc="Blocks that a query reads.")
    index_heads: Count = option(default=4, doc="Query heads of the indexer.")
    index_dim: Count = option(default=16, doc="Width of the indexer's queries and keys.")

    overlap = True
    traits = replace(HeavilyCompressedAttention.traits, discontinuous=True)

    def setup(self) -> None:
        super().setup()
        self.to_index_q = nn.Linear(self.q_rank, self.index_heads * self.index_dim, bias=False)
        self.to_index_w = nn.Linear(self.d_model, self.index_heads, bias=False)
        self.index_compressor = Compressor(self.d_model, self.index_dim, self.block, overlap=True)
        sizes = {"head_dim": self.index_dim, "n_heads": self.index_heads, "context": self.context}
        self.index_position = self.build("position", **sizes)

    def compressors(self) -> list[tuple[Compressor, Position]]:
        return [*super().compressors(), (self.index_compressor, self.index_position)]

    def heads_from(self, x: Float[Tensor, "b t c"], latent: Float[Tensor, "b t r"], start: Start) -> Heads:
        heads = super().heads_from(x, latent, start)
        with full_precision(x.device):  # a rounded rating would choose other blocks
            # Detached: a gradient of something that changes no value must not reach the tokens.
            x, latent = (part.detach().to(torch.promote_types(x.dtype, torch.float32)) for part in (x, latent))
            q, w = (
                F.linear(part, linear.weight.to(part.dtype))
                for part, linear in ((latent, self.to_index_q), (x, self.to_index_w))
            )
            q = self.index_position.rotate(split_heads(q, self.index_heads), start)
            rows = torch.cat([heads.own.rows.to(x.dtype), self.index_compressor(x)], dim=-1)
        return heads._replace(own=UncompressedIndex(rows, q, w))

    def choose(
        self, heads: Heads, blocks: Float[Tensor, "b n e"], ended: Bool[Tensor, "t n"]
    ) -> tuple[Bool[Tensor, "*b t n"], Float[Tensor, "b 1 t n"] | None]:
        q, w = heads.own.index_q, heads.own.index_w
        with full_precision(q.device):
            hits = (q @ blocks[:, None, :, self.head_dim :].to(q.dtype).mT).relu()  # (b, j, t, n)
            rating = (hits * w.mT[..., None]).sum(dim=1, keepdim=True) * (self.index_dim * self.index_heads) ** -0.5
        return best(rating, ended, self.topk), rating
