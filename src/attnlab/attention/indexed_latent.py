"""Latent attention that reads chosen keys: by an indexer of its own, or by that of an earlier layer."""

from abc import ABC
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.index_sharing import IndexChoice
from attnlab.attention.latent import LatentAttention
from attnlab.attention.mask import Causal
from attnlab.attention.norm import LayerNorm
from attnlab.attention.precision import full_precision
from attnlab.errors import UsageError
from attnlab.options import Count, option


class ChosenLatent(NamedTuple):
    """The rows that decoding keeps, and the keys that are read."""

    rows: Float[Tensor, "b 1 t e"]
    choice: IndexChoice


class LatentIndex(NamedTuple):
    """The rows that decoding keeps, and the indexer's queries, keys and weights."""

    rows: Float[Tensor, "b 1 t e"]
    index_q: Float[Tensor, "b j t e"]
    index_k: Float[Tensor, "b 1 s e"]
    index_w: Float[Tensor, "b t j"]


class ChosenLatentAttention(LatentAttention, ABC):
    """What layers share whose scores and keys are those of an `IndexChoice`, which `share` puts into the heads."""

    documents = False  # a choice is one of whole rows
    fusable = False

    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "b 1 t s"]:
        return heads.own.choice.keys

    def scores(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], visible: Bool[Tensor, "*b t s"]
    ) -> Float[Tensor, "b h t s"]:
        scores = super().scores(heads, q_pos, k_pos, visible)
        return scores + heads.own.choice.gradient() if torch.is_grad_enabled() else scores


class LatentIndexReaderAttention(ChosenLatentAttention):
    """Latent attention that reads the keys which an indexer in an earlier layer picked.

    Rule: A_t = softmax over the keys s that the last indexer below picked. All else is as in attention=mla.

    Source: IndexCache, arXiv 2603.12201, and the `hy_v4` of Hugging Face transformers.
    """

    documents = False

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, requires=(IndexChoice,))

    def share(self, heads: Heads, shared: Shared) -> Heads:
        return heads._replace(own=ChosenLatent(heads.own.rows, shared.read(IndexChoice)))


class IndexedLatentAttention(ChosenLatentAttention):
    """Latent attention whose indexer picks the keys that it reads, and those after it that have no indexer.

    Rule: A_t = softmax over the topk keys s of highest I_ts = sum_j w_tj relu(q^I_tj . k^I_s). There are `index_heads`
    small queries q^I = rotate(W_q c^q) of the queries' latent c^q (of the token, where there is none), with weights
    w = W_w x, and one small key k^I = rotate(norm(W_k x)) of `index_dim` numbers, norm a LayerNorm. As many of their
    coordinates rotate as of the heads. Of equal keys the earliest are read. All else is as in attention=mla.

    Source: DeepSeek-V3.2, arXiv 2512.02556, as HY-V4 has it, and IndexCache, arXiv 2603.12201. Where we differ: the
    choice has no gradient; we add I - I.detach(), I divided by sqrt(index_dim index_heads), to the scores of this layer
    and of those that read its choice, so that the indexer, and nothing below it, learns; it works in float32 and ranks
    without the last digits; the whole map is formed and the rest of it masked. In bfloat16 a near tie may fall
    otherwise than in float32, which is a jump in the output.
    """

    documents = False
    topk: Count = option(default=64, short=2, doc="Keys that a query reads.")
    index_heads: Count = option(default=4, doc="Query heads of the indexer.")
    index_dim: Count = option(default=16, doc="Width of the indexer's queries and keys.")

    def setup(self) -> None:
        super().setup()
        if type(self.mask) is not Causal:
            raise UsageError(f"attention/mask ({type(self.mask).__name__}) must be causal: keys are chosen from all")
        self.to_index_q = nn.Linear(self.q_rank or self.d_model, self.index_heads * self.index_dim, bias=False)
        self.to_index_k = nn.Linear(self.d_model, self.index_dim, bias=False)
        self.to_index_w = nn.Linear(self.d_model, self.index_heads, bias=False)
        self.index_norm = LayerNorm(self.index_dim, bias=True)
        self.index_rotary = min(self.rope_dim, self.index_dim // 2 * 2) if "rotate" in self.position.hooks else 0
        sizes = {"head_dim": self.index_rotary, "n_heads": self.index_heads, "context": self.context}
        self.index_position = self.build("position", **sizes) if self.index_rotary else None

    @property
    def row_width(self) -> int:
        return super().row_width + self.index_dim

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        with full_precision(x.device):  # a rounded rating would choose other keys
            # Detached: a gradient of something that changes no value must not reach the tokens.
            latent, x = (
                part.detach().to(torch.promote_types(x.dtype, torch.float32)) for part in (self.query_latent(x), x)
            )
            q, k, w = (
                F.linear(part, linear.weight.to(x.dtype))
                for part, linear in ((latent, self.to_index_q), (x, self.to_index_k), (x, self.to_index_w))
            )
            q, k = split_heads(q, self.index_heads), self.index_norm(k)[:, None]
            if self.index_position is not None:
                (q, plain_q), (k, plain_k) = (y.tensor_split([self.index_rotary], dim=-1) for y in (q, k))
                q = torch.cat([self.index_position.rotate(q, start), plain_q], dim=-1)
                k = torch.cat([self.index_position.rotate_keys(k, start), plain_k], dim=-1)
        rows = torch.cat([heads.own.rows, k.to(heads.own.rows.dtype)], dim=-1)
        return heads._replace(own=LatentIndex(rows, q, k, w))

    def read_rows(self, heads: Heads, rows: Float[Tensor, "b 1 s e"]) -> Heads:
        return heads._replace(own=heads.own._replace(index_k=rows[..., super().row_width :]))

    def share(self, heads: Heads, shared: Shared) -> Heads:
        _, q, k, w = heads.own
        with full_precision(q.device):
            hits = (q @ k.to(q.dtype).mT).relu()  # (b, j, t, s)
            rating = (hits * w.mT[..., None]).sum(dim=1, keepdim=True) * (self.index_dim * self.index_heads) ** -0.5
        choice = IndexChoice.of(self, heads, rating, self.topk)
        shared.publish(choice)
        return heads._replace(own=ChosenLatent(heads.own.rows, choice))
