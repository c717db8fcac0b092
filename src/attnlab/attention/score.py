"""Score modifiers: what happens to q . k before the normaliser. Several act in an order fixed by `order`."""

from abc import ABC
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.heads import join_heads, split_heads
from attnlab.attention.mask import Mask
from attnlab.attention.norm import EPS, LAYER_EPS, LayerNorm, RMSNorm
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.score_context import KeyRows, OneScore, ScoreContext
from attnlab.attention.traits import MapKind
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, OptionError, Positive, given, option


class Score(Configurable, nn.Module, ABC):
    """A score modifier (the `score_mod` of FlexAttention), which overrides some of the methods below.

    Built per layer as factory(d_model=, n_heads=, n_kv_heads=, head_dim=), and with key_dim= where a position makes
    queries and keys wider. `fusable` says that `apply_scores` and
    `apply_weights` do nothing, so that the fused kernel can serve. At most one modifier of a layer may choose the
    `scale`; otherwise it is 1 / sqrt(d). `cached_extras` is how many numbers each token's key carries along for this
    modifier and query head: `make_extras` makes them, decoding caches them beside the key. `query_extras` is how many
    its query brings along, made by `make_query_extras`, which nobody caches. `reads_keys` says that
    `apply_scores` looks at the keys themselves, which a family that never makes them while decoding must refuse.
    `by_score` says that `one_score` does to one score what `apply_scores` does to all, and that weights stay as they
    are. `makes_scores` says that it puts scores of its own in the place of q . k, which at most one modifier of a layer
    may do. `needs_all` says that it reads every token between query and key. One that turns weights into another kind
    of map sets `map_kind`.
    """

    seams: ClassVar[tuple[str, ...]] = ("prepare", "prepare_rotated", "apply_scores", "apply_weights")
    order = 0
    fusable = True
    cached_extras = 0
    query_extras = 0
    reads_keys = False
    by_score = False
    makes_scores = False
    needs_all = False
    map_kind: ClassVar[MapKind | None] = None

    d_model: Count = given(doc="Width of the model.")
    n_heads: Count = given(doc="Query heads.")
    n_kv_heads: Count = given(default=None, null="n_heads", doc="Heads of keys and values.")
    head_dim: Count = given(doc="Width of a query and of a key.")
    key_dim: Count = given(default=None, null="head_dim", doc="Width of both when positions have rotated them.")

    def setup(self) -> None:
        self.scale: float | None = None
        self.key_dim = self.key_dim or self.head_dim

    def check(self, mask: Mask, normalizer: Normalizer) -> None:
        """Refuse a combination that makes no sense, such as a mask under which decoding drops what is needed."""
        if self.needs_all and not (mask.causal and mask.contiguous):
            raise UsageError(
                f"attention/score ({type(self).__name__}) needs every token between query and key, and no later one: "
                f"attention/mask ({type(mask).__name__}) {'drops some' if mask.causal else 'shows later ones'}; choose "
                "attention/mask=causal or window"
            )

    def prepare(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        """Change queries and keys as they are made, before positions rotate them."""
        return q, k

    def prepare_rotated(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        """Change queries and keys after positions rotated them."""
        return q, k

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        """What each token's key carries along, made after positions rotated queries and keys."""
        raise NotImplementedError

    def make_query_extras(self, q: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t e"]:
        """What each token's query brings along, made after positions rotated queries."""
        raise NotImplementedError

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        """Change the scaled scores, before position biases, masking and normalising."""
        return scores

    def one_score(self, rows: KeyRows) -> OneScore:
        """`apply_scores` for one score at a time, of a whole sequence."""
        raise NotImplementedError

    def apply_weights(
        self, weights: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        """Change the weights that the normaliser made."""
        return weights


class Scaled(Score):
    """Divides by sqrt(d) times a temperature, so that scores keep their spread as heads grow (arXiv 1706.03762).

    Rule: score_ij = q_i . k_j / (sqrt(d) temperature). A model may state a `scale` of its own in place of 1 / sqrt(d),
    as Gemma 2 does (arXiv 2408.00118).
    """

    temperature: Positive = option(default=1.0, doc="What scores are divided by, beside sqrt(d).")
    scale: Positive = option(default=None, null="1 / sqrt(d)", doc="What q . k is multiplied by.")

    def setup(self) -> None:
        self.scale = (self.scale or self.head_dim**-0.5) / self.temperature


class Unscaled(Score):
    """Leaves q . k as it is: the chapter's first example.

    Rule: score_ij = q_i . k_j. Source: S. Raschka, "Build a Large Language Model (From Scratch)", section 3.3.
    """

    def setup(self) -> None:
        self.scale = 1.0


class QKNorm(Score):
    """Gives queries and keys unit root-mean-square and a learned gain per coordinate, so that scores stay bounded.

    Rule: q = rms(q) * g_q, k = rms(k) * g_k, per head. With `over` all, the norm goes over the coordinates of all heads
    at once, as in OLMo 2 (arXiv 2501.00656).

    Source: arXiv 2010.04245. Where we differ: in arXiv 2010.04245 queries and keys have length one, and one learned
    factor of all scores stands for 1 / sqrt(d); later models have norms with gains, arXiv 2302.05442 a LayerNorm.
    """

    order = 10

    over: Literal["head", "all"] = option(default="head", doc="What is normalised at once: a head, or all of them.")
    when: Literal["before", "after"] = option(default="before", doc="Before or after positions rotate.")
    kind: Literal["rms", "layer"] = option(default="rms", doc="The norm: RMSNorm or LayerNorm.")
    eps: Positive = option(default=None, null="2^-23, for layer 1e-5", doc="Added to the mean square.")
    gain: bool = option(default=True, doc="Whether there is a gain.")
    unit_offset: bool = option(default=False, doc="Whether the gain is stored less one: 1 + w.")
    bias: bool = option(default=False, doc="Whether a LayerNorm has a shift.")

    def setup(self) -> None:
        super().setup()
        if self.kind != "layer" and self.bias:
            raise OptionError("bias", self.bias, "must be false: only kind=layer has a shift")
        if not self.gain and (self.unit_offset or self.bias):
            raise OptionError("gain", self.gain, "must be true where unit_offset or bias is")
        heads = (self.n_heads, self.n_kv_heads or self.n_heads) if self.over == "all" else (1, 1)
        width = self.key_dim if self.when == "after" else self.head_dim
        self.q_norm, self.k_norm = (self.norm(n * width) for n in heads)

    def norm(self, width: int) -> nn.Module:
        if self.kind == "rms":
            return RMSNorm(width, eps=self.eps or EPS, unit_offset=self.unit_offset, gain=self.gain)
        eps = self.eps or LAYER_EPS
        return LayerNorm(width, eps=eps, unit_offset=self.unit_offset, gain=self.gain, bias=self.bias)

    def prepare(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        return (self.normalise(self.q_norm, q), self.normalise(self.k_norm, k)) if self.when == "before" else (q, k)

    def prepare_rotated(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        return (self.normalise(self.q_norm, q), self.normalise(self.k_norm, k)) if self.when == "after" else (q, k)

    def normalise(self, norm: nn.Module, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        """Over a head, or over all; in float32 at least: what is normalised stays exact until the scores."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return norm(x) if self.over == "head" else split_heads(norm(join_heads(x)), x.size(1))


class SoftCap(Score):
    """Bends scores so that none leaves (-cap, cap).

    Rule: score = cap tanh(score / cap). Source: Gemma 2, arXiv 2408.00118.
    """

    order = 20
    fusable = False
    by_score = True

    cap: Positive = option(default=50.0, doc="What no score exceeds.")

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        return self.cap * (scores / self.cap).tanh()

    def one_score(self, rows: KeyRows) -> OneScore:
        return lambda score, b, h, i, j: self.cap * (score / self.cap).tanh()
