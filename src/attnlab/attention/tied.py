"""One projection that serves as keys and as values."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.output import GatedOutput
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError


class TiedAttention(GatedOutput, SoftmaxAttention):
    """Uses one vector per token and head as both its key and its value, so that decoding keeps half as much.

    Rule: v = W x, k = rotate(v), o_h = softmax(rotate(q_h) K_h^T / sqrt(d)) V_h. Only v is kept; keys are rotated on
    reading.

    Source: Hugging Face, "Gemma 4 modeling code" (2026). Where we differ: there queries, keys and values have norms of
    their own, and scores are not divided by sqrt(d).
    """

    documents = True

    def setup(self) -> None:
        super().setup()
        if self.mask.cache_size is not None:
            raise UsageError(
                f"attention/mask ({type(self.mask).__name__}) must keep every row: tied attention rotates its keys on "
                "reading, which counts positions from 0; choose attention/mask=causal"
            )
        for mod in self.score_mods:
            if type(mod).prepare is not Score.prepare or mod.cached_extras:
                raise UsageError(
                    f"attention/score ({type(mod).__name__}) must not change or extend keys: tied attention keeps "
                    "values alone and makes keys of them on reading; remove it"
                )
        self.to_q = nn.Linear(self.d_model, self.n_heads * self.head_dim, bias=False)
        self.to_kv = nn.Linear(self.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.build_output(self.n_heads)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, v = split_heads(self.to_q(x), self.n_heads), split_heads(self.to_kv(x), self.n_kv_heads)
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(v, start), v, gate=self.gate.project(x))

    @property
    def key_width(self) -> int:
        return 0  # keys are made of the values on reading

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        return state.cache.append(heads.v[..., :0], heads.v, self.mask)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        v = visible_kv.v.to(heads.v.dtype)
        return heads._replace(k=self.position.rotate_keys(v).to(heads.q.dtype), v=v)
