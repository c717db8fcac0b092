"""One projection that serves as keys and as values."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Heads, Shared, join_heads, per_query_head, split_heads
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.gate import Gate
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.normalizer import Normalizer, Softmax
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError
from attnlab.position import Position


class TiedAttention(SoftmaxAttention):
    """Uses one vector per token and head as both its key and its value, so that decoding keeps half as much.

    v = W x, k = rotate(v), o_h = softmax(rotate(q_h) K_h^T / sqrt(d)) V_h. Only v is kept; keys are turned on reading.

    Source: Hugging Face, "Gemma 4 modeling code" (2026). Where we differ: there queries, keys and values
    have norms of their own, and scores are not divided by sqrt(d).
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        d_out: int | None = None,
        position: Callable[..., Position] = Position,
        mask: Callable[[], Mask] = Causal,
        score: Mapping[str, Callable[..., Score]] | None = None,
        normalizer: Callable[..., Normalizer] = Softmax,
        gate: Callable[..., Gate] = Gate,
        dropout: float = 0.0,
        layer: int = 0,
        n_layers: int = 1,
        context: int = 1024,
    ) -> None:
        super().__init__(
            d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            d_out=d_out,
            position=position,
            mask=mask,
            score=score,
            normalizer=normalizer,
            dropout=dropout,
            layer=layer,
            n_layers=n_layers,
            context=context,
        )
        if self.mask.kept is not None:
            raise UsageError(
                f"attention/mask ({type(self.mask).__name__}) must keep every row: tied attention turns its keys on "
                "reading, which counts positions from 0; choose attention/mask=causal"
            )
        for link in self.chain:
            if type(link).prepare is not Score.prepare or link.carries:
                raise UsageError(
                    f"attention/score ({type(link).__name__}) must not change or extend keys: tied attention keeps "
                    "values alone and makes keys of them on reading; remove that link"
                )
        self.to_q = nn.Linear(d_model, n_heads * self.head_dim, bias=False)
        self.to_kv = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.gate = gate(d_model=d_model, n_heads=n_heads, value_dim=self.value_dim)
        self.to_out = nn.Linear(n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        q, v = split_heads(self.to_q(x), self.n_heads), split_heads(self.to_kv(x), self.n_kv_heads)
        gate = self.gate.project(x)
        extra = {} if gate is None else {"gate": gate}
        return Heads(self.position.rotate(q, start), self.position.rotate_keys(v, start), v, extra)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        v = per_query_head(heads.v, self.n_heads)
        return self.to_out(join_heads(self.gate(o, heads.extra.get("gate"), v)))

    def init_state(self, batch: int, max_len: int) -> SoftmaxState:
        cache = Cache.empty(
            self.mask,
            batch=batch,
            max_len=max_len,
            heads=self.n_kv_heads,
            d=0,
            v=self.value_dim,
            like=self.anchor,
        )
        return SoftmaxState(cache, None)

    def remember(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        return state.cache.append(heads.v[..., :0], heads.v, self.mask)

    def recalled(self, heads: Heads, at_hand: KeysValues) -> Heads:
        v = at_hand.v.to(heads.v.dtype)
        return heads._replace(k=self.position.rotate_keys(v).to(heads.q.dtype), v=v)
