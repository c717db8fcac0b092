"""The sizes and parts of a GPT. Imports no torch; apart from other settings, for a run executes it."""

from dataclasses import dataclass
from typing import Literal

from attnlab.options import Count, Fraction, Positive, check, options_of

MLPKind = Literal["gelu", "relu2", "swiglu"]
InitKind = Literal["gpt2", "fan_in"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What model= chooses. `tie` uses the embedding matrix as the head (arXiv 1608.05859); `n_heads` is there for an
    attention to refer to. Raises OptionError for a value that may not stand where it does."""

    n_layers: Count
    n_heads: Count = 1
    d_model: Count
    context: Count
    norm: Literal["rms", "layer"] = "layer"
    mlp: MLPKind = "relu2"
    mlp_ratio: Positive = 4.0
    bias: bool = False
    tie: bool = True
    dropout: Fraction = 0.0
    init: InitKind = "gpt2"

    def __post_init__(self) -> None:
        check(options_of(type(self)) or {}, vars(self), type(self).__name__)
