"""One projection that serves as values and as half of the keys."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Shared
from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, split_heads
from attnlab.attention.output import GatedOutput
from attnlab.attention.position import Position
from attnlab.attention.score import Score
from attnlab.attention.softmax import SoftmaxAttention, SoftmaxState
from attnlab.errors import UsageError
from attnlab.options import Count, OptionError, option


class GroupedTiedAttention(GatedOutput, SoftmaxAttention):
    """Uses one vector per token and key head as its value, and the first part of it as part of its key.

    Rule: v_g = W_g x, k_g = [v_g[: d - r]; rotate(W_r x)], o_h = softmax(q_h K_g^T / sqrt(d)) V_g. The last r =
    `rope_dim` coordinates of a key are rotary, and the same for all heads; of a query the last r rotate, too. Decoding
    keeps v and the rotary key.

    Source: Grouped-Tied Attention, arXiv 2505.21487. Where we differ: their code gives the rotary key a bias.
    """

    documents = True
    rope_dim: Count = option(default=None, null="head_dim / 2, even", doc="Rotary coordinates of a head.")

    def setup(self) -> None:
        super().setup()
        for mod in self.score_mods:
            changes = type(mod).prepare is not Score.prepare or type(mod).prepare_rotated is not Score.prepare_rotated
            if changes or mod.cached_extras:
                raise UsageError(
                    f"attention/score ({type(mod).__name__}) must not change or extend keys: grouped-tied attention "
                    "keeps values and makes keys of them on reading; remove it"
                )
        self.to_q = nn.Linear(self.d_model, self.n_heads * self.head_dim, bias=False)
        self.to_kv = nn.Linear(self.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.to_k_rotary = nn.Linear(self.d_model, self.rope_dim, bias=False)
        self.build_output(self.n_heads)

    def build_position(self, head_dim: int) -> Position:
        self.rope_dim = self.rope_dim or max(2, head_dim // 4 * 2)
        if self.rope_dim >= head_dim:
            raise OptionError("rope_dim", self.rope_dim, f"must be less than head_dim ({head_dim})")
        return super().build_position(self.rope_dim)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, v = split_heads(self.to_q(x), self.n_heads), split_heads(self.to_kv(x), self.n_kv_heads)
        plain, rotary = q.split([self.head_dim - self.rope_dim, self.rope_dim], dim=-1)
        q = torch.cat([plain, self.position.rotate(rotary, start)], dim=-1)
        key = self.position.rotate_keys(self.to_k_rotary(x)[:, None], start)
        return Heads(q, self.tied_keys(v, key), v, gate=self.gate.project(x))

    def tied_keys(self, v: Float[Tensor, "b g s d"], rotary: Float[Tensor, "b 1 s r"]) -> Float[Tensor, "b g s d"]:
        """The tied part of each value, and the rotary key that all heads share."""
        tied = v[..., : self.head_dim - self.rope_dim]
        return torch.cat([tied.to(rotary.dtype), rotary.expand(-1, self.n_kv_heads, -1, -1)], dim=-1)

    @property
    def key_width(self) -> int:
        return -(-self.rope_dim // self.n_kv_heads)  # each key head's row carries an equal share of the rotary key

    def update_cache(self, heads: Heads, state: SoftmaxState, shared: Shared) -> tuple[KeysValues, Cache]:
        rotary = heads.k[:, 0, :, self.head_dim - self.rope_dim :]
        rows = F.pad(rotary, (0, self.key_width * self.n_kv_heads - self.rope_dim))
        return state.cache.append(split_heads(rows, self.n_kv_heads), heads.v, self.mask)

    def read_cache(self, heads: Heads, visible_kv: KeysValues) -> Heads:
        v = visible_kv.v.to(heads.v.dtype)
        rotary = visible_kv.k.transpose(1, 2).flatten(2)[:, None, :, : self.rope_dim].to(heads.q.dtype)
        return heads._replace(k=self.tied_keys(v, rotary).to(heads.q.dtype), v=v)
