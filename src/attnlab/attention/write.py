"""How a token is written into the memory of a recurrent layer."""

from abc import ABC, abstractmethod
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.feature_map import FeatureMap
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, given, option
from attnlab.options.rules import Rule


class Write(Configurable, nn.Module, ABC):
    """Says how strongly a token corrects what is stored under its key; None where it adds to it."""

    erases = False

    d_model: Count = given(doc="Width of the model.")
    n_heads: Count = given(doc="Writes per token.")

    def check(self, feature_map: FeatureMap) -> None:
        """Refuse a combination that makes no sense."""

    @abstractmethod
    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None: ...


class AddWrite(Write):
    """Adds the value under its key, whatever is stored there already.

    Rule: S_t = a_t S_{t-1} + k_t v_t^T. Source: arXiv 2006.16236.
    """

    def project(self, x: Float[Tensor, "b t c"]) -> None:
        return None


class DeltaWrite(Write):
    """Writes only what the memory does not know yet.

    Rule: S_t = a_t S_{t-1} + beta k (v - a_t S_{t-1}^T k)^T, beta = beta_max sigmoid(w . x). With `beta_max` 2 a write
    may also turn a stored value around, which lets the layer count modulo two (arXiv 2411.12537). Source: arXiv
    2102.11174 and 2406.06484.
    """

    erases = True

    beta_max: Annotated[float, Rule(float, above=0, most=2)] = option(
        default=1.0, doc="The largest strength of a write; beyond 2 the memory would grow without bound."
    )

    def setup(self) -> None:
        self.to_beta = nn.Linear(self.d_model, self.n_heads, bias=False)

    def check(self, feature_map: FeatureMap) -> None:
        if not feature_map.unit:
            raise UsageError(
                "attention/write=delta multiplies the memory by I - beta k k^T, which grows without bound for keys "
                f"longer than one, and {type(feature_map).__name__} leaves them so: use attention/feature_map=unit"
            )

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"] | None:
        return self.beta_max * self.to_beta(x).sigmoid().transpose(1, 2)
