"""Sparse by contents, a few layers at a time: one layer's indexer picks the keys, and the next layers read the same."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.block_topk import best
from attnlab.attention.heads import Heads
from attnlab.attention.indexed import IndexedAttention
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState


class IndexChoice(NamedTuple):
    """The keys that each query reads, and the rating by which they were picked."""

    keys: Bool[Tensor, "b 1 t s"]
    rating: Float[Tensor, "b 1 t s"]

    @classmethod
    def of(cls, layer: SoftmaxAttention, heads: Heads, rating: Float[Tensor, "b 1 t s"], topk: int) -> "IndexChoice":
        """The `topk` best keys of the latest tokens' queries, all keys so far being there."""
        pos = torch.arange(heads.k.size(2), device=heads.k.device)
        return cls(best(rating, layer.visible(pos[pos.numel() - heads.q.size(2) :], pos), topk), rating)

    def gradient(self) -> Float[Tensor, "b 1 t s"]:
        """Zero, to be added to scores: it leads a gradient to the indexer, as if the rating were part of them."""
        return self.rating - self.rating.detach()


class ChosenIndex(NamedTuple):
    """What an indexer makes of the tokens, and what it picked."""

    index_q: Float[Tensor, "b j t e"]
    index_k: Float[Tensor, "b s e"]
    index_w: Float[Tensor, "b t j"]
    choice: IndexChoice


class IndexPickerAttention(IndexedAttention):
    """An indexer picks the keys that this layer reads, and those after it that have no indexer of their own.

    Rule: A_t = softmax over the topk keys s of highest I_ts = sum_j w_tj relu(q^I_tj . k^I_s). All is as in
    attention=dsa; the choice is handed to later layers.

    Source: IndexCache, arXiv 2603.12201. Where we differ: as in attention=dsa, but that the indexer learns as if I were
    part of the scores of all layers that read its choice; there it is trained by a divergence from the mean of their
    maps, or layers are picked without training.
    """

    documents = False  # its choice is one of whole rows

    def share(self, heads: Heads, shared: Shared) -> Heads:
        q, k, w = heads.own
        choice = IndexChoice.of(self, heads, super().index(heads), self.topk)
        shared.publish(choice)
        return heads._replace(own=ChosenIndex(q, k, w, choice))

    def index(self, heads: Heads) -> Float[Tensor, "b 1 t s"]:
        return heads.own.choice.rating

    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "b 1 t s"]:
        return heads.own.choice.keys

    def step(
        self, x: Float[Tensor, "b n c"], state: SoftmaxState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SoftmaxState]:
        shared, start = Shared() if shared is None else shared, state.cache.length
        heads = self.project(x, start, state.tail)
        visible_kv, cache = self.update_cache(heads, state, shared)
        whole = self.share(self.read_cache(heads, visible_kv), shared)  # keys are picked from all
        o = self.attend(whole, torch.arange(start, start + x.size(1), device=x.device), visible_kv.pos)
        return self.merge(o, heads), SoftmaxState(cache, heads.tail)


class IndexReaderAttention(MultiHeadAttention):
    """Reads the keys that an indexer in an earlier layer picked.

    Rule: A_t = softmax over the keys s that the last indexer below picked. Scores are q_t . k_s / sqrt(d).

    Source: IndexCache, arXiv 2603.12201.
    """

    documents = False
    fusable = False

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, requires=(IndexChoice,))

    def share(self, heads: Heads, shared: Shared) -> Heads:
        return heads._replace(own=shared.read(IndexChoice))

    def content_mask(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "b 1 t s"]:
        return heads.own.keys

    def scores(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"], visible: Bool[Tensor, "*b t s"]
    ) -> Float[Tensor, "b h t s"]:
        scores = super().scores(heads, q_pos, k_pos, visible)
        return scores + heads.own.gradient() if torch.is_grad_enabled() else scores
