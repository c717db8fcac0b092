"""Attention without queries and keys: the scores are learned, or made of the query's token alone."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.controls import ValuesOnlyAttention
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.precision import full_precision
from attnlab.attention.published import Starts, uniform
from attnlab.attention.shared import Shared
from attnlab.errors import UsageError


class SynthesizerState(NamedTuple):
    """What `step` keeps: the values so far in rows allocated once, and how many they are."""

    v: Float[Tensor, "b h rows v"]
    length: int


class Synthesizer(ValuesOnlyAttention, ABC):
    """What both synthesizers share: y = W_o [softmax(R) V], with one score R_ij for each position j <= i.

    A subclass writes `synthesized`. Positions are absolute, so the layer knows `context` of them and no more. As a key
    is never looked at, nothing can be found by what it holds.

    Source: arXiv 2005.00743.
    """

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, growth="linear", limit=self.context)

    @abstractmethod
    def synthesized(self, x: Float[Tensor, "b n c"], start: int) -> Float[Tensor, "b h n s"]:
        """Scores of the tokens at positions start .. start + n for all s = start + n positions; later ones are cut."""

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        assert isinstance(start, int)  # documents in a row are run alone
        n = x.size(1)
        if start + n > self.context:
            raise UsageError(
                f"a synthesizer knows {self.context} positions (model.context), not {start + n}; "
                "use another attention= for longer texts"
            )
        q_pos = torch.arange(start, start + n, device=x.device)
        later = torch.arange(start + n, device=x.device) > q_pos[:, None]
        with full_precision(x.device):
            work = torch.promote_types(x.dtype, torch.float32)
            rows = self.synthesized(x, start).to(work).masked_fill(later, -torch.inf).softmax(dim=-1)
        return super().project(x)._replace(q=rows)  # the weights stand where queries do; there are no keys

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        return heads.q.to(heads.v.dtype) @ heads.v

    def init_state(self, batch: int, max_len: int) -> SynthesizerState:
        return SynthesizerState(self.anchor.new_zeros(batch, self.n_heads, max_len, self.value_dim), 0)

    def step(
        self, x: Float[Tensor, "b n c"], state: SynthesizerState, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], SynthesizerState]:
        heads, length = self.project(x, state.length), state.length + x.size(1)
        if length > state.v.size(2):
            raise UsageError(f"the decode state has room for max_len={state.v.size(2)} tokens, not {length}")
        state.v[:, :, state.length : length] = heads.v
        o = self.mix(heads._replace(v=state.v[:, :, :length].to(heads.v.dtype)))
        return self.merge(o, heads), state._replace(length=length)

    def pairs(self, seq_len: int) -> int | None:
        return seq_len * (seq_len + 1) // 2


class DenseSynthesizer(Synthesizer):
    """Each token says by itself how much it wants of every position, without looking at what stands there.

    Rule: R_ij = (W_2 gelu(W_1 x_i + b))_j per head, W_2 with one row per position.

    Source: arXiv 2005.00743 (Dense). Where we differ: there it is a ReLU; a GELU leaves no unit without a gradient.
    """

    def setup(self) -> None:
        super().setup()
        self.to_hidden = nn.Linear(self.d_model, self.n_heads * self.head_dim)
        self.to_scores = nn.ModuleList(nn.Linear(self.head_dim, self.context, bias=False) for _ in range(self.n_heads))

    def synthesized(self, x: Float[Tensor, "b n c"], start: int) -> Float[Tensor, "b h n s"]:
        hidden = split_heads(F.gelu(self.to_hidden(x)), self.n_heads)
        rows = torch.stack([p.weight[: start + x.size(1)] for p in self.to_scores])  # type: ignore[index]
        return hidden @ rows.mT


class RandomSynthesizer(Synthesizer):
    """One learned table says how much each position takes of each earlier one, whatever the tokens are.

    Rule: R_ij = table[i, j] per head, trained. The first row is left out, as a token alone gets all the weight anyway.

    Source: arXiv 2005.00743 (Random). Where we differ: the table starts at 0, which is `uniform`, rather than at random
    numbers, by Glorot's rule for a table of context x heads x context.
    """

    @property
    def published(self) -> Starts:
        edge = (6 / (self.context * (self.n_heads + self.context))) ** 0.5
        return {"table": uniform(-edge, edge)}

    def setup(self) -> None:
        super().setup()
        context = self.context
        # Rows 1, 2, ... of the lower triangle one after the other: entries above it would never be trained.
        self.table = nn.Parameter(torch.zeros(self.n_heads, context * (context + 1) // 2 - 1))

    def synthesized(self, x: Float[Tensor, "b n c"], start: int) -> Float[Tensor, "b h n s"]:
        n = x.size(1)
        i, j = torch.arange(start, start + n, device=x.device)[:, None], torch.arange(start + n, device=x.device)
        entry = i * (i + 1) // 2 + torch.minimum(i, j) - 1  # later positions read any entry, as they are cut
        table = F.pad(self.table, (1, 0))  # the first row's only score
        return table[:, entry + 1].expand(x.size(0), -1, -1, -1)
