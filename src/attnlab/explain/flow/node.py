"""What the figure is drawn from: a node is one array, with how each of its numbers is made of those before it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from attnlab.explain.flow.expressions import Expression

ALPHA, OMEGA = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER OMEGA}"  # the chapter's weights and scores
Kind = Literal["vector", "pair", "matrix", "state", "total", "words"]
"""vector: (head, token, number); pair: (head, query, key); matrix: (head, row, column); state: (token, head, row,
column); total: (head, query); words: (token, choice), the most probable next tokens."""
Rule = Literal[
    "given", "linear", "dot", "scale", "mask", "exp", "total", "ratio", "tril", "drop", "mix", "join", "turn", "sum",
    "op",
]  # fmt: skip


class SourceLine(NamedTuple):
    """A line of source that ran."""

    file: str  # from the package's folder on: attention/softmax.py
    line: int
    text: str


class Operation(NamedTuple):
    """An operation of torch that made numbers of numbers in the same places."""

    name: str
    operands: tuple[Float[np.ndarray, "*shape"], ...]


@dataclass(frozen=True)
class Node:
    """One array of the flow.

    `rule` says how a number comes of those of `parents`, in the order that `flow_rules.py` states; it is there only
    where the rule gives the numbers that are shown. `stage` is the step that it appears in; `letter` is the chapter's.
    """

    key: str
    letter: str
    title: str
    stage: str
    kind: Kind
    values: Float[np.ndarray, "*shape"]
    rule: Rule = "given"
    parents: tuple[str, ...] = ()
    factor: tuple[float, ...] = ()
    hidden: Bool[np.ndarray, "h t s"] | None = None
    operation: Operation | None = None
    expression: Expression | None = None  # of the rule `sum`
    start: float | str = 0.0  # what an expression finds before the first token: a number, or a matrix
    source: SourceLine | None = None
    labels: tuple[tuple[str, ...], ...] = ()  # of `words`: the tokens, for each place


class Stage(NamedTuple):
    """A step of the flow: its key, a short heading, and a sentence."""

    key: str
    title: str
    text: str


@dataclass(frozen=True)
class Flow:
    """The stages of a layer in order, and their nodes."""

    stages: list[Stage]
    nodes: list[Node]

    def node(self, key: str) -> Node:
        """The node with this key."""
        return next(node for node in self.nodes if node.key == key)
