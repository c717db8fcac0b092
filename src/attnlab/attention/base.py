"""The one interface every attention variant has, and the laws it obeys.

Axes, in every annotation and einsum: `b` batch, `t` query positions, `s` key positions, `n` tokens in one decode
step, `c` model width, `o` output width, `h` query heads, `g` key/value heads, `d` query/key width per head,
`v` value width per head. Layout is (b, h, t, d) everywhere.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from attnlab.attention.cost import Cost, measure
from attnlab.attention.shared import Shared
from attnlab.errors import UsageError
from attnlab.options import Configurable, Count, Natural, OptionError, given, option, slot
from attnlab.position import Position

MapKind = Literal["probability", "sub_probability", "nonnegative", "signed", "none"]
Growth = Literal["constant", "window", "linear"]
State = Any  # nested tuples of tensors and ints; only the variant that made it looks inside


class Heads(NamedTuple):
    """What `project` makes of a sequence: queries, keys, values, and whatever else mixing and merging need."""

    q: Float[Tensor, "b h t d"]
    k: Float[Tensor, "b g s d"]
    v: Float[Tensor, "b g s v"]
    extra: dict[str, Tensor]  # gates, decays, write strengths, the tail of a short convolution


@dataclass(frozen=True)
class Traits:
    """What a layer is, as the laws, the pictures and the model need to know it.

    `map_kind` says what the weights of its map are, `growth` how what decoding keeps grows. `causal` is False only for
    the worked example of the first chapter; a GPT refuses such a layer. `learns_recall` is False for a control, which
    cannot learn to look something up; then a law asserts that it indeed cannot. `reads_positions` is False where
    weights do not come from queries and keys, so that nothing could be rotated or biased: such a layer takes no
    `position`. `jumps` is True where the rule is not continuous, so that rounding moves a few outputs far: then
    bfloat16 is held to be near on average. `reads` names what a layer needs of those below it, as they publish it.
    `limit` is the number of positions it knows, None if any.
    """

    map_kind: MapKind
    growth: Growth
    causal: bool = True
    learns_recall: bool = True
    reads_positions: bool = True
    jumps: bool = False
    reads: tuple[str, ...] = ()
    limit: int | None = None

    def __or__(self, other: "Traits") -> "Traits":
        """What two attentions side by side are together: of maps and states, the kind that is true of both."""
        kinds: list[MapKind] = ["none", "signed", "nonnegative", "sub_probability", "probability"]
        growths: list[Growth] = ["linear", "window", "constant"]
        return Traits(
            min(self.map_kind, other.map_kind, key=kinds.index),
            min(self.growth, other.growth, key=growths.index),
            self.causal and other.causal,
            self.learns_recall or other.learns_recall,
            self.reads_positions or other.reads_positions,
            self.jumps or other.jumps,
            tuple(dict.fromkeys(self.reads + other.reads)),
            min((limit for limit in (self.limit, other.limit) if limit is not None), default=None),
        )


class Attention(Configurable, nn.Module, ABC):
    """A causal sequence mixer: y[:, i] is a function of x[:, : i + 1] and of nothing else.

    The laws (checked for every configuration by tests/contracts): output shape; causality; the map reproduces the
    output; any cutting of the sequence into `step` calls equals `forward`; every parameter gets a gradient; rows
    of a batch do not see each other; `cost` is what is counted; the state grows as `traits.growth` says.
    Tokens of another shape or type than the layer was built for are refused by every method that takes some.

    A subclass says what it is in `traits`, once for the class or in `setup`.
    """

    d_model: Count = given(kw_only=False, doc="Width of the input.")
    d_out: Count = given(default=None, null="d_model", doc="Width of the output.")
    layer: Natural = given(default=0, doc="Which layer this is, from 0.")
    n_layers: Count = given(default=1, doc="How many layers there are.")
    context: Count = given(default=1024, doc="Tokens that the model is made for.")

    def setup(self) -> None:
        self.traits: Traits
        self.anchor: Tensor
        self.d_out = self.d_out or self.d_model
        # Tells dtype and device even where a variant has no parameters.
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in ("forward", "weights", "step", "value_norms"):
            if name in vars(cls):
                setattr(cls, name, _checks_tokens(vars(cls)[name]))

    @abstractmethod
    def forward(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b t o"]:
        """Mix a whole sequence: the training path, with no extras."""

    @abstractmethod
    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h t s"] | None:
        """How much of value j is in output i, without dropout; None only if the mixer is not linear in its values."""

    @abstractmethod
    def init_state(self, batch: int, max_len: int) -> State:
        """An empty decode state for up to `max_len` tokens: rows of keys and values, a ring, or one fixed matrix.

        `step` may write into the state it is given, so a state can be used once.
        """

    @abstractmethod
    def step(
        self, x: Float[Tensor, "b n c"], state: State, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], State]:
        """Mix n >= 1 new tokens after those already in `state`. A prompt is a step with a large n."""

    def value_norms(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h s"] | None:
        """The L2 norm of each token's value in each head: a large weight on a tiny value moves nothing."""
        return None

    def pairs(self, seq_len: int) -> int | None:
        """(query, key) pairs that one head's rule may read in `seq_len` tokens; None where there are no pairs."""
        return None

    def cost(self, seq_len: int, below: Sequence["Attention"] = ()) -> Cost:
        """What this layer costs at `seq_len` tokens, measured by running a copy that holds no numbers.

        `below` are the layers under it, needed where it `reads` what they publish; their own cost is not counted.
        """
        return measure(self, seq_len, below)


