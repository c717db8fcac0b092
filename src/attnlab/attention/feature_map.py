"""Feature maps phi, applied to queries and keys of linear attention."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.log_scale import RISE, exceeds
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Configurable, Count, NonNegative, given, option


class FeatureMap(Configurable, nn.Module, ABC):
    """Applied to queries and keys alike.

    `positive`: every product phi(q) . phi(k) is > 0; `unit`: features have length one; `width`: how many there are.
    Where features may leave the range of float32, `exponential` is true, and the logarithms of all are given, too.
    """

    positive = False
    unit = False
    exponential = False

    head_dim: Count = given(doc="Width of a query and of a key.")

    def setup(self) -> None:
        self.width = self.head_dim
        self.query_scale = self.head_dim**-0.5

    @abstractmethod
    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]: ...

    def extreme(self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h t d"]) -> bool:
        """Whether features of these must be handled by their logarithms; asked where there are any."""
        return True

    def logs(self, k: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        """The logarithms of a key's features."""
        raise NotImplementedError

    def query_logs(self, q: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        """The logarithms of a query's features, but for a number that is the same for all of them."""
        return self.logs(q)


class IdentityMap(FeatureMap):
    """Leaves queries and keys as they are."""

    neutral = True

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return x


class EluPlusOne(FeatureMap):
    """Makes every feature positive, so that the weights of linear attention are positive too.

    Rule: phi(x) = elu(x) + 1. Source: arXiv 2006.16236. Written as exp(min(x, 0)) + relu(x), which rounds no small
    feature to zero.
    """

    positive = exponential = True

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return x.clamp(max=0.0).exp() + x.relu()

    @uncompiled  # once for both
    def extreme(self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b h t d"]) -> bool:
        return exceeds(-q, RISE / 3) or exceeds(-k, RISE / 3)  # a product of two, below 1e-28

    def logs(self, k: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return torch.where(k > 0, k.relu().log1p(), k)


class UnitLength(FeatureMap):
    """Scales queries and keys to length one, which keeps the delta rule stable.

    Rule: phi(x) = x / |x|. Source: arXiv 2406.06484. Where we differ: flash-linear-attention divides queries and keys
    by sqrt(|x|^2 + 1e-6), which is `eps`; here a length counts as it is, down to 1e-12.
    """

    unit = True

    eps: NonNegative = option(default=0.0, doc="Added to the square of a length; 0: a length counts as it is.")

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        if not self.eps:
            return F.normalize(x, dim=-1)
        return x * (x.square().sum(dim=-1, keepdim=True) + self.eps).rsqrt()


class SiLUFeatures(FeatureMap):
    """Lets each feature through as far as it is positive, with weights of either sign.

    Rule: phi(x) = x sigmoid(x). Source: lightning attention, arXiv 2501.08313. Where we differ: they treat the values
    likewise.
    """

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        return F.silu(x)


class Taylor(FeatureMap):
    """Makes products a series of the softmax's exponential.

    Rule: phi(q) . phi(k) = 1 + s + s^2 / 2, s = q . k / sqrt(d). The features are 1, x_i, x_i^2 / sqrt(2) and x_i x_j
    for i < j, with x divided by d^(1/4): d (d + 1) / 2 + d + 1 of them. Products are at least 1/2, although features
    may be negative. Source: Based, arXiv 2402.18668, which keeps the equal x_i x_j and x_j x_i apart.
    """

    positive = True

    def setup(self) -> None:
        self.width = 1 + self.head_dim + self.head_dim * (self.head_dim + 1) // 2
        self.shrink = self.head_dim**-0.25
        self.query_scale = 1.0

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        x = x * self.shrink
        i, j = torch.triu_indices(x.size(-1), x.size(-1), offset=1, device=x.device)
        return torch.cat([torch.ones_like(x[..., :1]), x, x.square() * 0.5**0.5, x[..., i] * x[..., j]], dim=-1)


class RandomFeatures(FeatureMap):
    """Estimates the softmax's exponential by `features` random directions, by positive features.

    Rule: phi(x) = exp(W x - |x|^2 / 2) / sqrt(m). x is first divided by d^(1/4), so that phi(q) . phi(k) is exp(q . k /
    sqrt(d)) on average. Directions are at right angles in groups of d, as long as Gaussian ones, and always the same
    ones.

    Source: Performer, arXiv 2009.14794. Where we differ: they draw new directions now and then, and their code adds
    1e-6 to each feature.
    """

    positive = exponential = True

    features: Count = option(default=64, doc="Random directions.")

    def setup(self) -> None:
        features, head_dim = self.features, self.head_dim
        self.directions: Tensor
        self.width = features
        self.shrink = head_dim**-0.25
        self.query_scale = 1.0
        draw = torch.Generator().manual_seed(0)
        groups = -(-features // head_dim)
        # In float64, so that the directions are the same on every processor once they are rounded.
        rotations, r = torch.linalg.qr(torch.randn(groups, head_dim, head_dim, generator=draw).double())
        # The library chooses the signs; made positive on the diagonal of R, they leave no direction more likely.
        rotations = (rotations * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]).flatten(0, 1)[:features]
        lengths = torch.randn(features, head_dim, generator=draw).double().norm(dim=-1, keepdim=True)
        self.register_buffer("directions", (rotations * lengths).to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        return self.logs(x).exp() * self.width**-0.5

    def logs(self, k: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        return self.query_logs(k) - (k * self.shrink).square().sum(dim=-1, keepdim=True) / 2

    def query_logs(self, q: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t f"]:
        return (q * self.shrink) @ self.directions.to(q.dtype).mT
