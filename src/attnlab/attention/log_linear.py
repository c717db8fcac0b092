"""Log-linear attention: a few memories of growing age, so that what is recent is kept apart from what is old."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.chunk_decay import ChunkDecay
from attnlab.attention.decay import Decay, NoDecay
from attnlab.attention.documents import Start, reach
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.norm import HeadNorm
from attnlab.attention.position_bias import softplus_inverse
from attnlab.attention.precision import full_precision, running_sum
from attnlab.attention.projection import QKV
from attnlab.attention.published import Starts, exactly
from attnlab.attention.scan import chunks, faded, unchunked
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.errors import UsageError
from attnlab.options import slot

ONE = softplus_inverse(1.0)
CHUNK = 64  # tokens of one matrix product while training, a power of two; changes speed, not results


def levels(i: Int[Tensor, "*t 1"], j: Int[Tensor, "*s"], n_levels: int) -> Int[Tensor, "*t s"]:
    """The level on which query i finds key j <= i: the number of bits of i xor j, which is 0 for i = j."""
    differ = i ^ j
    return sum(((differ >> bit) > 0).long() for bit in range(n_levels))  # type: ignore[return-value]


class Rating(NamedTuple):
    """How much each token reads of each level, lambda."""

    level: Float[Tensor, "b h t l"]


def _of_stretches(
    q: Float[Tensor, "b h n m d"],
    level: Float[Tensor, "b h n m l"],
    states: Float[Tensor, "b h n d v"],
    whole: Float[Tensor, "b h n"],
) -> Float[Tensor, "b h n m v"]:
    """What chunks read of stretches of earlier ones; `states` are what each wrote, `whole` the logs of their decays.

    Chunk c meets a stretch of 2^b chunks for each bit b of c: the one that ends where the lower bits of c begin.
    """
    n, age, o = q.size(2), whole.cumsum(-1), q.new_zeros(*q.shape[:-1], states.size(-1))
    for bit in range((n - 1).bit_length()):
        chunk = torch.tensor([c for c in range(n) if c >> bit & 1], device=q.device)
        stretch = chunk >> bit
        left = (age[:, :, chunk - 1] - age[:, :, (stretch << bit) - 1]).to(q.dtype).exp()[..., None, None]
        met = (q[:, :, chunk] * level[:, :, chunk, :, bit, None]) @ (states[:, :, stretch - 1] * left)
        o = o.index_add(2, chunk, met)
        pairs = states.size(2) // 2 * 2  # a stretch without a second half is read by none
        second = whole[:, :, 1:pairs:2]
        states = states[:, :, 0:pairs:2] * second.to(q.dtype).exp()[..., None, None] + states[:, :, 1:pairs:2]
        whole = whole[:, :, 0:pairs:2] + second
    return o


class LogLinearAttention(StateAttention):
    """Linear attention that sorts the past into about log2(t) stretches, each twice as long, and rates each apart.

    Rule: A_ij = lambda_i^level(i,j) a_{j+1} ... a_i q_i . k_j / sqrt(d). lambda is the softplus of a linear map of x_i,
    one number per level; level(i, j) is the number of bits of i xor j (the stretches of a Fenwick tree). Decoding keeps
    one matrix per level, log2(context) + 1 of them. Training writes the map out inside of chunks, and reads one matrix
    of each stretch before them, in time that grows with t log t.

    Source: arXiv 2506.04761. lambda starts at 1 whatever the token, which is linear attention with a decay.
    """

    documents = True
    decay: Decay = slot(default=NoDecay, doc="How much of the memory remains at each token.")

    @property
    def published(self) -> Starts:
        return {"decay.log_rate": exactly(torch.arange(1.0, self.n_heads + 1).log(), "log of 1, 2, ...")}

    def setup(self) -> None:
        super().setup()
        self.n_levels = (self.context - 1).bit_length() + 1
        self.traits = Traits("signed", "constant", limit=self.context)
        self.qkv = QKV(self)
        self.decay = self.build("decay", d_model=self.d_model, n_heads=self.n_heads, head_dim=self.head_dim)
        if self.decay.per_channel:
            raise UsageError(
                f"attention/decay ({type(self.decay).__name__}) must be one number per head and token for "
                "attention=log_linear, which writes the decay of its whole map out: use none, fixed or scalar"
            )
        self.to_level = nn.Linear(self.d_model, self.n_heads * self.n_levels, bias=False)
        self.output_norm = HeadNorm(self.value_dim)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        if (needed := reach(start, x.size(1))) > self.context:
            raise UsageError(
                f"attention=log_linear has levels for {self.context} positions (model.context), "
                f"not {needed}; use attention=linear for longer texts"
            )
        q, k, v, _ = self.qkv(x, tail)
        level = F.softplus(self.to_level(x) + ONE).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        decay = self.decay.project(x)
        decay = q.new_zeros(q.shape[:3]) if decay is None else decay
        q, k = self.position.rotate(q, start), self.position.rotate_keys(k, start)
        k = self.decay.scale_keys(k, x)
        return Heads(q * self.head_dim**-0.5, k, v, log_decay=decay, own=Rating(level))

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        if (t := heads.q.size(2)) <= CHUNK:
            return self.among(heads, 0).to(heads.v.dtype)
        assert heads.log_decay is not None
        work = torch.promote_types(self.anchor.dtype, torch.float32)
        with full_precision(heads.q.device):
            parts = (x.to(work) for x in (*heads[:3], heads.own.level))
            q, k, v, level, log_decay = (chunks(x, -t % CHUNK, CHUNK) for x in (*parts, heads.log_decay[..., None]))
            decay, pos, n = ChunkDecay(log_decay, None, q), torch.arange(CHUNK, device=q.device), CHUNK.bit_length()
            near = F.one_hot(levels(pos[:, None], pos, n), n).to(work)
            keys = decay.written(k)
            [[within]], [read] = decay.meet([q], [keys])
            assert decay.g is not None
            states = faded(keys.joins.mT @ v, decay.after)
            earlier = _of_stretches(read, level[..., n:], states, decay.g[..., -1, 0])
            inside = (within * torch.einsum("bhnil,ijl->bhnij", level[..., :n], near)) @ v
            return unchunked(inside + earlier, t).to(heads.v.dtype)

    def among(self, heads: Heads, start: int) -> Float[Tensor, "b h t v"]:
        """What the tokens of `heads`, at positions from `start`, read of each other."""
        assert heads.log_decay is not None
        work = torch.promote_types(self.anchor.dtype, torch.float32)
        with full_precision(heads.q.device):
            q, k, v = (p.to(work) for p in heads[:3])
            if (t := q.size(2)) == 1:  # a token is at the lowest level of itself
                return (q @ k.mT) * heads.own.level[..., :1].to(work) @ v
            age = running_sum(heads.log_decay)
            later = torch.ones(t, t, dtype=torch.bool, device=q.device).triu(1)
            decay = (age[..., :, None] - age[..., None, :]).to(work).masked_fill(later, -torch.inf).exp()
            pos = torch.arange(start, start + t, device=q.device)
            level = levels(pos[:, None], pos, self.n_levels)
            rating = heads.own.level.to(work).gather(-1, level.expand(*q.shape[:2], -1, -1))
            return (q @ k.mT) * decay * rating @ v

    def recall(
        self, heads: Heads, memory: Float[Tensor, "b h l d v"], start: int
    ) -> tuple[Float[Tensor, "b h t v"], Float[Tensor, "b h l d v"]]:
        """What they read of the memories, and the memories as the token after them finds them.

        A stretch moves up where a bit above its own has turned since: seen from i it is at the higher of its level and
        the bits of i xor the tokens seen.
        """
        assert heads.log_decay is not None
        work, t = memory.dtype, heads.q.size(2)
        with full_precision(memory.device):
            q, k, v = (p.to(work) for p in heads[:3])
            age = running_sum(heads.log_decay)
            pos = torch.arange(start, start + t + 1, device=q.device)
            stretch = torch.arange(self.n_levels, device=q.device)
            turned = levels(pos[:, None], pos[:1], self.n_levels)
            level = torch.maximum(turned, stretch).clamp(max=self.n_levels - 1)  # past the end nothing reads
            rating = heads.own.level.to(work).gather(-1, level[:-1].expand(*q.shape[:2], -1, -1))
            decayed = rating * age.to(work).exp()[..., None]
            o = (decayed[..., None] * q[..., None, :]).flatten(-2) @ memory.flatten(2, 3)
            own = levels(pos[-1:], pos[:-1], self.n_levels).clamp(max=self.n_levels - 1)[:, None] == stretch
            left = k * (age[..., -1:] - age).to(work).exp()[..., None]
            written = (own[..., None] * left[..., None, :]).flatten(-2).mT @ v
            whole = age[:, :, -1, None, None, None].to(work).exp()
            memory = written.view_as(memory).index_add(2, level[-1], memory * whole)
            return o, memory

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(self.output_norm(o)))

    def empty(self, batch: int, value_dim: int) -> Float[Tensor, "b h l d v"]:
        """One matrix per level."""
        return self.zeros(batch, self.n_heads, self.n_levels, self.head_dim, value_dim)

    def scan(
        self, heads: Heads, memory: Float[Tensor, "b h l d v"], start: int
    ) -> tuple[Float[Tensor, "b h n v"], Float[Tensor, "b h l d v"]]:
        """Decoding: what tokens read of the memories, and of each other."""
        if not heads.v.size(2):
            return heads.v, memory
        earlier, memory = self.recall(heads, memory, start)
        return (earlier + self.among(heads, start)).to(heads.v.dtype), memory
