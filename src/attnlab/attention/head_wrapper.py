"""Several attentions side by side on one layer."""

import functools
import operator
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.base import Attention, AttentionFactory, Shared, State
from attnlab.attention.heads import indivisible
from attnlab.options import Count, OptionError, Text, option, slot


def by_name(pattern: str, kinds: Mapping[str, AttentionFactory]) -> list[AttentionFactory]:
    """The factories a pattern such as "local local global" names, in its order."""
    names = pattern.split()
    unknown = sorted(set(names) - set(kinds))
    if unknown or not names:
        raise OptionError("pattern", repr(pattern), f"may only hold names of attention.kinds: {sorted(kinds)}")
    return [kinds[name] for name in names]


class HeadWrapper(Attention):
    """Runs several attentions side by side and lays their outputs next to each other.

    Rule: y = [y_1; ...; y_n], each head of its own kind. `pattern` names a kind for each of the `n_heads` places and is
    repeated until they are full. There is no output projection. Maps and states are stacked, costs add. What a head
    hands to later layers, the head in its place reads.

    Source: S. Raschka, "Build a Large Language Model (From Scratch)", section 3.6.1.
    """

    documents = True
    n_heads: Count = option(doc="Places for heads.")
    pattern: Text = option(doc="Names of kinds, one for each place, repeated until they are full.")
    kinds: dict[str, Attention] = slot(doc="The attentions that the pattern names.")

    def setup(self) -> None:
        super().setup()
        if self.d_out % self.n_heads:
            raise indivisible(self.n_heads, self.d_out)
        chosen = by_name(self.pattern, self._slots["kinds"])
        sizes = {"d_out": self.d_out // self.n_heads, "layer": self.layer, "n_layers": self.n_layers}
        self.heads = nn.ModuleList(
            chosen[i % len(chosen)](self.d_model, context=self.context, **sizes) for i in range(self.n_heads)
        )
        self.traits = functools.reduce(operator.or_, (head.traits for head in self.parts))

    @property
    def parts(self) -> list[Attention]:
        """The attentions that stand side by side."""
        return list(self.heads)  # type: ignore[arg-type]

    def records(self, shared: Shared | None) -> list[tuple[Attention, Shared]]:
        """Each head, and what it and those in its place share from layer to layer."""
        whole = Shared() if shared is None else shared
        return [(head, whole.part(i)) for i, head in enumerate(self.parts)]

    def forward(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b t o"]:
        heads, outputs = self.records(shared), []
        for i in range(self.n_heads):  # by number: an iterator does not outlive a head that leaves compiled code
            outputs.append(heads[i][0](x, heads[i][1]))
        return torch.cat(outputs, dim=-1)

    def weights(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h t s"] | None:
        maps = [head.weights(x, own) for head, own in self.records(shared)]
        drawn = [a for a in maps if a is not None]
        return torch.cat(drawn, dim=1) if len(drawn) == len(maps) else None

    def value_norms(self, x: Float[Tensor, "b t c"], shared: Shared | None = None) -> Float[Tensor, "b h s"] | None:
        norms = [head.value_norms(x, own) for head, own in self.records(shared)]
        own = [norm for norm in norms if norm is not None]
        return torch.cat(own, dim=1) if len(own) == len(norms) else None

    def init_state(self, batch: int, max_len: int) -> State:
        return tuple(head.init_state(batch, max_len) for head in self.parts)

    def step(
        self, x: Float[Tensor, "b n c"], state: State, shared: Shared | None = None
    ) -> tuple[Float[Tensor, "b n o"], State]:
        done = [head.step(x, s, own) for (head, own), s in zip(self.records(shared), state, strict=True)]
        return torch.cat([y for y, _ in done], dim=-1), tuple(s for _, s in done)

    def pairs(self, seq_len: int) -> int | None:
        """Pairs of all heads, divided by their number: what one reads on average; None where one of them has none."""
        counts = [p for p in (head.pairs(seq_len) for head in self.parts) if p is not None]
        return sum(counts) // len(counts) if len(counts) == len(self.parts) else None


def layered(
    d_model: int,
    *,
    pattern: Text,
    kinds: Mapping[str, AttentionFactory],
    layer: int = 0,
    n_layers: int = 1,
    context: int = 1024,
) -> Attention:
    """Gives each layer its own kind: `pattern` names one per layer and is repeated to the depth of the model."""
    chosen = by_name(pattern, kinds)
    return chosen[layer % len(chosen)](d_model, layer=layer, n_layers=n_layers, context=context)
