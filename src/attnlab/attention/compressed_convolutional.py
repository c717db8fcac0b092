"""Attention in fewer numbers than the tokens have, where two convolutions mix each query and key with those before."""

from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, per_query_head, split_heads
from attnlab.attention.norm import RMSNorm
from attnlab.attention.output import GatedOutput
from attnlab.attention.precision import full_precision
from attnlab.attention.published import Starts, exactly, uniform
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import Count, OptionError, option
from attnlab.options.rules import Rule


class CompressedConvolutionalAttention(GatedOutput, SoftmaxAttention):
    """Attention in a narrow space: queries and keys see the tokens just before them, half of the values the last one.

    Rule: q = unit(conv(W_q x) + m), k = t unit(conv(W_k x) + mean m), m = (W_q x + W_k x) / 2, v = [W x_t; W' x_{t-1}].
    conv is two causal convolutions of `conv` tokens each: one channel by channel, then one within each head; m adds to
    each query head its key head, and the keys get the mean of m over their query heads. unit gives a length of sqrt(d),
    t is learned for each key head. Heads may be narrower than d_model / n_heads, which is the compression.

    Source: Compressed Convolutional Attention, arXiv 2510.04476, as ZAYA1 has it. Where we differ: t starts at 1, there
    at 0 (transformers), so that scores are all alike; the first convolution as the token alone, there as torch's do.
    """

    conv: Annotated[int, Rule(int, least=2)] = option(default=2, doc="Tokens that each of the two convolutions sees.")
    head_dim: Count = option(default=None, null="half of d_model / n_heads, even", doc="Width of a head.")

    @property
    def published(self) -> Starts:
        edge, within = self.conv**-0.5, (self.conv * self.head_dim) ** -0.5  # torch's convolutions
        starts = dict.fromkeys(("depthwise", "depthwise_bias"), uniform(-edge, edge))
        return (
            starts
            | dict.fromkeys(("within_heads.weight", "within_heads.bias"), uniform(-within, within))
            | {"key_scale": exactly(0.0)}
        )

    def setup(self) -> None:
        self.head_dim = self.head_dim or max(2, (self.d_out or self.d_model) // self.n_heads // 4 * 2)
        super().setup()
        d, n, half = self.head_dim, self.n_heads + self.n_kv_heads, self.n_kv_heads * self.head_dim // 2
        if self.n_kv_heads * d % 2:
            raise OptionError("head_dim", d, "must be even where n_kv_heads is odd: half of the values are earlier")
        self.widths = self.n_heads * d, self.n_kv_heads * d, half
        self.to_q, self.to_k, self.to_earlier = (nn.Linear(self.d_model, width, bias=False) for width in self.widths)
        self.to_v = nn.Linear(self.d_model, half, bias=False)
        self.depthwise = nn.Parameter(torch.eye(self.conv)[-1].repeat(n * d, 1))
        self.depthwise_bias = nn.Parameter(torch.zeros(n * d))
        self.within_heads = nn.Linear(d * self.conv, n * d)  # what each number of a head takes of the others
        self.unit = RMSNorm(d, gain=False)
        self.key_scale = nn.Parameter(torch.ones(self.n_kv_heads))
        self.build_output(self.n_heads)

    def empty_tail(self, batch: int) -> Float[Tensor, "b n e"]:
        return self.anchor.new_zeros(batch, 2 * (self.conv - 1), sum(self.widths))

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        tail = self.empty_tail(x.size(0)) if tail is None else tail
        new = [linear(x) for linear in (self.to_q, self.to_k, self.to_earlier)]
        rows = torch.cat([tail.to(new[0].dtype), torch.cat(new, dim=-1)], dim=1)
        q, k = split_heads(new[0], self.n_heads), split_heads(new[1], self.n_kv_heads)
        both = (q + per_query_head(k, self.n_heads)) / 2
        mean = both.unflatten(1, (self.n_kv_heads, -1)).mean(dim=2)
        mixed = self.convolved(rows[..., : -self.widths[2]])
        q = self.unit(mixed[:, : self.n_heads] + both)
        k = self.unit(mixed[:, self.n_heads :] + mean) * self.key_scale[:, None, None]
        before = rows[:, tail.size(1) - 1 : -1, -self.widths[2] :]
        v = split_heads(torch.cat([self.to_v(x), before], dim=-1), self.n_kv_heads)
        q, k, carried = self.prepare_qk(q, k, x, start)
        tail = rows[:, rows.size(1) - tail.size(1) :].clone()
        return Heads(q, k, v, tail=tail, carried=carried, gate=self.gate.project(x))

    def convolved(self, rows: Float[Tensor, "b n e"]) -> Float[Tensor, "b h t d"]:
        """Each head after both convolutions, in float32 at least; the rows begin with those of the tail."""
        lines = rows.to(torch.promote_types(rows.dtype, torch.float32)).mT
        if lines.size(-1) <= 2 * (self.conv - 1):  # no new tokens
            return lines.new_zeros(rows.size(0), self.n_heads + self.n_kv_heads, 0, self.head_dim)
        within = self.within_heads.weight.unflatten(1, (self.head_dim, self.conv)), self.within_heads.bias
        with full_precision(rows.device):
            for weight, bias in ((self.depthwise[:, None], self.depthwise_bias), within):
                groups = weight.size(0) // weight.size(1)
                lines = F.conv1d(lines, weight.to(lines.dtype), bias.to(lines.dtype), groups=groups)
        return split_heads(lines.mT, self.n_heads + self.n_kv_heads)
