"""The one interface every attention variant has, and the laws it obeys.

Axes, in every annotation and einsum: `b` batch, `t` query positions, `s` key positions, `n` tokens in one decode
step, `c` model width, `o` output width, `h` query heads, `g` key/value heads, `d` query/key width per head,
`v` value width per head. Layout is (b, h, t, d) everywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.cost import Cost, measure
from attnlab.attention.documents import Start, say_again
from attnlab.attention.evaluating import evaluating
from attnlab.attention.heads import Heads, Kernel, indivisible, mix_apart, per_query_head, unshared
from attnlab.attention.position import NoPE, Position
from attnlab.attention.shared import Shared
from attnlab.attention.tokens import checks_tokens
from attnlab.attention.traits import Traits
from attnlab.options import Configurable, Count, Natural, given, option, slot

State = Any  # nested tuples of tensors and ints; only the variant that made it looks inside


class Attention(Configurable, nn.Module, ABC):
    """A causal sequence mixer: y[:, i] is a function of x[:, : i + 1] and of nothing else.

    The laws (checked for every configuration by tests/laws): output shape; causality; the map reproduces the
    output; any cutting of the sequence into `step` calls equals `forward`; every parameter gets a gradient; rows
    of a batch do not see each other; `cost` is what is counted; the state grows as `traits.growth` says.
    Tokens of another shape or type than the layer was built for are refused by every method that takes some.

    A subclass says what it is in `traits`, once for the class or in `setup`, and by `documents` whether its own code
    honours `shared.documents`; what one inherits that writes a method anew which sees whole rows, it says again.
    """

    documents: ClassVar[bool] = False
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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("forward", "weights", "step", "value_norms"):
            if name in vars(cls):
                setattr(cls, name, checks_tokens(vars(cls)[name]))
        say_again(cls, "forward", "weights", "value_norms", "project", "share", "merge")
        if getattr(cls, "mixes_rows", False):
            say_again(cls, "mix", "map_of", "scan")

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

        `below` are the layers under it, needed where it `requires` what they publish; their own cost is not counted.
        """
        return measure(self, seq_len, below)


# Called as factory(d_model, layer=, n_layers=, context=): what `_partial_: true` in a YAML gives.
AttentionFactory = Callable[..., Attention]


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
    position: Position = slot(default=NoPE, doc="Position information inside attention.")

    seams: ClassVar[tuple[str, ...]] = ("project", "share", "mix", "merge")  # of every pass, in this order
    hooks = frozenset[str]()  # which hooks of a Position this family can honour: "rotate", "bias", "widen"
    mixes_rows: ClassVar[bool] = False  # whether `mix` keeps `heads.documents` apart itself
    kernel: Kernel | None = None  # what `forward` mixes by in place of `mix`, see attnlab.attention.backends
    mix_documents = staticmethod(mix_apart)  # what `mix` gives of each document alone
    eager = False  # whether `forward` writes the map out, see `mix_by_map`

    def setup(self) -> None:
        super().setup()
        self.map = nn.Identity()
        self.n_kv_heads = self.n_kv_heads or self.n_heads
        if not self.head_dim and self.d_out % self.n_heads:
            raise indivisible(self.n_heads, self.d_out)
        if self.n_heads % self.n_kv_heads:
            raise unshared(self.n_kv_heads, self.n_heads)
        self.head_dim = self.head_dim or self.d_out // self.n_heads
        self.value_dim = self.value_dim or self.head_dim
        self.position = self.build_position(head_dim=self.head_dim)

    def build_position(self, head_dim: int) -> Position:
        """Build the position, or refuse it if it needs a hook that this family does not have."""
        position: Position = self.build("position", head_dim=head_dim, n_heads=self.n_heads, context=self.context)
        position.check_hooks(self.hooks, type(self).__name__)
        return position

    @abstractmethod
    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
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

    def heads_of(self, x: Float[Tensor, "b t c"], shared: Shared | None) -> Heads:
        """The heads of whole rows, or of the documents in them."""
        shared = Shared() if shared is None else shared
        heads = self.share(self.project(x, shared.documents or 0), shared)
        return heads._replace(documents=shared.documents) if self.mixes_rows else heads

    def forward(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b t o"]:
        heads, documents = self.heads_of(x, shared), None if shared is None else shared.documents
        if self.kernel is not None and not self.eager and not x.is_meta:
            return self.merge(self.kernel(self, heads, documents), heads)
        mix = self.mix_by_map if self.eager else self.mix
        mixed = mix(heads) if documents is None or self.mixes_rows else self.mix_documents(mix, heads, documents)
        return self.merge(mixed, heads)

    def mix_by_map(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """What `mix` gives, as A v: the map goes through the module `map`, where a hook reads or replaces it."""
        if self.traits.map_kind == "none":
            return self.mix(heads)
        return self.map(self.map_of(heads)).to(heads.v.dtype) @ per_query_head(heads.v, self.n_heads)

    def map_of(self, heads: Heads) -> Float[Tensor, "b h t s"]:
        """The map A of o = A v: what `mix` makes of the identity."""
        b, g, s = heads.v.shape[:3]
        identity = torch.eye(s, dtype=heads.v.dtype, device=heads.v.device).expand(b, g, s, s)
        return self.mix(heads._replace(v=identity))

    @torch.no_grad()
    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h t s"] | None:
        with evaluating(self):
            heads = self.heads_of(x, shared)
            if shared is None or shared.documents is None or self.mixes_rows:
                return self.map_of(heads)
            return shared.documents.blocks([self.map_of(part) for part in heads.apart(shared.documents)])

    @torch.no_grad()
    def value_norms(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h s"] | None:
        with evaluating(self):
            return per_query_head(self.heads_of(x, shared).v.norm(dim=-1), self.n_heads)
