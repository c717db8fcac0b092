"""Keys that say, in part, what the token before them was."""

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.documents import Documents, Start
from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.options import Fraction, OptionError, option


class KeyOffsetAttention(MultiHeadAttention):
    """Takes the last coordinates of each key from the token before it, so that one layer finds what came after a token.

    Rule: k_t = [k_t[: d - m]; k_{t-1}[d - m :]], m = fraction * d. A query that looks for its own token in those
    coordinates finds the places behind its earlier occurrences, whose values are what came next: induction, for which
    plain attention needs a layer before. The first token of a document keeps its own. Keys are moved when positions
    have rotated them; made for position=rope_partial, which leaves the last half of each head as it is.

    Source: K. Jordan and others, "modded-nanogpt" (2025), record 49, partial key offset. Where we differ: there its
    long windows alone have it, and of the layers those that are paired do not.
    """

    documents = True
    withdrawn = {"conv", "conv_kind"}
    fraction: Fraction = option(default=0.5, doc="Share of a key's coordinates that are the token's before.")

    def setup(self) -> None:
        super().setup()
        self.moved = int(self.fraction * self.key_dim + 1e-9)
        if not self.moved:
            raise OptionError(
                "fraction", self.fraction, f"must move at least one of a key's {self.key_dim} coordinates"
            )

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start)
        stay, move = heads.k.split([self.key_dim - self.moved, self.moved], dim=-1)
        if not x.size(1):
            return heads._replace(tail=tail)
        first = move[:, :, :1] if tail is None or start == 0 else tail.to(move.dtype)
        before = torch.cat([first, move[:, :, :-1]], dim=2)
        if isinstance(start, Documents):
            before = move.where(start.starts[:, None, :, None], before)
        return heads._replace(k=torch.cat([stay, before], dim=-1), tail=move[:, :, -1:].clone())

    def empty_tail(self, batch: int) -> Tensor:
        return self.anchor.new_zeros(batch, self.n_kv_heads, 1, self.moved)
