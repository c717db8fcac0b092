"""Queries, keys and values as sums of products, a factor over heads times a factor over width."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads
from attnlab.attention.output import GatedOutput
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError
from attnlab.options import Count, option


class Product(nn.Module):
    """Makes a matrix of heads by width out of few numbers per token.

    Rule: y = 1/R * sum_r a_r b_r^T, a = W_a x, b = W_b x. Source: arXiv 2501.06425.
    """

    def __init__(self, d_model: int, *, n_heads: int, width: int, rank: int) -> None:
        super().__init__()
        self.n_heads, self.width, self.rank = n_heads, width, rank
        self.to_a = nn.Linear(d_model, rank * n_heads, bias=False)
        self.to_b = nn.Linear(d_model, rank * width, bias=False)

    @property
    def size(self) -> int:
        """Numbers per token that the two factors hold."""
        return self.rank * (self.n_heads + self.width)

    def forward(self, x: Float[Tensor, "b t c"]) -> tuple[Float[Tensor, "b r t h"], Float[Tensor, "b r t d"]]:
        a, b = self.to_a(x).unflatten(-1, (self.rank, -1)), self.to_b(x).unflatten(-1, (self.rank, -1))
        return a.transpose(1, 2), b.transpose(1, 2)

    def product(self, a: Float[Tensor, "b r t h"], b: Float[Tensor, "b r t d"]) -> Float[Tensor, "b h t d"]:
        """The sum over the rank of head factor times width factor."""
        return (a.permute(0, 2, 3, 1).to(b.dtype) @ b.transpose(1, 2)).transpose(1, 2) / self.rank


class Factors(NamedTuple):
    """What keys and values are products of: a factor over heads, a factor over width."""

    k_a: Float[Tensor, "b r t h"]
    k_b: Float[Tensor, "b r t d"]
    v_a: Float[Tensor, "b r t h"]
    v_b: Float[Tensor, "b r t d"]


class TensorProductAttention(GatedOutput, SoftmaxAttention):
    """Writes the queries, keys and values of all heads as sums of few products, of which decoding keeps the factors.

    Rule: k = 1/R_k A_k(x)^T rotate(B_k(x)), v = 1/R_v A_v(x)^T B_v(x), q as k. A is R by heads and B is R by width.
    Turning B turns every head's key. A token costs (R_k + R_v) (h + d) cached numbers instead of 2 h d.

    Source: arXiv 2501.06425.
    """

    documents = True
    withdrawn = {"n_kv_heads"}
    q_rank: Count = option(default=6, doc="Products that the queries are a sum of.")
    k_rank: Count = option(default=2, doc="Products that the keys are a sum of.")
    v_rank: Count = option(default=2, doc="Products that the values are a sum of.")

    def setup(self) -> None:
        super().setup()
        for mod in self.score_mods:
            if type(mod).prepare is not Score.prepare or mod.cached_extras:
                raise UsageError(
                    f"attention/score ({type(mod).__name__}) must not change or extend keys: tensor product attention "
                    "keeps only their factors; remove it"
                )
        self.q = Product(self.d_model, n_heads=self.n_heads, width=self.head_dim, rank=self.q_rank)
        self.k = Product(self.d_model, n_heads=self.n_heads, width=self.head_dim, rank=self.k_rank)
        self.v = Product(self.d_model, n_heads=self.n_heads, width=self.value_dim, rank=self.v_rank)
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        (q_a, q_b), (k_a, k_b), (v_a, v_b) = self.q(x), self.k(x), self.v(x)
        q_b, k_b = self.position.rotate(q_b, start), self.position.rotate_keys(k_b, start)
        q, k, v = self.q.product(q_a, q_b), self.k.product(k_a, k_b), self.v.product(v_a, v_b)
        return Heads(q, k, v, gate=self.gate.project(x), own=Factors(k_a, k_b, v_a, v_b))

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        """Room for the factors alone: those of the keys where keys would stand, those of the values likewise."""
        cache = Cache.empty(
            self.mask, batch=batch, max_len=max_len, heads=1, d=self.k.size, v=self.v.size, like=self.anchor
        )
        return SoftmaxState(cache, None)

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        own: Factors = heads.own
        return state.cache.append(as_row(own.k_a, own.k_b), as_row(own.v_a, own.v_b), self.mask)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        k = self.k.product(*from_row(visible_kv.k.to(heads.q.dtype), self.k))
        v = self.v.product(*from_row(visible_kv.v.to(heads.v.dtype), self.v))
        return heads._replace(k=k, v=v)


def as_row(a: Float[Tensor, "b r n h"], b: Float[Tensor, "b r n d"]) -> Float[Tensor, "b 1 n e"]:
    """Both factors of each token in one row."""
    return torch.cat([a.to(b.dtype), b], dim=-1).transpose(1, 2).flatten(2)[:, None]


def from_row(
    row: Float[Tensor, "b 1 n e"], made_by: Product
) -> tuple[Float[Tensor, "b r n h"], Float[Tensor, "b r n d"]]:
    """The two factors that `as_row` put in one row."""
    a, b = row[:, 0].unflatten(-1, (made_by.rank, -1)).transpose(1, 2).split([made_by.n_heads, made_by.width], dim=-1)
    return a, b
