"""Embeddings of positions, added to those of the tokens at the model's entrance."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, Natural, given, option


class Embedding(Configurable, nn.Module, ABC):
    """Position information added to the token embeddings.

    Built once per model as factory(d_model=, context=). `limit` is the number of positions it knows, None if any.
    """

    d_model: Count = given(doc="Width of the model.")
    context: Count = given(doc="Tokens that the model is made for.")

    def setup(self) -> None:
        self.limit: int | None = None

    @abstractmethod
    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]: ...


class NoEmbedding(Embedding):
    """Adds nothing."""

    neutral = True

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        return x


class LearnedEmbedding(Embedding):
    """Adds one trained vector per position, as in GPT-2; it knows no position beyond the model's context.

    Rule: x_p = x_p + table[p]. Source: A. Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
    With `offset`, p + offset is the row, and those before it are not used, as in OPT (arXiv 2205.01068).
    """

    offset: Natural = option(default=0, doc="Rows of the table before that of the first position.")

    def setup(self) -> None:
        self.limit = self.context
        self.table = nn.Embedding(self.context + self.offset, self.d_model)

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        if start + x.size(1) > self.context:
            raise UsageError(
                f"position=learned knows {self.context} positions (model.context), not {start + x.size(1)}; "
                "use position=rope for longer texts"
            )
        first = self.offset + start
        return x + self.table.weight[first : first + x.size(1)]


class SinusoidalEmbedding(Embedding):
    """Adds fixed sines and cosines of geometrically spaced wavelengths (arXiv 1706.03762, section 3.5).

    Rule: x_p = x_p + [sin(p / 10000^(2i/c)); cos(p / 10000^(2i/c))]. Even coordinates 2i hold the sine, odd ones the
    cosine; any position is known.
    """

    def setup(self) -> None:
        super().setup()
        if self.d_model % 2:
            raise UsageError(f"position=sinusoidal pairs coordinates, so model.d_model ({self.d_model}) must be even")

    def forward(self, x: Float[Tensor, "b n c"], start: int = 0) -> Float[Tensor, "b n c"]:
        position = torch.arange(start, start + x.size(1), dtype=torch.float64, device="cpu")
        pair = torch.arange(self.d_model // 2, dtype=torch.float64, device="cpu")
        angles = position[:, None] * 10000.0 ** (-2 * pair / self.d_model)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return x + waves.to(x.device, x.dtype)
