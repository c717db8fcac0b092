"""Embeddings of positions, added to those of the tokens at the model's entrance."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.documents import Documents, Start, positions, reach, say_again
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, Natural, given, option


class Embedding(Configurable, nn.Module, ABC):
    """Position information added to the token embeddings.

    Built once per model as factory(d_model=, context=). `limit` is the number of positions it knows, None if any.
    `documents` says whether what it writes takes documents where the first position stands.
    """

    documents: ClassVar[bool] = False
    d_model: Count = given(doc="Width of the model.")
    context: Count = given(doc="Tokens that the model is made for.")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        say_again(cls, "forward")

    def setup(self) -> None:
        self.limit: int | None = None

    @abstractmethod
    def forward(self, x: Float[Tensor, "b n c"], start: Start = 0) -> Float[Tensor, "b n c"]: ...


class NoEmbedding(Embedding):
    """Adds nothing."""

    documents = neutral = True

    def forward(self, x: Float[Tensor, "b n c"], start: Start = 0) -> Float[Tensor, "b n c"]:
        return x


class LearnedEmbedding(Embedding):
    """Adds one trained vector per position, as in GPT-2; it knows no position beyond the model's context.

    Rule: x_p = x_p + table[p]. Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
    With `offset`, p + offset is the row, and those before it are not used, as in OPT (arXiv 2205.01068).

    Texts longer than the context are refused, unless `extend` says how they are read. With zero nothing is added to
    tokens beyond it. With interpolate a longer row is stretched over the table (p (context - 1) / (length - 1), between
    two rows in proportion, arXiv 2306.15595); it takes the row's whole length, which decoding does not know.
    """

    documents = True
    offset: Natural = option(default=0, doc="Rows of the table before that of the first position.")
    extend: Literal["refuse", "zero", "interpolate"] = option(default="refuse", doc="How longer texts are read.")

    def setup(self) -> None:
        self.limit = self.context if self.extend == "refuse" else None
        self.table = nn.Embedding(self.context + self.offset, self.d_model)

    def forward(self, x: Float[Tensor, "b n c"], start: Start = 0) -> Float[Tensor, "b n c"]:
        if (needed := reach(start, x.size(1))) > self.context:
            return x + self._beyond(x, start, needed)
        if isinstance(start, Documents):
            return x + self.table(start.positions + self.offset)
        first = self.offset + start
        return x + self.table.weight[first : first + x.size(1)]

    def _beyond(self, x: Float[Tensor, "b n c"], start: Start, needed: int) -> Float[Tensor, "*b n c"]:
        """What is added where more positions are needed than there are."""
        if self.extend == "refuse":
            raise UsageError(
                f"position=learned knows {self.context} positions (model.context), not {needed}; "
                "use position=rope for longer texts"
            )
        table = self.table.weight[self.offset :]
        position = start.positions if isinstance(start, Documents) else positions(start, x.size(1), x.device)
        if self.extend == "zero":
            rows = table[position.clamp(max=self.context - 1)]
            return rows.masked_fill((position >= self.context)[..., None], 0.0)
        if start != 0:
            raise UsageError(
                f"position.embed.extend=interpolate stretches whole rows over {self.context} positions (model.context)"
                f": none can be continued to {needed}, nor hold several documents; use extend=zero"
            )
        stretched = position.to(table.dtype) * ((self.context - 1) / (needed - 1))
        below = stretched.floor().long().clamp(max=max(self.context - 2, 0))
        return torch.lerp(table[below], table[(below + 1).clamp(max=self.context - 1)], (stretched - below)[..., None])


class SinusoidalEmbedding(Embedding):
    """Adds fixed sines and cosines of geometrically spaced wavelengths (arXiv 1706.03762, section 3.5).

    Rule: x_p = x_p + [sin(p / 10000^(2i/c)); cos(p / 10000^(2i/c))]. Even coordinates 2i hold the sine, odd ones the
    cosine; any position is known.
    """

    documents = True

    def setup(self) -> None:
        super().setup()
        if self.d_model % 2:
            raise UsageError(f"position=sinusoidal pairs coordinates, so model.d_model ({self.d_model}) must be even")

    def forward(self, x: Float[Tensor, "b n c"], start: Start = 0) -> Float[Tensor, "b n c"]:
        position = positions(start, x.size(1), torch.device("cpu")).double()
        position = position[:, 0] if isinstance(start, Documents) else position
        pair = torch.arange(self.d_model // 2, dtype=torch.float64, device="cpu")
        angles = position[..., None] * 10000.0 ** (-2 * pair / self.d_model)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return x + waves.to(x.device, x.dtype)


class Smear(nn.Module):
    """Adds to each token's embedding a share of the one before it, so that pairs are known at the entrance.

    Rule: x_t = x_t + lambda sigmoid(w . x_t[:24]) x_{t-1}. lambda starts at 0; the first token of a document has none
    before it.

    Source: K. Jordan and others, "modded-nanogpt" (2025), and nanochat.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.channels = min(24, d_model)
        self.to_gate = nn.Linear(self.channels, 1, bias=False)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(
        self, x: Float[Tensor, "b n c"], before: Float[Tensor, "b 1 c"] | None, start: Start
    ) -> Float[Tensor, "b n c"]:
        """`before` is the embedding of the token before these, None if they are the first."""
        if not x.size(1):
            return x
        last = torch.zeros_like(x[:, :1]) if before is None else before.to(x.dtype)
        earlier = torch.cat([last, x[:, :-1]], dim=1)
        if isinstance(start, Documents):
            earlier = earlier.masked_fill(start.starts[..., None], 0.0)
        return x + self.strength * self.to_gate(x[..., : self.channels]).sigmoid() * earlier
