"""A whole layer, worked out: each head is a moving average of the values, and learns how slowly it moves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import Heads, join_heads, split_heads
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits


class MovingAverage(StateAttention):
    """Each head keeps one vector, an average of the values in which old ones decay: memory without any lookup.

    Rule: m_i = a_h m_{i-1} + (1 - a_h) v_i, o_i = m_i, with a_h = sigmoid(r_h). So A_ij is (1 - a_h) a_h^(i-j).

    Source: exponential moving averages as in MEGA, arXiv 2209.10655, here without its other parts.
    """

    # Weights are positive and sum to less than 1, and what decoding keeps does not grow. Nothing is asked of a token,
    # so a task of recall is beyond it; the recursion alone knows how far away a token is, and needs no position.
    traits = Traits("sub_probability", "constant", can_recall=False, uses_position=False)
    withdrawn = {"n_kv_heads", "value_dim", "position"}
    hooks = frozenset[str]()

    def setup(self) -> None:
        super().setup()
        self.to_v = nn.Linear(self.d_model, self.n_heads * self.value_dim, bias=False)
        self.rate = nn.Parameter(torch.linspace(0, 3, self.n_heads))  # memories of 2 to 20 tokens
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        """The values; there are no queries and keys, and they stand in for both."""
        v = split_heads(self.to_v(x), self.n_heads)
        return Heads(v, v, v)

    def empty(self, batch: int, value_dim: int) -> Float[Tensor, "b h 1 v"]:
        """Before the first token the average is 0."""
        return self.zeros(batch, self.n_heads, 1, value_dim)

    def scan(
        self, heads: Heads, memory: Float[Tensor, "b h 1 v"], start: int
    ) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h 1 v"]]:
        """The averages after each of these tokens, and the last one: training, maps and decoding come through here."""
        v = heads.v.to(memory.dtype)  # float32 at least: sums over many tokens need it
        averages, keep = [v[:, :, :0]], self.rate.to(v.dtype).sigmoid()[:, None, None]
        for i in range(v.size(2)):
            memory = keep * memory + (1 - keep) * v[:, :, i : i + 1]
            averages.append(memory)
        return torch.cat(averages, dim=2).to(heads.v.dtype), memory

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        """Join the heads, and lead back to the model."""
        return self.to_out(join_heads(o))

    def formula(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t o"]:
        """The rule once more, by its weights instead of its recursion: what the law `stated_formula` compares."""
        i = torch.arange(x.size(1))
        a = self.rate.sigmoid()[:, None, None]
        weights = ((1 - a) * a ** (i[:, None] - i[None, :]).clamp(min=0)).tril()
        return self.to_out(join_heads(weights @ split_heads(self.to_v(x), self.n_heads)))
