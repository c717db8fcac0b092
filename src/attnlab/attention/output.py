"""The end of most layers: heads, gated or not, joined by a projection."""

from abc import ABC

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import HeadedAttention
from attnlab.attention.gate import Gate, NoGate
from attnlab.attention.heads import Heads, join_heads, per_query_head
from attnlab.options import slot


class GatedOutput(HeadedAttention, ABC):
    """y = W_o [g_1 * o_1; ...; g_h * o_h], with a slot for what makes the gates g of the token.

    A subclass ends its `setup` with `build_output`, and its heads hold what `gate.project` makes of the tokens.
    """

    gate: Gate = slot(default=NoGate, doc="What each head's output is multiplied by.")

    def build_output(self, n_heads: int, *, bias: bool = False) -> None:
        """Build the gate and the projection of so many heads."""
        self.gate = self.build("gate", d_model=self.d_model, n_heads=n_heads, value_dim=self.value_dim)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=bias)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        own = per_query_head(heads.v, self.n_heads)
        return self.to_out(join_heads(self.gate(o, heads.gate, own)))
