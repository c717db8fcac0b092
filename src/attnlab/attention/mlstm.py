"""The matrix memory of xLSTM: gates that are exponentials, and a division that never makes numbers larger."""

from functools import partial
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads
from attnlab.attention.log_scale import rescaled
from attnlab.attention.norm import HEAD_GAIN
from attnlab.attention.precision import full_precision
from attnlab.attention.projection import QKV
from attnlab.attention.published import ALIKE, Starts, exactly, normal
from attnlab.attention.recurrent import Matrix
from attnlab.attention.scan import chunked, token_loop
from attnlab.attention.state import StateAttention
from attnlab.attention.traits import Traits
from attnlab.options import Count, Positive, option

LOWEST = -60.0  # nats; a unit that small, of which 1 is e^60, leaves nothing of what is read


class InputGate(NamedTuple):
    """How strongly a token is written, by its logarithm."""

    log_input: Float[Tensor, "b h t 1"]


class MLSTMAttention(StateAttention):
    """Writes a token as strongly as an exponential says, and divides what is read by what was written under the query.

    Rule: C_t = f_t C_{t-1} + i_t k_t v_t^T, n_t = f_t n_{t-1} + i_t k_t, o_t = C_t^T q_t / max(|n_t . q_t|, 1), y_t =
    W_o (sigmoid(W_z x_t) * norm(o_t)), i = exp(cap tanh(w_i . x + b_i)), log f = logsigmoid(cap tanh(w_f . x + b_f)),
    the arguments of tanh divided by cap, q divided by sqrt(d). Memory and sum are kept in units of exp(m), m_t =
    max(log f_t + m_{t-1}, log i_t), so that no exponential leaves the range of float32.

    Source: xLSTM, arXiv 2405.04517; cap, gates and layer are those of xLSTM 7B (arXiv 2503.13427; xLSTMLayer of Hugging
    Face transformers), without the convolution and projection up of the first paper. b_f starts at 3 to 6, evenly
    over the heads; b_i at `input_bias`: about 0 in the first paper, at -10 in xLSTM 7B, which starts w_i and w_f at
    0. Where we differ: w_i and w_f start as other matrices, gains at 0.1 (theirs at 1), and theirs adds 1e-6 to the
    divisor.
    """

    documents = mixes_rows = True
    published: ClassVar[Starts] = {
        **dict.fromkeys(("to_input.weight", "to_forget.weight"), exactly(0.0)),
        **{"gain": exactly(1.0), "input_shift": normal(0.1), "forget_shift": ALIKE},
    }
    cap: Positive = option(default=15.0, doc="The largest argument of a gate, either way.")
    input_bias: float = option(default=0.0, doc="What the input gate's shift b_i starts at.")
    norm_eps: Positive = option(default=1e-6, doc="Added to the variance of a head's output.")
    chunk: Count = option(default=64, doc="Tokens of one matrix product while training; changes speed, not results.")

    traits = Traits("signed", "constant")

    def setup(self) -> None:
        super().setup()
        self.qkv = QKV(self)
        self.to_input, self.to_forget = (nn.Linear(self.d_model, self.n_heads, bias=False) for _ in range(2))
        self.input_shift = nn.Parameter(torch.full((self.n_heads,), float(self.input_bias)))
        self.forget_shift = nn.Parameter(torch.linspace(3.0, 6.0, self.n_heads))
        width = self.n_heads * self.value_dim
        self.to_gate = nn.Linear(self.d_model, width, bias=False)
        self.gain = nn.Parameter(torch.full((width,), HEAD_GAIN))
        self.to_out = nn.Linear(width, self.d_out, bias=False)

    def capped(self, scores: Float[Tensor, "b t h"]) -> Float[Tensor, "b h t"]:
        """cap tanh(scores / cap), in float32 at least."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)).transpose(1, 2)
        return self.cap * (scores / self.cap).tanh()

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        q, k = self.position.rotate(q, start) * self.head_dim**-0.5, self.position.rotate_keys(k, start)
        log_input = self.capped(self.to_input(x) + self.input_shift)
        log_forget = F.logsigmoid(self.capped(self.to_forget(x) + self.forget_shift))
        return Heads(q, k, v, log_decay=log_forget, gate=self.to_gate(x), own=InputGate(log_input[..., None]))

    def empty(self, batch: int, value_dim: int) -> Matrix:
        matrix = self.zeros(batch, self.n_heads, self.head_dim, value_dim + 1)
        return Matrix(matrix, torch.full_like(matrix[..., 0, :1], -torch.inf))

    def scan(self, heads: Heads, memory: Matrix, start: int) -> tuple[Float[Tensor, "b h t v"], Matrix]:
        """The sum n rides along as one more column of the memory."""
        if not heads.v.size(2):
            return heads.v, memory
        matrix, scale = memory
        assert scale is not None and heads.log_decay is not None
        with full_precision(heads.q.device):
            q, k, v = (part.to(matrix.dtype) for part in heads[:3])
            log_input, log_forget = heads.own.log_input.to(matrix.dtype), heads.log_decay.to(matrix.dtype)
            unit = rescaled(torch.zeros_like(log_input), log_input, log_forget, matrix, scale, heads.documents)
            assert unit.log_decay is not None
            starts = None if heads.documents is None else heads.documents.starts
            decay = unit.log_decay.squeeze(-1)
            run = token_loop if q.size(2) == 1 else partial(chunked, chunk=self.chunk, starts=starts)
            o, matrix = run(q, k * unit.k, F.pad(v, (0, 1), value=1.0), decay, None, unit.memory)
            divisor = torch.maximum(o[..., -1:].abs(), (-unit.units.clamp(min=LOWEST)).exp())
            return (o[..., :-1] / divisor).to(heads.v.dtype), Matrix(matrix, unit.scale)

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        work = torch.promote_types(o.dtype, torch.float32)
        assert heads.gate is not None
        normed = join_heads(F.layer_norm(o.to(work), (self.value_dim,), eps=self.norm_eps)) * self.gain.to(work)
        return self.to_out((normed * heads.gate.to(work).sigmoid()).to(o.dtype))
