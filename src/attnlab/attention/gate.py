"""What happens to a head's output after the map."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import join_heads, split_heads
from attnlab.attention.normalizer import SharpSigmoid
from attnlab.attention.published import ALIKE, Starts
from attnlab.options import Configurable, Count, given, option


class Gate(Configurable, nn.Module, ABC):
    """Multiplies each head's output by a gate computed from the token.

    Built per layer as factory(d_model=, n_heads=, value_dim=). `project` sees the token early, `forward` acts in
    `merge` and sees the token's own value, so a gate changes no map.
    """

    d_model: Count = given(doc="Width of the model.")
    n_heads: Count = given(doc="Query heads.")
    value_dim: Count = given(doc="Width of a value in each head.")

    def project(self, x: Float[Tensor, "b t c"]) -> Tensor | None:
        """What the gate is made of, where it is more than the token's own value."""
        return None

    @abstractmethod
    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]: ...


class NoGate(Gate):
    """Leaves each head's output as it is."""

    neutral = True

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        return o


class Headwise(Gate):
    """One gate per head and token. Rule: o_h = o_h * sigmoid(w_h . x). Source: arXiv 2505.06708."""

    def setup(self) -> None:
        self.to_gate = nn.Linear(self.d_model, self.n_heads, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t 1"]:
        return self.to_gate(x).transpose(1, 2)[..., None]

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        assert gate is not None
        return o * SharpSigmoid.apply(gate)


class Elementwise(Headwise):
    """One gate per coordinate of each head. Rule: o = o * sigmoid(W x). Source: arXiv 2505.06708."""

    def setup(self) -> None:
        self.to_gate = nn.Linear(self.d_model, self.n_heads * self.value_dim, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t v"]:
        return self.to_gate(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class Swish(Elementwise):
    """One gate per coordinate, not bounded above, as in RetNet (arXiv 2307.08621) and Gated DeltaNet.

    Rule: o = o * silu(W x).
    """

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        assert gate is not None
        return o * F.silu(gate)


class Hybrid(Gate):
    """One gate per coordinate, made of the token and of what all heads bring home, each through a bottleneck.

    Rule: o = o * sigmoid(U_x silu(D_x x) + U_o silu(D_o [o_1; ...; o_h])). What a head brought may close its own gate,
    and those of the other heads.

    Source: hybrid gated attention (HyGA), arXiv 2608.11805, by the code of x-transformers. Where we differ: U_x and
    U_o, which are 0 there when training begins, start as other matrices do.
    """

    rank: Count = option(default=16, doc="Width of both bottlenecks.")

    def setup(self) -> None:
        width = self.n_heads * self.value_dim
        self.token_down = nn.Linear(self.d_model, self.rank, bias=False)
        self.token_up = nn.Linear(self.rank, width, bias=False)
        self.output_down = nn.Linear(width, self.rank, bias=False)
        self.output_up = nn.Linear(self.rank, width, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t v"]:
        return split_heads(self.token_up(F.silu(self.token_down(x))), self.n_heads)

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        assert gate is not None
        own = split_heads(self.output_up(F.silu(self.output_down(join_heads(o)))), self.n_heads)
        return o * SharpSigmoid.apply(gate + own)


class Exclusive(Gate):
    """Takes out what a head says about the token itself, along the token's own value.

    Rule: o = o - alpha_h (o . u) u, u = v / |v|. Source: arXiv 2603.09078. Where we differ: alpha, which is 1 there,
    starts at 1 and is learned per head.
    """

    published: ClassVar[Starts] = {"alpha": ALIKE}

    def setup(self) -> None:
        self.alpha = nn.Parameter(torch.ones(self.n_heads))

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        work = torch.promote_types(o.dtype, torch.float32)  # what is left is small where a head speaks of itself
        y, own = o.to(work), F.normalize(v.to(work), dim=-1)
        return (y - self.alpha.to(work)[:, None, None] * (y * own).sum(dim=-1, keepdim=True) * own).to(o.dtype)