def _checks_tokens(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, behind a look at its tokens: some layers would turn wrong ones into wrong outputs in silence."""

    @functools.wraps(method)
    def checked(self: Attention, x: Any, *rest: Any, **settings: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3 or x.size(-1) != self.d_model:
            given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UsageError(
                f"{type(self).__name__} takes a tensor of shape (batch, tokens, {self.d_model}), not {given}"
                + ("; x[None] is a batch of one" if isinstance(x, Tensor) and x.ndim == 2 else "")
            )
        dtype = self.anchor.dtype
        if x.dtype != dtype and not (x.is_floating_point() and _autocasts(x.device)):
            raise UsageError(f"{type(self).__name__} computes in {dtype}, not in {x.dtype}: convert x or the layer")
        return method(self, x, *rest, **settings)

    return checked


def _autocasts(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


AttentionFactory = Callable[..., Attention]
"""Called as factory(d_model, layer=, n_layers=, context=): what `_partial_: true` in a YAML gives."""


class HeadedAttention(Attention, ABC):
    """Project -> mix -> merge: `forward` and `weights` are written here once, for all.

    A subclass writes `project` (queries, keys, values), `mix` (moves information between positions; must be linear
    in the values) and `merge` (what comes after the map). Because `mix` is linear in the values, feeding it the
    identity as values gives the map A of o = A v: the picture is computed by the code that trains.
    """

    n_heads: Count = option(doc="Query heads.")
    n_kv_heads: Count = option(
        default=None, null="n_heads", doc="Heads of keys and values, each read by several queries."
    )
    head_dim: Count = option(default=None, null="d_model / n_heads", doc="Width of a query and of a key in each head.")
    value_dim: Count = option(default=None, null="head_dim", doc="Width of a value in each head.")
    position: Position = slot(default=Position, doc="Position information inside attention.")

    hooks = frozenset[str]()  # which hooks of a Position this family can honour: "rotate", "bias"

    def setup(self) -> None:
        super().setup()
        self.n_kv_heads = self.n_kv_heads or self.n_heads
        if not self.head_dim and self.d_out % self.n_heads:
            raise indivisible(self.n_heads, self.d_out)
        if self.n_heads % self.n_kv_heads:
            fits = [n for n in range(1, self.n_heads + 1) if self.n_heads % n == 0]
            problem = f"must divide n_heads ({self.n_heads}); try n_kv_heads in {fits}"
            raise OptionError("n_kv_heads", self.n_kv_heads, problem)
        self.head_dim = self.head_dim or self.d_out // self.n_heads
        self.value_dim = self.value_dim or self.head_dim
        self.position = self.build_position(head_dim=self.head_dim)

    def build_position(self, head_dim: int) -> Position:
        """Build the position, or refuse it if it needs a hook that this family does not have."""
        position: Position = self.build("position", head_dim=head_dim, n_heads=self.n_heads, context=self.context)
        if missing := position.hooks - self.hooks:
            raise UsageError(
                f"position.inside ({type(position).__name__}) works through {' and '.join(sorted(missing))}, but "
                f"{type(self).__name__} offers only {' and '.join(sorted(self.hooks)) or 'no hook'}: "
                "choose another position= (learned, sinusoidal and none, which act outside the layers, always fit)"
            )
        return position

    @abstractmethod
    def project(self, x: Float[Tensor, "b t c"], start: int = 0, tail: Tensor | None = None) -> Heads:
        """Make the heads of tokens at positions start .. start + t; `tail` is what a short convolution remembers."""

    @abstractmethod
    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """Move information between positions. Must be linear in `heads.v`."""

    @abstractmethod
    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        """Everything after the map: per-head norm, output gate, output projection."""

    def share(self, heads: Heads, shared: Shared) -> Heads:
        """Publish to later layers, or use what an earlier one published; by default neither."""
        return heads

    def forward(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b t o"]:
        heads = self.share(self.project(x), Shared() if shared is None else shared)
        return self.merge(self.mix(heads), heads)

    @torch.no_grad()
    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h t s"] | None:
        with evaluating(self):
            heads = self.share(self.project(x), Shared() if shared is None else shared)
            b, g, s = heads.v.shape[:3]
            identity = torch.eye(s, dtype=heads.v.dtype, device=heads.v.device).expand(b, g, s, s)
            return self.mix(heads._replace(v=identity))

    @torch.no_grad()
    def value_norms(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h s"] | None:
        with evaluating(self):
            v = self.share(self.project(x), Shared() if shared is None else shared).v
        return per_query_head(v.norm(dim=-1), self.n_heads)


def indivisible(n_heads: int, width: int) -> UsageError:
    """Heads that do not divide a width, and which would."""
    fits = [n for n in range(1, min(width, 64) + 1) if width % n == 0]
    return UsageError(f"n_heads ({n_heads}) must divide d_model ({width}); try n_heads in {fits}")


def split_heads(y: Float[Tensor, "b t hd"], n: int) -> Float[Tensor, "b h t d"]:
    """(b, t, h * d) -> (b, h, t, d)."""
    return y.unflatten(-1, (n, -1)).transpose(1, 2)


def join_heads(o: Float[Tensor, "b h t d"]) -> Float[Tensor, "b t hd"]:
    """(b, h, t, d) -> (b, t, h * d)."""
    return o.transpose(1, 2).flatten(2)


def per_query_head(x: Shaped[Tensor, "b g *rest"], n_heads: int) -> Shaped[Tensor, "b h *rest"]:
    """What each query head reads of the key/value heads; where each has one of its own, nothing is copied."""
    return x if x.size(1) == n_heads else x.repeat_interleave(n_heads // x.size(1), dim=1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch dropout off inside the block, and put the module's mode back afterwards."""
    was = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in was:
            m.training = training


def running_sum(x: Tensor, dim: int = -1) -> Tensor:
    """Running sums in float64, of which differences are taken: in float32 they lose a digit where sums are ten times as
    long. An Apple GPU has no float64."""
    return x.cumsum(dim, dtype=x.dtype if x.device.type == "mps" else torch.float64)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off inside the block: for sums kept in float32, and for kernels that are slow in bfloat16."""
    return torch.autocast(device.type, enabled=False) if _autocasts(device) else nullcontext()
