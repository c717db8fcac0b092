"""Where a token stands: embeddings added at the model's entrance, and hooks used inside attention."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.errors import UsageError


class Position(nn.Module):
    """Position information used inside attention; this base does nothing, which is NoPE (arXiv 2305.19466).

    Built per layer as factory(head_dim=, n_heads=, context=). `hooks` names what a subclass needs of the attention:
    "rotate" (turn queries and keys) or "bias" (add to the scores). Positions are absolute, counted from 0.
    """

    hooks: frozenset[str] = frozenset()

    def __init__(self, *, head_dim: int, n_heads: int, context: int) -> None:
        super().__init__()
        self.head_dim, self.n_heads, self.context = head_dim, n_heads, context

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        """Turn queries or keys that stand at positions start .. start + n."""
        return x

    def bias(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "h t s"] | None:
        """What to add to the scores of queries at q_pos for keys at k_pos."""
        return None


class RoPE(Position):
    """Turns pairs of neighbouring coordinates by an angle that grows with the position, so that scores see distances.

    Pair i (coordinates 2i and 2i + 1) at position p turns by p * base^(-2i/d). This is the interleaved layout of the
    paper; the half-split layout of some libraries pairs i with i + d/2, a permutation of the weights. The turn is one
    complex product, in float32 at least, and the result is left in that type.

    Source: RoFormer, arXiv 2104.09864.
    """

    hooks = frozenset({"rotate"})

    def __init__(self, *, head_dim: int, n_heads: int, context: int, base: float = 10000.0) -> None:
        super().__init__(head_dim=head_dim, n_heads=n_heads, context=context)
        if head_dim % 2:
            raise UsageError(f"position=rope turns pairs, so the width of a head ({head_dim}) must be even")
        if base <= 0:
            raise UsageError(f"position.inside.base ({base}) must be greater than 0")
        self.base = base
        self._turns: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def turns(self, length: int, like: Tensor) -> Tensor:
        """Unit complex numbers of positions 0 .. length, (length, d/2), for the device and real dtype of `like`."""
        found = self._turns.get((like.device, like.dtype))
        if found is None or found.size(0) < length:
            with torch.inference_mode(False):  # what is kept must serve training, too
                angles = self.angles(torch.arange(max(length, self.context), dtype=torch.float64, device="cpu"))
                found = torch.polar(torch.ones_like(angles), angles).to(like.device, like.dtype.to_complex())
                self._turns[like.device, like.dtype] = found
        return found[:length]

    def angles(self, pos: Float[Tensor, " n"]) -> Float[Tensor, "n pair"]:
        """The angle by which each pair turns at each position."""
        pair = torch.arange(self.head_dim // 2, dtype=pos.dtype, device=pos.device)
        return pos[:, None] * self.base ** (-2 * pair / self.head_dim)

    def rotate(self, x: Float[Tensor, "b h n d"], start: int = 0) -> Float[Tensor, "b h n d"]:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if torch.compiler.is_compiling():  # the compiler cannot fuse complex numbers: the same product, written out
            turn = self.angles(torch.arange(start, start + x.size(2), dtype=torch.float64, device=x.device))
            (a, b), c, s = x.unflatten(-1, (-1, 2)).unbind(-1), turn.cos().to(x.dtype), turn.sin().to(x.dtype)
            return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.turns(start + x.size(2), x)[start:]).flatten(-2)


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


class Embedding(nn.Module):
    """Position information added to the token embeddings; this base adds nothing.

    Built once per model as factory(d_model=, context=). `limit` is the number of positions it knows, None if any.
    """

    limit: int | None = None

    def __init__(self, *, d_model: int, context: int) -> None:
        super().__init__()
        self.d_model, self.context = d_model, context

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        return x


class LearnedEmbedding(Embedding):
    """Adds one trained vector per position, as in GPT-2; it knows no position beyond the model's context."""

    def __init__(self, *, d_model: int, context: int) -> None:
        super().__init__(d_model=d_model, context=context)
        self.limit = context
        self.table = nn.Embedding(context, d_model)

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

    def __init__(self, *, d_model: int, context: int) -> None:
        super().__init__(d_model=d_model, context=context)
        if d_model % 2:
            raise UsageError(f"position=sinusoidal pairs coordinates, so model.d_model ({d_model}) must be even")

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        place = torch.arange(start, start + x.size(1), dtype=torch.float64, device="cpu")
        pair = torch.arange(self.d_model // 2, dtype=torch.float64, device="cpu")
        angles = place[:, None] * 10000.0 ** (-2 * pair / self.d_model)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return x + waves.to(x.device, x.dtype)
