"""Rotary positions: queries and keys are rotated by angles that grow with their position."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.documents import Start, positions, rows_at
from attnlab.attention.position import Position
from attnlab.attention.uncompiled import uncompiled
from attnlab.errors import UsageError
from attnlab.options import Count, NonNegative, OptionError, Positive, option
from attnlab.options.rules import Rule


class RoPE(Position):
    """Rotates pairs of neighbouring coordinates by an angle that grows with the position, so that scores see distances.

    Rule: angle_pi = p base^(-2i/d). Pair i is coordinates 2i and 2i + 1, at position p. This is the interleaved layout
    of the paper; the half-split layout of some libraries pairs i with i + d/2, a permutation of the weights. It
    is one complex product, in float32 at least, and the result is left in that type.

    With a `fraction` below 1 only the first coordinates rotate (fraction * d, rounded down to an even number, at least
    2; that width is then the d of the formula), and the others match contents wherever they stand, as in GPT-NeoX.

    Source: RoFormer, arXiv 2104.09864; partly rotated heads: GPT-NeoX, arXiv 2204.06745.
    """

    documents = True
    hooks = frozenset({"rotate"})

    base: Positive = option(default=10000.0, doc="How slowly the slowest pair rotates: the base of the powers.")
    fraction: Annotated[float, Rule(float, above=0, most=1)] = option(default=1.0, doc="Share of the coordinates.")

    def setup(self) -> None:
        if self.head_dim % 2 and (self.fraction == 1 or self.head_dim == 1):
            name = type(self).__name__.lower()
            raise UsageError(f"position={name} rotates pairs, so the width of a head ({self.head_dim}) must be even")
        # 0.58 * 100 is 57.99999999999999 in floating point, and means 58.
        self.width = max(2, int(self.head_dim * self.fraction + 1e-9) // 2 * 2)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def rotations(self, length: int, like: Tensor) -> Float[Tensor, "n pair 2"]:
        """Cosine and sine of the angles at positions 0 .. length or more, for the device and dtype of `like`."""
        table = self._tables.get((like.device, like.dtype))
        if table is None or table.size(0) < length:
            table = self._tabulate(length, like.device, like.dtype)
        return table

    @uncompiled  # inside the compiled code it would be computed again for every head and row
    def _tabulate(self, length: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "n pair 2"]:
        with torch.inference_mode(False):  # the table must serve training, too
            angles = self.angles(torch.arange(max(length, self.context), dtype=torch.float64, device="cpu"))
            table = torch.view_as_real(torch.polar(torch.ones_like(angles), angles)).to(device, dtype)
        self._tables[device, dtype] = table
        return table

    def angles(self, pos: Float[Tensor, " n"]) -> Float[Tensor, "n pair"]:
        """The angle by which each pair rotates at each position."""
        return pos[:, None] * self.frequencies(torch.arange(self.width // 2, dtype=pos.dtype, device=pos.device))

    def frequencies(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """By how much pair 0, 1, ... rotates from one position to the next."""
        return self.base ** (-2 * pair / self.width)

    def rotate(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.width < self.head_dim:
            return torch.cat([self._rotate(x[..., : self.width], start), x[..., self.width :]], dim=-1)
        return self._rotate(x, start)

    def _rotate(self, x: Float[Tensor, "b h n d"], start: Start) -> Float[Tensor, "b h n d"]:
        table = rows_at(start, x.size(2), lambda length: self.rotations(length, x))
        if torch.compiler.is_compiling():  # the compiler cannot fuse complex numbers: the same product, written out
            (a, b), (c, s) = x.unflatten(-1, (-1, 2)).unbind(-1), table.unbind(-1)
            return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
        if x.storage_offset() % 2 or any(step % 2 for step in x.stride()[:-1]):  # where complex numbers cannot begin
            x = x.clone(memory_format=torch.contiguous_format)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2)


class LinearRoPE(RoPE):
    """RoPE for texts `factor` times longer: every pair rotates slower by that factor (position interpolation).

    Rule: angle_pi = p base^(-2i/d) / factor. Source: arXiv 2306.15595.
    """

    factor: Positive = option(default=4.0, doc="How many times longer texts are.")

    def frequencies(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        return super().frequencies(pair) / self.factor


class Llama3RoPE(RoPE):
    """RoPE for longer texts as in Llama 3.1: slow pairs rotate slower by the factor, fast ones are kept.

    Rule: w_i = w_i (g_i + (1 - g_i) / factor), g_i = (r_i - low) / (high - low). A pair of frequency w_i has r_i =
    original_context * w_i / (2 pi) wavelengths in the original context; g_i is held within 0 and 1.

    Source: arXiv 2407.21783, and the `rope_type` llama3 of Hugging Face transformers.
    """

    factor: Positive = option(default=8.0, doc="By how much the slow pairs are slowed down.")
    low_freq_factor: Positive = option(default=1.0, doc="Pairs with fewer wavelengths are slowed down by all of it.")
    high_freq_factor: Positive = option(default=4.0, doc="Pairs with more wavelengths are kept.")
    original_context: Count = option(default=256, doc="Tokens of the texts that the model was trained on.")

    def setup(self) -> None:
        super().setup()
        if not self.low_freq_factor < self.high_freq_factor:
            problem = f"must be greater than low_freq_factor ({self.low_freq_factor})"
            raise OptionError("high_freq_factor", self.high_freq_factor, problem)

    def frequencies(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        frequency = super().frequencies(pair)
        turns = self.original_context * frequency / (2 * math.pi)
        return slowed(frequency, ramp(turns, self.low_freq_factor, self.high_freq_factor), self.factor)


class YaRN(RoPE):
    """RoPE for texts `factor` times longer than a model was trained on: slow pairs are slowed down, fast ones are kept.

    Rule: w_i = w_i (g_i + (1 - g_i) / factor), g_i = (r_i - beta_slow) / (beta_fast - beta_slow). A pair of
    frequency w_i makes r_i = original_context * w_i / (2 pi) turns in the original context; g_i is held within 0
    and 1. What is rotated of queries and keys is multiplied by 0.1 ln(factor) + 1, which sharpens the scores of longer
    rows; by (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1) where these are given, as by DeepSeek.
    With `query_beta` a query at position p is multiplied by 1 + query_beta ln(1 + floor(p / original_context)), too, as
    in Llama 4 and Ministral 3.

    Source: arXiv 2309.00071, sections 3.2 and 3.4. Where we differ: libraries, and the authors' code, ramp over the
    pair's number between the numbers of the two betas, rounded outwards (`ramp` pairs, `truncate`); here, as in the
    paper, the ramp is over r.
    """

    documents = True
    factor: Annotated[float, Rule(float, least=1)] = option(default=4.0, doc="How many times longer texts are.")
    original_context: Count = option(default=256, doc="Tokens of the texts that the model was trained on.")
    beta_fast: float = option(default=32.0, doc="Pairs with more turns in the original context are kept.")
    beta_slow: float = option(default=1.0, doc="Pairs with fewer turns are slowed down by the whole factor.")
    ramp: Literal["turns", "pairs"] = option(default="turns", doc="Between the betas, what the share grows with.")
    truncate: bool = option(default=True, doc="Whether a ramp over pairs goes from one whole pair to another.")
    mscale: Positive = option(default=None, null="1", doc="Strength of the sharpening.")
    mscale_all_dim: Positive = option(default=None, null="none", doc="Of what the sharpening is divided by.")
    attention_factor: Positive = option(default=None, null="from the mscales", doc="The sharpening itself.")
    query_beta: NonNegative = option(default=0.0, doc="How queries grow beyond the original context.")

    def setup(self) -> None:
        super().setup()
        if not self.beta_slow < self.beta_fast:
            raise OptionError("beta_fast", self.beta_fast, f"must be greater than beta_slow ({self.beta_slow})")
        if self.ramp == "pairs" and (self.beta_slow <= 0 or self.base <= 1):
            problem = f"must be turns unless beta_slow ({self.beta_slow}) is above 0 and base ({self.base}) above 1"
            raise OptionError("ramp", self.ramp, problem)
        if (self.mscale is None) != (self.mscale_all_dim is None):
            raise OptionError("mscale", self.mscale, f"must be given with mscale_all_dim ({self.mscale_all_dim})")
        sharp, all_dim = (0.1 * m * math.log(self.factor) + 1 for m in (self.mscale or 1, self.mscale_all_dim or 0))
        self.sharpness = self.attention_factor or sharp / all_dim

    def frequencies(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        frequency = super().frequencies(pair)
        if self.ramp == "turns":
            turns = self.original_context * frequency / (2 * math.pi)
            return slowed(frequency, ramp(turns, self.beta_slow, self.beta_fast), self.factor)
        first, last = self.pair_of(self.beta_fast), self.pair_of(self.beta_slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.width - 1)
        return slowed(frequency, 1 - ramp(pair, first, last + 0.001 * (first == last)), self.factor)

    def pair_of(self, turns: float) -> float:
        """The number of the pair that makes so many turns in the original context; between two pairs, a fraction."""
        return self.width * math.log(self.original_context / (2 * math.pi * turns)) / (2 * math.log(self.base))

    def rotate(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        rotated = super().rotate(x, start)
        return rotated * self._growth(rotated, start) if self.query_beta else rotated

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: Start = 0) -> Float[Tensor, "b h n d"]:
        return super().rotate(x, start)

    def _growth(self, like: Float[Tensor, "b h n d"], start: Start) -> Float[Tensor, "*b n 1"]:
        contexts = positions(start, like.size(2), like.device) // self.original_context
        return (1 + self.query_beta * (1 + contexts).to(like.dtype).log())[..., None]

    def _rotate(self, x: Float[Tensor, "b h n d"], start: Start) -> Float[Tensor, "b h n d"]:
        return super()._rotate(x, start) * self.sharpness


def ramp(x: Float[Tensor, " pair"], low: float, high: float) -> Float[Tensor, " pair"]:
    """0 up to low, 1 from high, and straight between them."""
    return ((x - low) / (high - low)).clamp(0, 1)


def slowed(frequency: Float[Tensor, " pair"], share: Float[Tensor, " pair"], factor: float) -> Float[Tensor, " pair"]:
    """Of each frequency a share as it is, and the rest divided by the factor."""
    return frequency * (share + (1 - share) / factor)
