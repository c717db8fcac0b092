"""What a worked example consists of: steps, each with its numbers and a sentence."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from attnlab.explain.flow.node import Flow
from attnlab.explain.step_parts import Part

Shape = Literal["vectors", "pairs", "state"]
"""vectors: (head, token, number); pairs: (head, query, key); state: (token, head, row, column)."""


@dataclass(frozen=True)
class Step:
    """One thing a layer computes on its way from tokens to outputs.

    `key` is the same for the same step of another variant. `hidden` marks the pairs that may not be read.
    """

    key: str
    part: Part
    title: str
    text: str
    shape: Shape
    values: Float[np.ndarray, "*shape"]
    hidden: Bool[np.ndarray, "h t s"] | None = None

    @property
    def aside(self) -> bool:
        """Whether it is not on the way from the tokens to the output: a draw of dropout, the other way to mask."""
        return self.part == "dropout" or self.key.startswith("first.")

    @cached_property
    def largest(self) -> float:
        """What gets the strongest colour: the largest number that is not hidden, 1 if all are 0."""
        values = np.nan_to_num(self.values, posinf=0.0, neginf=0.0)
        if self.hidden is not None:
            values = np.where(self.hidden, 0.0, values)
        return float(np.abs(values).max(initial=0.0)) or 1.0

    @cached_property
    def diverging(self) -> bool:
        """Whether colours tell numbers above and below 0 apart; weights above 0 alone have a hue of their own."""
        return self.part not in ("weights", "dropout") or bool(np.nan_to_num(self.values).min() < 0)


@dataclass(frozen=True)
class Explanation:
    """A whole worked example of one layer: its steps in order, and what stands above them."""

    name: str
    heading: str
    about: list[str]  # what the YAML and the class say of themselves, one paragraph each
    slots: list[tuple[str, str]]  # (class, what it says of itself) of each choice inside the layer
    tokens: list[str]
    focus: int  # the token that is followed
    steps: list[Step]
    flow: Flow
    linear: bool  # whether the output is a weighted sum of values, so that there is a map
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)  # of the layer and its parts, by dotted name
    matrices: dict[str, Float[np.ndarray, "*shape"]] = field(default_factory=dict)  # (in, out), those of heads joined
    first_way: Flow | None = None  # the flow with the chapter's first way to mask, where the chapter shows both

    def step(self, key: str) -> Step | None:
        """The step with this key, if there is one."""
        return next((step for step in self.steps if step.key == key), None)

    @property
    def map(self) -> Step | None:
        """The weights that values are summed with: the last step of that part."""
        return next((step for step in reversed(self.steps) if step.part == "weights"), None)

    def most_read(self, token: int, head: int, most: int) -> list[int]:
        """The tokens with the largest weights for one token, as `most_read` says."""
        return most_read(self.map, len(self.tokens), token, head, most)

    def values_read(self, token: int, head: int) -> tuple[Float[np.ndarray, "s v"], Float[np.ndarray, "s v"]] | None:
        """The values that one token reads, and each times its weight; None if the context vector is not their sum."""
        weights, values, context = self.map, self.step("v") or self.step("inputs"), self.step("context")
        if weights is None or values is None or context is None or len(weights.values) != len(context.values):
            return None
        v = values.values[head * len(values.values) // len(weights.values)]
        terms = weights.values[head, token][:, None] * v
        is_sum = terms.shape[1] == context.values.shape[2]
        if not is_sum or not np.allclose(terms.sum(0), context.values[head, token], atol=1e-4):
            return None
        return v, terms


def most_read(weights: Step | None, n: int, token: int, head: int, most: int) -> list[int]:
    """Of `n` tokens those with the largest weights for one token, at most so many of them, in their order.

    Of a long text none that it may not read.
    """
    if n <= most or weights is None:
        return list(range(min(n, most)))
    head = min(head, len(weights.values) - 1)
    row, hidden = np.abs(weights.values[head, token]), weights.hidden
    legible = len(row) if hidden is None else int((~hidden[head, token]).sum())
    return sorted(int(j) for j in np.argsort(-row, kind="stable")[: min(most, max(legible, 1))])
