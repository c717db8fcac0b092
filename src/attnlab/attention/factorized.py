"""Many query heads at little cost: their queries come from one latent, and all read one key and one value head."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.output import GatedOutput
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import Count, option


class MultiMatrixFactorizationAttention(GatedOutput, SoftmaxAttention):
    """Makes the queries of all heads from one small latent; all read one key and one value per token.

    Rule: q_h = W_h W_q x, k = W_k x, v = W_v x, o_h = softmax(q_h K^T / sqrt(d)) V. The latent W_q x is as wide as a
    head. So it is multi-query attention whose W_q is a product of two matrices: heads may be many and wide, and
    decoding keeps one key and one value.

    Source: Multi-matrix Factorization Attention, arXiv 2412.19255. Where we differ: the form that makes values of keys
    (MFA-KR) is left out. Step-3 (arXiv 2507.19427) has a norm on the latent, and a wider one (`q_rank`).
    """

    documents = True
    withdrawn = {"n_kv_heads"}
    q_rank: Count = option(default=None, null="head_dim", doc="Width of the latent of queries.")

    def setup(self) -> None:
        self.n_kv_heads = 1
        super().setup()
        self.q_rank = self.q_rank or self.head_dim
        self.to_q_latent = nn.Linear(self.d_model, self.q_rank, bias=False)
        self.to_q = nn.Linear(self.q_rank, self.n_heads * self.head_dim, bias=False)
        self.to_k = nn.Linear(self.d_model, self.head_dim, bias=False)
        self.to_v = nn.Linear(self.d_model, self.value_dim, bias=False)
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q = split_heads(self.to_q(self.to_q_latent(x)), self.n_heads)
        q, k, carried = self.prepare_qk(q, self.to_k(x)[:, None], x, start)
        return Heads(q, k, self.to_v(x)[:, None], carried=carried, gate=self.gate.project(x))
