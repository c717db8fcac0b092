"""How a token is written into the memory of a recurrent layer."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.feature_map import FeatureMap
from attnlab.errors import UsageError


class Write(nn.Module):
    """Adds the value under its key, whatever is stored there already: S + k v^T."""

    erases = False

    def __init__(self, *, d_model: int, n_heads: int) -> None:
        super().__init__()

    def check(self, feature_map: FeatureMap) -> None:
        """Refuse a combination that makes no sense."""

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return None


class DeltaWrite(Write):
    """Writes only what the memory does not know yet: S + beta k (v - S^T k)^T, beta = beta_max * sigmoid(w . x).

    With `beta_max` 2 a write may also turn a stored value around, which lets the layer count modulo two (arXiv
    2411.12537). Source: arXiv 2102.11174 and 2406.06484.
    """

    erases = True

    def __init__(self, *, d_model: int, n_heads: int, beta_max: float = 1.0) -> None:
        super().__init__(d_model=d_model, n_heads=n_heads)
        if not 0 < beta_max <= 2:
            raise UsageError(
                f"attention.write.beta_max ({beta_max}) must be in (0, 2]: the memory would grow without bound"
            )
        self.beta_max = beta_max
        self.to_beta = nn.Linear(d_model, n_heads, bias=False)

    def check(self, feature_map: FeatureMap) -> None:
        if not feature_map.unit:
            raise UsageError(
                "attention/write=delta multiplies the memory by I - beta k k^T, which grows without bound for keys "
                f"longer than one, and {type(feature_map).__name__} leaves them so: use attention/feature_map=unit"
            )

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return self.beta_max * self.to_beta(x).sigmoid().transpose(1, 2)
