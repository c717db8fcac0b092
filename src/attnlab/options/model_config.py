"""The sizes and parts of a GPT. Imports no torch; apart from other settings, for a run executes it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from attnlab.errors import shown
from attnlab.options import Count, Fraction, OptionError, Positive, Rule, Text, check, options_of

NormKind = Literal["rms", "layer"]
MLPKind = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "xielu", "swiglu", "geglu", "geglu_tanh", "reglu"]
InitKind = Literal["gpt2", "fan_in", "torch"]
NORM_PLACES = ("pre", "post", "sandwich")
GATED = ("swiglu", "geglu", "geglu_tanh", "reglu")  # kinds whose MLP has a third matrix, the gate's
FIRST = ("n_layers", "n_heads", "d_model", "context", "norm", "mlp", "mlp_ratio", "bias", "tie", "dropout", "init")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What model= chooses; configs/model/nano.yaml says what each setting means. Its settings are `FIRST`, which every
    run has, and those that came later, at whose defaults a model is the one it was before.

    `tie` uses the embedding matrix as the head (arXiv 1608.05859); `n_heads` is there for an attention to refer to.
    Raises OptionError for a value that may not stand where it does, or not beside another.
    """

    n_layers: Annotated[int, Rule(int, least=1, most=10_000)]
    n_heads: Count = 1
    d_model: Count
    context: Count
    norm: NormKind = "layer"
    norm_eps: Positive | None = None
    norm_gain: bool = True
    norm_unit_offset: bool = False
    norm_bias: bool = False
    norm_place: Text = "pre"
    norm_shared: bool = False
    parallel: bool = False
    residual_scale: Positive = 1.0
    residual: Literal["add", "attention"] = "add"
    canon: Text | None = None
    mlp: Literal[MLPKind, "none"] = "relu2"
    mlp_ratio: Positive = 4.0
    mlp_width: Count | None = None
    bias: bool = False
    embed_scale: Positive = 1.0
    embed_norm: bool = False
    smear: bool = False
    tie: bool = True
    head_bias: bool = False
    logit_scale: Positive = 1.0
    final_softcap: Positive | None = None
    dropout: Fraction = 0.0
    init: InitKind = "gpt2"
    start: Literal["ours", "published"] = "ours"

    def __post_init__(self) -> None:
        check(options_of(type(self)) or {}, vars(self), type(self).__name__)
        if not self.norm_place.split() or {*self.norm_place.split()} - {*NORM_PLACES}:
            problem = f"must be {' | '.join(NORM_PLACES)}, or several, one for each layer"
            raise OptionError("norm_place", self.norm_place, problem)
        for name, needed, value in (
            ("norm_bias", "norm", "layer"),
            ("norm_bias", "norm_gain", True),
            ("norm_unit_offset", "norm_gain", True),
            ("norm_shared", "parallel", True),
            ("parallel", "norm_place", "pre"),
            ("parallel", "residual", "add"),
        ):
            if getattr(self, name) and getattr(self, needed) != value:
                raise OptionError(name, True, _needs(needed, value, getattr(self, needed)))
        if self.canon is not None and (set(self.canon) - {*"acd"} or len(set(self.canon)) < len(self.canon)):
            raise OptionError("canon", self.canon, "must be letters of acd: before attention, before and in the MLP")
        for letter, where in (("c", "before"), ("d", "inside")):
            if self.mlp == "none" and letter in (self.canon or ""):
                raise OptionError("canon", self.canon, f"has a layer {where} the MLP, and model.mlp is none")
        for name in ("parallel", "bias", "mlp_width"):
            if self.mlp == "none" and getattr(self, name):
                raise OptionError(name, getattr(self, name), "needs an MLP, and model.mlp is none")

    def norm_place_of(self, layer: int) -> str:
        """Where the norms of a layer stand: the words of `norm_place` are repeated to the depth of the model."""
        places = self.norm_place.split()
        return places[layer % len(places)]

    @property
    def hidden(self) -> int:
        """Width of the MLP: `mlp_width`, or d_model * `mlp_ratio`, less a third where a gate's matrix comes on top."""
        ratio = self.mlp_ratio * (2 / 3 if self.mlp in GATED else 1)
        return self.mlp_width or max(1, round(self.d_model * ratio))


def _needs(name: str, value: Any, current: Any) -> str:
    return f"needs model.{name}={shown(value)}, which is {shown(current)}"
