"""Rotary positions: queries and keys are rotated by angles that grow with their position."""

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.position import Position
from attnlab.attention.uncompiled import uncompiled
from attnlab.errors import UsageError
from attnlab.options import Count, OptionError, Positive, option
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
        """Cosine and sine of the angles at positions 0 .. length, for the device and dtype of `like`."""
        table = self._tables.get((like.device, like.dtype))
        if table is None or table.size(0) < length:
            table = self._tabulate(length, like.device, like.dtype)
        return table[:length]

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

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.width < self.head_dim:
            return torch.cat([self._rotate(x[..., : self.width], start), x[..., self.width :]], dim=-1)
        return self._rotate(x, start)

    def _rotate(self, x: Float[Tensor, "b h n d"], start: int) -> Float[Tensor, "b h n d"]:
        table = self.rotations(start + x.size(2), x)[start:]
        if torch.compiler.is_compiling():  # the compiler cannot fuse complex numbers: the same product, written out
            (a, b), (c, s) = x.unflatten(-1, (-1, 2)).unbind(-1), table.unbind(-1)
            return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
        if x.storage_offset() % 2 or any(step % 2 for step in x.stride()[:-1]):  # where complex numbers cannot begin
            x = x.clone(memory_format=torch.contiguous_format)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2)


class YaRN(RoPE):
    """RoPE for texts `factor` times longer than a model was trained on: slow pairs are slowed down, fast ones are kept.

    Rule: w_i = w_i (g_i + (1 - g_i) / factor), g_i = (r_i - beta_slow) / (beta_fast - beta_slow). A pair of
    frequency w_i makes r_i = original_context * w_i / (2 pi) turns in the original context; g_i is held within 0
    and 1. Queries and keys both are multiplied by 0.1 ln(factor) + 1, which sharpens the scores of longer rows.

    Source: arXiv 2309.00071, sections 3.2 and 3.4. Where we differ: libraries, and the authors' code, ramp over the
    pair's number between the rounded numbers of the two betas; here, as in the paper, the ramp is over r.
    """

    withdrawn = {"fraction"}
    factor: Annotated[float, Rule(float, least=1)] = option(default=4.0, doc="How many times longer texts are.")
    original_context: Count = option(default=256, doc="Tokens of the texts that the model was trained on.")
    beta_fast: float = option(default=32.0, doc="Pairs with more turns in the original context are kept.")
    beta_slow: float = option(default=1.0, doc="Pairs with fewer turns are slowed down by the whole factor.")

    def setup(self) -> None:
        super().setup()
        if not self.beta_slow < self.beta_fast:
            raise OptionError("beta_fast", self.beta_fast, f"must be greater than beta_slow ({self.beta_slow})")
        self.sharpness = 0.1 * math.log(self.factor) + 1

    def frequencies(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        frequency = super().frequencies(pair)
        rotations = self.original_context * frequency / (2 * math.pi)
        ramp = ((rotations - self.beta_slow) / (self.beta_fast - self.beta_slow)).clamp(0, 1)
        return frequency * (ramp + (1 - ramp) / self.factor)

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        return super().rotate(x, start) * self.sharpness


class XPos(RoPE):
    """RoPE whose pairs also fade with the distance, the fast ones first, so that far keys match less and less.

    Rule: score_i = score_i zeta_i^((n - m) / scale), zeta_i = (2i / d + gamma) / (1 + gamma). Pair i of a query at
    position n is multiplied by zeta_i^(n / scale), of a key at position m by zeta_i^(-m / scale).

    Source: arXiv 2212.10554, with gamma = 0.4 and scale = 512. Keys grow with their position: at these values float32
    holds them to position 36,000. Where we differ: their code counts positions from the middle of a row, which changes
    no product of a query and a key, but what is cached.
    """

    withdrawn = {"fraction"}
    gamma: Positive = option(default=0.4, doc="How little the fastest pair fades.")
    scale: Positive = option(default=512.0, doc="Tokens over which pairs fade.")

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        rotated = super().rotate(x, start)
        return rotated * self._faded(rotated, start)

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        rotated = super().rotate(x, start)
        return rotated / self._faded(rotated, start)

    @uncompiled  # as for the angles
    def _faded(self, like: Float[Tensor, "b h n d"], start: int) -> Float[Tensor, "n d"]:
        pair = torch.arange(self.width // 2, dtype=torch.float64, device=like.device)
        zeta = (2 * pair / self.width + self.gamma) / (1 + self.gamma)
        position = torch.arange(start, start + like.size(2), dtype=torch.float64, device=like.device)
        return (zeta ** (position[:, None] / self.scale)).repeat_interleave(2, dim=-1).to(like.dtype)
