"""Where a token stands: embeddings added at the model's entrance, and hooks used inside attention."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, OptionError, Positive, given, option
from attnlab.rules import Rule


class Position(Configurable, nn.Module):
    """Position information used inside attention; this base does nothing, which is NoPE (arXiv 2305.19466).

    Built per layer as factory(head_dim=, n_heads=, context=). `hooks` names what a subclass needs of the attention:
    "rotate" (turn queries and keys) or "bias" (add to the scores). Positions are absolute, counted from 0.
    """

    seams: ClassVar[tuple[str, ...]] = ("rotate", "bias")
    hooks = frozenset[str]()

    head_dim: Count = given(doc="Width of what is turned.")
    n_heads: Count = given(doc="Query heads.")
    context: Count = given(doc="Tokens that the model is made for.")

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        """Turn queries that stand at positions start .. start + n."""
        return x

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        """Turn keys that stand at positions start .. start + n: as queries, unless a rule tells them apart."""
        return self.rotate(x, start)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        """What to add to the scores of queries at q_pos for keys at k_pos."""
        return None


class RoPE(Position):
    """Turns pairs of neighbouring coordinates by an angle that grows with the position, so that scores see distances.

    Pair i (coordinates 2i and 2i + 1) at position p turns by p * base^(-2i/d). This is the interleaved layout of the
    paper; the half-split layout of some libraries pairs i with i + d/2, a permutation of the weights. The turn is one
    complex product, in float32 at least, and the result is left in that type.

    With a `fraction` below 1 only the first coordinates turn (fraction * d, rounded down to an even number, at least 2;
    that width is then the d of the formula), and the others match contents wherever they stand, as in GPT-NeoX.

    Source: RoFormer, arXiv 2104.09864; partly turned heads: GPT-NeoX, arXiv 2204.06745.
    """

    hooks = frozenset({"rotate"})

    base: Positive = option(default=10000.0, doc="How slowly the slowest pair turns: the base of the powers.")
    fraction: Annotated[float, Rule(float, above=0, most=1)] = option(default=1.0, doc="Share of the coordinates.")

    def setup(self) -> None:
        if self.head_dim % 2 and (self.fraction == 1 or self.head_dim == 1):
            name = type(self).__name__.lower()
            raise UsageError(f"position={name} turns pairs, so the width of a head ({self.head_dim}) must be even")
        # 0.58 * 100 is 57.99999999999999 in floating point, and means 58.
        self.width = max(2, int(self.head_dim * self.fraction + 1e-9) // 2 * 2)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def turns(self, length: int, like: Tensor) -> Float[Tensor, "n pair 2"]:
        """Cosine and sine of the angles at positions 0 .. length, for the device and dtype of `like`."""
        table = self._tables.get((like.device, like.dtype))
        if table is None or table.size(0) < length:
            table = self._tabulate(length, like.device, like.dtype)
        return table[:length]

    @torch.compiler.disable  # inside the compiled code it would be computed again for every head and row
    def _tabulate(self, length: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "n pair 2"]:
        with torch.inference_mode(False):  # what is kept must serve training, too
            angles = self.angles(torch.arange(max(length, self.context), dtype=torch.float64, device="cpu"))
            table = torch.view_as_real(torch.polar(torch.ones_like(angles), angles)).to(device, dtype)
        self._tables[device, dtype] = table
        return table

    def angles(self, pos: Float[Tensor, " n"]) -> Float[Tensor, "n pair"]:
        """The angle by which each pair turns at each position."""
        return pos[:, None] * self.speeds(torch.arange(self.width // 2, dtype=pos.dtype, device=pos.device))

    def speeds(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        """By how much pair 0, 1, ... turns from one position to the next."""
        return self.base ** (-2 * pair / self.width)

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.width < self.head_dim:
            return torch.cat([self._turned(x[..., : self.width], start), x[..., self.width :]], dim=-1)
        return self._turned(x, start)

    def _turned(self, x: Float[Tensor, "b h n d"], start: int) -> Float[Tensor, "b h n d"]:
        table = self.turns(start + x.size(2), x)[start:]
        if torch.compiler.is_compiling():  # the compiler cannot fuse complex numbers: the same product, written out
            (a, b), (c, s) = x.unflatten(-1, (-1, 2)).unbind(-1), table.unbind(-1)
            return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
        if x.storage_offset() % 2 or any(step % 2 for step in x.stride()[:-1]):  # where complex numbers cannot begin
            x = x.clone(memory_format=torch.contiguous_format)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(table)).flatten(-2)


class YaRN(RoPE):
    """RoPE for texts `factor` times longer than a model was trained on: slow pairs are slowed down, fast ones are kept.

    A pair of speed w_i makes r_i = original_context * w_i / (2 pi) turns in the original context. It turns by
    w_i * (g_i + (1 - g_i) / factor) per position, where g_i = (r_i - beta_slow) / (beta_fast - beta_slow), held within
    0 and 1. Queries and keys both are multiplied by 0.1 ln(factor) + 1, which sharpens the scores of longer rows.

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

    def speeds(self, pair: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
        speed = super().speeds(pair)
        turns = self.original_context * speed / (2 * math.pi)
        kept = ((turns - self.beta_slow) / (self.beta_fast - self.beta_slow)).clamp(0, 1)
        return speed * (kept + (1 - kept) / self.factor)

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        return super().rotate(x, start) * self.sharpness


class XPos(RoPE):
    """RoPE whose pairs also fade with the distance, the fast ones first, so that far keys match less and less.

    Pair i of a query at position n is multiplied by zeta_i^(n / scale), of a key at position m by zeta_i^(-m / scale),
    so that their product has the factor zeta_i^((n - m) / scale), where zeta_i = (2i / d + gamma) / (1 + gamma) < 1.

    Source: arXiv 2212.10554, with gamma = 0.4 and scale = 512. Keys grow with their position: at these values float32
    holds them to position 36,000. Where we differ: their code counts positions from the middle of a row, which changes
    no product of a query and a key, but what is cached.
    """

    withdrawn = {"fraction"}
    gamma: Positive = option(default=0.4, doc="How little the fastest pair fades.")
    scale: Positive = option(default=512.0, doc="Tokens over which pairs fade.")

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        turned = super().rotate(x, start)
        return turned * self._faded(turned, start)

    def rotate_keys(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        turned = super().rotate(x, start)
        return turned / self._faded(turned, start)

    @torch.compiler.disable  # as for the angles
    def _faded(self, like: Float[Tensor, "b h n d"], start: int) -> Float[Tensor, "n d"]:
        pair = torch.arange(self.width // 2, dtype=torch.float64, device=like.device)
        zeta = (2 * pair / self.width + self.gamma) / (1 + self.gamma)
        place = torch.arange(start, start + like.size(2), dtype=torch.float64, device=like.device)
        return (zeta ** (place[:, None] / self.scale)).repeat_interleave(2, dim=-1).to(like.dtype)


def alibi_slopes(n_heads: int) -> list[float]:
    """One slope per head: 2^(-8/n), 2^(-16/n), ...; other counts take every second slope of the next power of two."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    finer = [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + finer[: n_heads - power]


class ALiBi(Position):
    """Lowers each score in proportion to the distance: score - slope_h * (i - j).

    Source: arXiv 2108.12409.
    """

    hooks = frozenset({"bias"})

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        slopes = torch.tensor(alibi_slopes(self.n_heads), device=q_pos.device)
        return -slopes[:, None, None] * (q_pos[:, None] - k_pos[None, :])


class T5Bias(Position):
    """Adds a learned number per head and distance; far distances share one in ever wider buckets.

    bias_ij = table[bucket(i - j)]. The first half of the buckets hold one distance each; the others are spaced evenly
    in the logarithm, and the last holds all from just below `max_distance` on.

    Source: T5, arXiv 1910.10683, its buckets for decoders. Where we differ: T5 shares one table among layers, here each
    has its own; and it does not divide scores by sqrt(d).
    """

    hooks = frozenset({"bias"})

    n_buckets: Annotated[int, Rule(int, least=2)] = option(default=32, doc="Distances that are told apart; even.")
    max_distance: Count = option(default=128, doc="Distance from which all share a bucket.")

    def setup(self) -> None:
        self.buckets: Tensor
        n_buckets, max_distance, exact = self.n_buckets, self.max_distance, self.n_buckets // 2
        if n_buckets % 2:
            raise OptionError("n_buckets", n_buckets, "must be even")
        if max_distance <= exact:
            raise OptionError("max_distance", max_distance, f"must be greater than half of n_buckets ({exact})")
        wide = [
            exact + math.floor(math.log(n / exact) / math.log(max_distance / exact) * exact)
            for n in range(exact, max_distance)
        ]
        of_distance = [*range(exact), *(min(bucket, n_buckets - 1) for bucket in wide), n_buckets - 1]
        self.register_buffer("buckets", torch.tensor(of_distance), persistent=False)
        self.table = nn.Embedding(n_buckets, self.n_heads)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(0, self.buckets.numel() - 1)
        return self.table(self.buckets[distance]).movedim(-1, 0)


def softplus_inverse(y: float) -> float:
    """The x whose softplus is y: x = log(e^y - 1)."""
    return math.log(math.expm1(y))


class Kerple(Position):
    """Lowers each score with the logarithm of the distance, by amounts that each head learns.

    bias_ij = -r1_h * log(1 + r2_h * (i - j)), where r1 and r2 stay positive through a softplus and start at 1.

    Source: arXiv 2205.09921, the logarithmic kernel. Where we differ: their code draws r1 from 0 to 2 and r2 from 0 to
    1 for each head, and holds both above 0.01 by cutting them off.
    """

    hooks = frozenset({"bias"})

    def setup(self) -> None:
        self.strength = nn.Parameter(torch.full((self.n_heads,), softplus_inverse(1.0)))
        self.rate = nn.Parameter(torch.full((self.n_heads,), softplus_inverse(1.0)))

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(min=0)  # what a mask hides must have a logarithm, too
        strength, rate = F.softplus(self.strength)[:, None, None], F.softplus(self.rate)[:, None, None]
        return -strength * (rate * distance).log1p()


class FIRE(Position):
    """Adds a learned function of the distance, which is measured in parts of how far back the query could look.

    bias_ij = f(psi(i - j) / psi(max(L, i))), psi(x) = log(1 + c x). f is a small network with one output per head;
    c and L are learned, stay positive through a softplus, and start at 0.1 and a quarter of the context.

    Source: arXiv 2310.04418. Where we differ: its network has a ReLU, here a SiLU, so that no unit is dead; and a last
    bias, which adds the same number to all scores of a query and is left out. Its code takes absolute values of c and
    L, starts L at 512 tokens, and adds 1e-6 to what it divides by.
    """

    hooks = frozenset({"bias"})

    hidden: Count = option(default=32, doc="Width of the network.")

    def setup(self) -> None:
        self.rate = nn.Parameter(torch.tensor(softplus_inverse(0.1)))
        self.threshold = nn.Parameter(torch.tensor(softplus_inverse(1.0)))  # in quarters of the context
        self.to_hidden = nn.Linear(1, self.hidden)
        self.to_bias = nn.Linear(self.hidden, self.n_heads, bias=False)

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        distance = (q_pos[:, None] - k_pos[None, :]).clamp(min=0)  # what a mask hides must have a logarithm, too
        rate, threshold = F.softplus(self.rate), F.softplus(self.threshold) * self.context / 4
        reach = torch.maximum(threshold, q_pos[:, None].to(threshold.dtype))
        part = (rate * distance).log1p() / (rate * reach).log1p()
        return self.to_bias(F.silu(self.to_hidden(part[..., None]))).movedim(-1, 0)


class Embedding(Configurable, nn.Module):
    """Position information added to the token embeddings; this base adds nothing.

    Built once per model as factory(d_model=, context=). `limit` is the number of positions it knows, None if any.
    """

    d_model: Count = given(doc="Width of the model.")
    context: Count = given(doc="Tokens that the model is made for.")

    def setup(self) -> None:
        self.limit: int | None = None

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        return x


class LearnedEmbedding(Embedding):
    """Adds one trained vector per position, as in GPT-2; it knows no position beyond the model's context."""

    def setup(self) -> None:
        self.limit = self.context
        self.table = nn.Embedding(self.context, self.d_model)

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        if start + x.size(1) > self.context:
            raise UsageError(
                f"position=learned knows {self.context} positions (model.context), not {start + x.size(1)}; "
                "use position=rope for longer texts"
            )
        return x + self.table.weight[start : start + x.size(1)]


class SinusoidalEmbedding(Embedding):
    """Adds fixed sines and cosines of geometrically spaced wavelengths (arXiv 1706.03762, section 3.5).

    Even coordinates 2i hold sin(p / 10000^(2i/c)), odd ones the cosine; any position is known.
    """

    def setup(self) -> None:
        super().setup()
        if self.d_model % 2:
            raise UsageError(f"position=sinusoidal pairs coordinates, so model.d_model ({self.d_model}) must be even")

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        place = torch.arange(start, start + x.size(1), dtype=torch.float64, device="cpu")
        pair = torch.arange(self.d_model // 2, dtype=torch.float64, device="cpu")
        angles = place[:, None] * 10000.0 ** (-2 * pair / self.d_model)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return x + waves.to(x.device, x.dtype)
