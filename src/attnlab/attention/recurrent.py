"""The recurrent family: a matrix per head that decays, is written and read, in place of a cache that grows."""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.decay import Decay, NoDecay
from attnlab.attention.documents import Start
from attnlab.attention.feature_map import FeatureMap, IdentityMap
from attnlab.attention.heads import Heads, join_heads, per_query_head
from attnlab.attention.log_scale import exceeds, rescaled
from attnlab.attention.output import GatedOutput
from attnlab.attention.output_norm import NoOutputNorm, OutputNorm
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.scan import chunked, token_loop
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import MapKind, Traits
from attnlab.attention.uncompiled import uncompiled
from attnlab.attention.write import AddWrite, Erasure, Write
from attnlab.options import Count, Natural, OptionError, option, slot


class Matrix(NamedTuple):
    """What is kept of the tokens: one matrix per head, in float32 at least.

    `w` is the width of a value, plus one where a sum of weights rides along. `scale` is the logarithm of the unit of
    each row of the matrix, where features are exponentials.
    """

    matrix: Float[Tensor, "b h d w"]
    scale: Float[Tensor, "b h d"] | None = None


class RecurrentAttention(GatedOutput, StateAttention):
    """Writes each token into a fixed-size memory and reads it back.

    Rule: S_t = a_t S_{t-1} + k_t u_t^T, o_t = S_t^T q_t. Slots: `feature_map` (what becomes of q and k), `decay` (a_t),
    `write` (u_t: add or delta rule), `output_norm`, `gate`, `conv` (width of a short convolution on q, k, v; 0 for
    none). Training runs in chunks, decoding token by token, both from one definition in scan.py; neither keeps more
    than the matrix.

    With `writes` n > 1 a token corrects the memory n times before it is read, each time under another key, with a value
    and a strength of its own; it decays once, before the first. A map shows each write of a head as a head of its own,
    so that `n_heads` of the layer is n times the option.

    Source: arXiv 2006.16236 (adding), 2406.06484 (delta rule), 2412.06464 (delta rule with decay), 2502.10297 (several
    writes).
    """

    documents = mixes_rows = True
    n_key_heads: Count = option(
        default=None, null="n_heads", doc="Heads of queries and keys, each of several heads of values."
    )
    conv: Natural = option(default=0, doc="Width of a short convolution on queries, keys and values; 0: none.")
    conv_bias: bool = option(default=False, doc="Whether the convolution has a shift.")
    feature_map: FeatureMap = slot(default=IdentityMap, doc="The map phi of queries and keys.")
    decay: Decay = slot(default=NoDecay, doc="How much of the memory remains at each token.")
    write: Write = slot(default=AddWrite, doc="What is added to the memory: the value, or its correction.")
    output_norm: OutputNorm = slot(default=NoOutputNorm, doc="What keeps the output in bounds.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")
    writes: Count = option(default=1, doc="Corrections of the memory per token.")

    def setup(self) -> None:
        super().setup()
        self.n_memories, d_model = self.n_heads, self.d_model
        self.n_key_heads = self.n_key_heads or self.n_heads
        if self.n_heads % self.n_key_heads:
            raise OptionError("n_key_heads", self.n_key_heads, f"must divide n_heads ({self.n_heads})")
        if self.conv_bias and not self.conv:
            raise OptionError("conv_bias", self.conv_bias, "must be false where there is no convolution (conv 0)")
        # One query for all writes of a memory; from here on a head is a write.
        self.n_kv_heads = self.n_heads * self.writes
        heads = (self.n_key_heads, self.n_key_heads * self.writes, self.n_kv_heads)
        self.qkv = QKV(self, heads=heads, conv=self.conv, conv_bias=self.conv_bias)
        self.n_heads = self.n_kv_heads
        self.feature_map = self.build("feature_map", head_dim=self.head_dim)
        self.decay = self.build("decay", d_model=d_model, n_heads=self.n_memories, head_dim=self.head_dim)
        widths = {"head_dim": self.head_dim, "value_dim": self.value_dim}
        self.write = self.build("write", d_model=d_model, n_heads=self.n_heads, **widths)
        self.output_norm = self.build("output_norm", value_dim=self.value_dim)
        self.build_output(self.n_memories)
        # A division by the sum of weights takes out what features were divided by.
        self.log_scaled = self.feature_map.exponential and self.output_norm.divides
        self.decay.check(self.feature_map, self.write)
        self.write.check(self.feature_map)
        self.output_norm.check(self.feature_map, self.write)
        if self.writes > 1 and (self.write.early or not self.write.erases):
            problem = "must be 1 unless each write corrects the one before: use attention/write=delta, and not "
            raise OptionError("writes", self.writes, problem + type(self.write).__name__)
        kind: MapKind = "probability" if self.output_norm.divides else "nonnegative"
        signed = self.write.erases or not self.feature_map.positive
        self.traits = Traits("signed" if signed else kind, "constant")

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        if self.n_key_heads < self.n_memories:
            keys = per_query_head(k.unflatten(1, (self.n_key_heads, -1)), self.n_memories)
            q, k = per_query_head(q, self.n_memories), keys.flatten(1, 2)
        log_q = log_k = None
        work = torch.promote_types(v.dtype, torch.float32)  # features are as exact as the memory that they meet in
        q, k = self.position.rotate(q.to(work), start), self.position.rotate_keys(k.to(work), start)
        if self.log_scaled and self.feature_map.extreme(q, k):
            strength = self.decay.scale_keys(torch.ones_like(k[..., :1]), x)
            log_q, log_k = self.feature_map.query_logs(q), self.feature_map.logs(k) + strength.log()
        else:
            q, k = self.feature_map(q), self.feature_map(k)
        erasure, v = self.write.erasure(k, x), self.write.values(v, x)
        q = self.write.queries(q, k)
        q, k = q * self.feature_map.query_scale, self.decay.scale_keys(k, x)
        beside: dict[str, Any] = {
            "log_decay": self.decay.project(x),
            "beta": self.write.project(x),
            "gate": self.gate.project(x),
            "own": None if erasure is None else Erasure(erasure),
        }
        return Heads(q, k, v, tail, log_q=log_q, log_k=log_k, **beside)

    def scan(self, heads: Heads, memory: Matrix, start: int) -> tuple[Float[Tensor, "b h t v"], Matrix]:
        """Run the recurrence over the tokens of `heads`, in float32 at least; used by training, maps and decoding."""
        return self._by_logs(heads, memory) if self.log_scaled else self._run(heads, memory)

    def _run(self, heads: Heads, memory: Matrix) -> tuple[Float[Tensor, "b h t v"], Matrix]:
        matrix, scale = memory
        if not heads.v.size(2):
            return heads.v, memory
        work = matrix.dtype
        with full_precision(heads.q.device):
            q, k, v = heads.q.to(work), heads.k.to(work), self.output_norm.widen(heads.v.to(work))
            beside = (heads.log_decay, heads.beta, None if heads.own is None else heads.own.erasure)
            decay, beta, erasure = (None if part is None else part.to(work) for part in beside)
            if scale is not None:
                q, k, decay, matrix, scale = self.in_range(q, k, decay, matrix, scale, heads)
            run = token_loop if q.size(2) == 1 else partial(chunked, chunk=self.chunk, starts=self.starts(heads))
            if erasure is not None:
                run = partial(run, erasure=self.one_by_one(erasure), early=self.write.early)
            o, matrix = run(*self.in_turn(q, k, v, decay, beta), matrix)
            return self.output_norm.divide(o).to(heads.v.dtype), Matrix(matrix, scale)

    _by_logs = uncompiled(_run)  # it asks for numbers, at each of which compiled code would end

    def in_range(
        self, q: Tensor, k: Tensor, decay: Tensor | None, matrix: Tensor, scale: Tensor, heads: Heads
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """Features, decay and memory in units in which float32 holds them."""
        if heads.log_q is not None and heads.log_k is not None:
            log_q, log_k = heads.log_q.to(matrix.dtype), heads.log_k.to(matrix.dtype)
        elif exceeds(scale.abs(), 0.0) and exceeds(scale.abs().masked_fill(scale.isinf(), 0.0), 0.0):
            log_q, log_k = q.log(), k.log()  # the memory is in other units already
        else:
            return q, k, decay, matrix, scale.clamp(min=0.0)
        return rescaled(log_q, log_k, decay, matrix, scale, heads.documents)[:5]

    def starts(self, heads: Heads) -> Bool[Tensor, "b t"] | None:
        """The first write of each document of a row; None where a row is one."""
        if heads.documents is None or self.writes == 1:
            return None if heads.documents is None else heads.documents.starts
        return F.pad(heads.documents.starts[..., None], (0, self.writes - 1)).flatten(1)

    def in_turn(
        self, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None, beta: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Put the writes of a token one after the other, n * t of them for the scan, of which the first of n decays."""
        if self.writes == 1:
            return q, k, v, decay, beta
        assert beta is not None  # several writes only where each corrects the one before
        k, v, beta = (self.one_by_one(x) for x in (k, v, beta))
        if decay is not None:
            decay = torch.stack([decay] + [torch.zeros_like(decay)] * (self.writes - 1), dim=3).flatten(2, 3)
        return q, k, v, decay, beta

    def one_by_one(self, x: Float[Tensor, "b h t *d"]) -> Float[Tensor, "b m nt *d"]:
        """What belongs to the writes of a token, one after the other."""
        return x if self.writes == 1 else x.unflatten(1, (-1, self.writes)).transpose(2, 3).flatten(2, 3)

    def empty(self, batch: int, value_dim: int) -> Matrix:
        width = value_dim + self.output_norm.extra_columns
        matrix = self.zeros(batch, self.n_memories, self.feature_map.width, width)
        return Matrix(matrix, torch.full_like(matrix[..., 0], -torch.inf) if self.log_scaled else None)

    def empty_tail(self, batch: int) -> Tensor | None:
        return self.qkv.empty_tail(batch)

    def map_of(self, heads: Heads) -> Float[Tensor, "b h t s"]:
        """Each write of a memory answers in columns of its own."""
        (b, g, s), n = heads.v.shape[:3], self.writes
        identity = torch.eye(n * s, dtype=heads.v.dtype, device=heads.v.device).unflatten(0, (n, s))
        answers = self.mix(heads._replace(v=identity.repeat(g // n, 1, 1).expand(b, -1, -1, -1)))
        return answers.unflatten(-1, (n, s)).transpose(2, 3).flatten(1, 2)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        """What the writes of a memory bring is one sum, whether `o` holds the sum already (`mix`) or its terms."""
        o = o if self.writes == 1 else o.unflatten(1, (self.n_memories, -1)).sum(dim=2)
        own = heads.v if self.writes == 1 else heads.v[:, self.writes - 1 :: self.writes]  # what was written last
        return self.to_out(join_heads(self.gate(self.output_norm(o), heads.gate, own)))
