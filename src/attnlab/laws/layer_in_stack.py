"""A layer where it stands: with the layers below it, which may publish what it reads."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.base import Attention, Shared, State
from attnlab.attention.shared import Record
from attnlab.laws.subject import CONTEXT, LONG, SHORT, Subject, perturbed, tokens


class LayerInStack(nn.Module):
    """One layer and, if it reads what earlier layers publish, those layers; all see the same input.

    `label` says which layer it is, where a model's layers differ; otherwise it is empty.
    """

    def __init__(self, layer: Attention, below: list[Attention], label: str) -> None:
        super().__init__()
        self.layer, self.label = layer, label
        self.below = nn.ModuleList(below)

    @property
    def layers(self) -> list[Attention]:
        """The layers below and this one, lowest first."""
        return [*self.below, self.layer]

    def shared(self, x: Float[Tensor, "b t c"]) -> Shared:
        """What the layers below publish for this input."""
        shared = Shared(ids=ids_of(x))
        for layer in self.below:
            layer(x, shared)
        return shared

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t o"]:
        return self.layer(x, self.shared(x))

    def weights(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t s"] | None:
        with torch.no_grad():
            return self.layer.weights(x, self.shared(x))

    def value_norms(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h s"] | None:
        with torch.no_grad():
            return self.layer.value_norms(x, self.shared(x))

    def init_state(self, batch: int, max_len: int) -> list[State]:
        return [layer.init_state(batch, max_len) for layer in self.layers]

    def step(self, x: Float[Tensor, "b n c"], state: list[State]) -> tuple[Float[Tensor, "b n o"], list[State]]:
        shared, after, y = Shared(ids=ids_of(x)), [], x
        for layer, its_state in zip(self.layers, state, strict=True):
            y, its_state = layer.step(x, its_state, shared)
            after.append(its_state)
        return y, after

    def decode(self, x: Float[Tensor, "b t c"], cut: list[int], max_len: int) -> Float[Tensor, "b t o"]:
        """The outputs of a sequence that is cut into pieces of these sizes."""
        state, out = self.init_state(x.size(0), max_len), []
        for piece in x.split(cut, dim=1):
            y, state = self.step(piece, state)
            out.append(y)
        return torch.cat(out, dim=1)

    def state_after(self, length: int, cut: list[int], dtype: torch.dtype) -> State:
        """What this layer keeps after a sequence of one row."""
        state = self.init_state(1, length)
        for piece in tokens(1, length, dtype=dtype).split(cut, dim=1):
            _, state = self.step(piece, state)
        return state[-1]

    def reach(self) -> int:
        """A length past which a query sees no more keys than before, so that a ring is full; 64 if there is none."""
        for n in (8, 16, 32, 64, 128, 256):
            counts = [self.layer.pairs(length) or 0 for length in (n, n + 1, 2 * n, 2 * n + 1)]
            if counts[1] - counts[0] == counts[3] - counts[2]:
                return n
        return 64

    def lengths(self) -> tuple[int, ...]:
        """The lengths to try, smallest first.

        The last is past every chunk and, for a window, past its wrap-around and, where the context allows it, past the
        length from which its map is computed in blocks: four windows, with their sinks.
        """
        if self.layer.traits.growth != "window":
            return *SHORT, LONG
        reach = self.reach()
        return *SHORT, max(LONG, 2 * reach + 3, min(4 * reach + 19, CONTEXT))


def ids_of(x: Float[Tensor, "b t c"]) -> Int[Tensor, "b t"]:
    """Numbers of tokens that belong to these vectors, by the signs of their first channels."""
    signs = (x[..., :4] > 0).long()
    return (signs << torch.arange(signs.size(-1), device=x.device)).sum(dim=-1)


class _Watched(Shared):
    """Notes which records are published and asked for, in its parts, too."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: set[tuple[str, type]] = set()

    def publish(self, record: Any) -> None:
        self.notes.add(("published", type(record)))
        super().publish(record)

    def get(self, kind: type[Record]) -> Record | None:
        self.notes.add(("read", kind))
        return super().get(kind)

    def part(self, i: int) -> Shared:
        part = super().part(i)
        assert isinstance(part, _Watched)
        part.notes = self.notes
        return part


def _makeup(layer: Attention) -> Iterator[tuple[Any, ...]]:
    """Classes and settings of a layer, whatever its number: equal for layers that differ in their weights only."""
    for module in layer.modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | None)}
        yield type(module), *sorted((k, repr(v)) for k, v in plain.items() if k not in ("layer", "training"))


def layers_in_stack(subject: Subject, dtype: torch.dtype = torch.float64) -> list[LayerInStack]:
    """Every different layer of a model with this variant, off its initial values, in eval mode."""
    layers = [subject.layer(i).to(dtype) for i in range(subject.depth)]
    for i, layer in enumerate(layers):
        perturbed(layer, seed=i)
        layer.eval()
    shared, x = _Watched(), tokens(1, 3, dtype=dtype)
    shared.ids = ids_of(x)
    layers_by_makeup: dict[Any, LayerInStack] = {}
    for i, layer in enumerate(layers):
        shared.notes.clear()
        with torch.no_grad():
            layer(x, shared)
        makeup = (tuple(_makeup(layer)), frozenset(shared.notes))
        below = layers[:i] if any(what == "read" for what, _ in shared.notes) else []
        layers_by_makeup.setdefault(makeup, LayerInStack(layer, below, f"layer {i}: "))
    alone = len(layers_by_makeup) == 1
    for placed in layers_by_makeup.values():
        placed.label = "" if alone else placed.label
    return list(layers_by_makeup.values())


def stack_depth(subject: Subject) -> int:
    """Layers of the smallest model that shows all this variant does: two, or all if layers differ."""
    return 2 if len(layers_in_stack(subject)) == 1 else subject.depth
