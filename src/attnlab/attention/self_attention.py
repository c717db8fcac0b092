"""One head with trainable queries, keys and values: the chapter's second and third examples."""

from jaxtyping import Float
from torch import Tensor

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.mask import Causal, Full
from attnlab.attention.projection import QKV
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import option


class SelfAttention(SoftmaxAttention):
    """Single-head self-attention with learned W_q, W_k and W_v.

    Rule: y = softmax(Q K^T / sqrt(d)) V. No output projection, so the head is as wide as the output. `causal` False
    lets a token see later ones, as the chapter does at first; a language model needs True. `dropout` drops weights
    while training.

    Source: S. Raschka, "Build a Large Language Model (From Scratch)", sections 3.4 and 3.5.
    """

    documents = True
    withdrawn = {"n_heads", "n_kv_heads", "head_dim", "mask", "score", "normalizer"}
    causal: bool = option(default=True, doc="Whether a token sees no later ones.")
    qkv_bias: bool = option(default=False, doc="Whether queries, keys and values have a bias.")

    def setup(self) -> None:
        self.n_heads, self._slots["mask"] = 1, Causal if self.causal else Full
        super().setup()
        self.qkv = QKV(self, bias=self.qkv_bias)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, _ = self.qkv(x, tail, start)
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(k, start), v)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return join_heads(o)
