"""What a head is good for: the loss without it, which a pretty map does not tell."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attnlab.attention.base import Attention, HeadedAttention
from attnlab.attention.evaluating import evaluating
from attnlab.attention.head_wrapper import HeadWrapper
from attnlab.attention.seams import covered
from attnlab.model import GPT

Batch = tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]


class Effect(NamedTuple):
    """The change in loss, in nats per token, when one head is silenced; above 0 the head was useful."""

    layer: int
    head: int
    zero: float  # its output replaced by nothing
    mean: float  # its output replaced by its own average over all texts and positions that count


def headed_parts(mixer: Attention) -> list[HeadedAttention]:
    """The attentions of a layer that have heads, in the order in which their maps are stacked."""
    if isinstance(mixer, HeadWrapper):
        return [part for side in mixer.parts for part in headed_parts(side)]
    return [mixer] if isinstance(mixer, HeadedAttention) else []


def between_map_and_merge(part: HeadedAttention, change: "Change") -> AbstractContextManager[None]:
    """Inside the block, `change` acts on what each head gives, (b, h, t, v), before it is merged with the others."""
    return covered(part, "merge", lambda merge: lambda o, heads: merge(change(o), heads))


class Change:
    """Replaces the output of one head by a fixed vector."""

    def __init__(self, head: int, value: Float[Tensor, " v"] | None = None) -> None:
        self.head, self.value = head, value

    def __call__(self, o: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t v"]:
        o = o.clone()
        o[:, self.head] = 0.0 if self.value is None else self.value.to(o.dtype)
        return o


class Average(Change):
    """Changes nothing, and adds up what each head gives at the positions that `counts` names."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0
        self.counts: Bool[Tensor, "b t"]  # of the batch that comes next

    def __call__(self, o: Float[Tensor, "b h t v"]) -> Float[Tensor, "b h t v"]:
        here = o.transpose(1, 2)[self.counts].double().sum(dim=0)
        self.total = here if self.total is None else self.total + here
        self.count += int(self.counts.sum())
        return o

    @property
    def mean(self) -> Float[Tensor, "h v"]:
        """The average output of each head, over all texts and positions that count."""
        assert self.total is not None
        return self.total / self.count


def reaches_a_score(targets: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """The positions of each row up to the last that is scored: what comes after is padding, which changes nothing."""
    return (targets >= 0).flip(1).cumsum(dim=1).flip(1) > 0


@torch.no_grad()
def loss_of(model: GPT, batches: Iterable[Batch]) -> float:
    """The mean loss over all scored tokens, in nats per token, in evaluation mode."""
    nats, tokens = 0.0, 0
    with evaluating(model):
        for ids, targets in batches:
            logits = model(ids).flatten(0, 1).float()
            nats += float(F.cross_entropy(logits, targets.flatten(), reduction="sum"))
            tokens += int((targets >= 0).sum())  # cross_entropy skips -100
    return nats / tokens


def ablate(model: GPT, batches: Sequence[Batch]) -> tuple[float, Iterator[Effect]]:
    """The loss of the whole model, and the effect of silencing each head, one after the other, as they come.

    The model is the same afterwards.
    """
    averages: dict[HeadedAttention, Average] = {}
    with ExitStack() as stack:
        for block in model.layers:
            for part in headed_parts(block.attention):
                averages[part] = Average()
                stack.enter_context(between_map_and_merge(part, averages[part]))

        def counted() -> Iterator[Batch]:
            for ids, targets in batches:
                for average in averages.values():
                    average.counts = reaches_a_score(targets)
                yield ids, targets

        whole = loss_of(model, counted())

    def effects() -> Iterator[Effect]:
        for layer, block in enumerate(model.layers):
            first = 0
            for part in headed_parts(block.attention):
                means = averages[part].mean
                for head, mean in enumerate(means):
                    losses = []
                    for value in (None, mean):
                        with between_map_and_merge(part, Change(head, value)):
                            losses.append(loss_of(model, batches) - whole)
                    yield Effect(layer, first + head, *losses)
                first += len(means)

    return whole, effects()
