"""Self-attention without trainable weights: the chapter's first example."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.mask import Causal, Full
from attnlab.attention.score import Unscaled
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import option


class SimpleAttention(SoftmaxAttention):
    """Every token averages the tokens that are like it; nothing is learned.

    Rule: y_i = sum_j softmax_j(x_i . x_j) x_j. One head with q = k = v = x, unscaled, without an output projection.
    `causal` False is the chapter's example, in which a token also sees later ones; a language model needs True.

    Source: S. Raschka, "Build a Large Language Model (From Scratch)", section 3.3.
    """

    documents = True
    withdrawn = {"d_out", "n_heads", "n_kv_heads", "head_dim", "mask", "score", "normalizer", "dropout"}
    causal: bool = option(default=True, doc="Whether a token sees no later ones.")

    def setup(self) -> None:
        self.n_heads, self._slots["mask"] = 1, Causal if self.causal else Full
        self._slots["score"] = {"unscaled": Unscaled}
        super().setup()
        self.traits = replace(self.traits, can_recall=False)  # there is nothing to learn where to look with

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        alone = x[:, None]
        return Heads(self.position.rotate(alone, start), self.position.rotate_keys(alone, start), alone)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return join_heads(o)
