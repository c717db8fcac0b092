"""The chapter's figures as states of the flow: a variant, and the step up to which it is drawn, for the word journey.

Source of the numbers: S. Raschka, "Build a Large Language Model (From Scratch)", chapter 3, first edition.
"""

from typing import NamedTuple

from attnlab.errors import UsageError


class Figure(NamedTuple):
    """A figure of the chapter: its number, what it shows, and the state of the flow that shows it."""

    number: str
    title: str
    name: str
    step: str | None = None  # the last one that is drawn; None for all
    first_way: bool = False  # whether it shows the chapter's first way to mask


FIGURES = {
    figure.number: figure
    for figure in (
        Figure("3.7", "A context vector gathers all words", "simple"),
        Figure("3.8", "Scores of the second word", "simple", "dot"),
        Figure("3.9", "Scores become weights", "simple", "weights"),
        Figure("3.10", "The weighted sum", "simple", "context"),
        Figure("3.11", "Weights of every word", "simple", "weights"),
        Figure("3.12", "Scores, weights, context vectors", "simple"),
        Figure("3.14", "Queries, keys and values", "self", "projections"),
        Figure("3.15", "Scores of a query and the keys", "self", "dot"),
        Figure("3.16", "Scaled, and made weights", "self", "weights"),
        Figure("3.17", "The weighted sum of the values", "self", "context"),
        Figure("3.18", "The whole of self-attention", "self"),
        Figure("3.19", "No weight on later words", "causal", "weights"),
        Figure("3.20", "The mask after the softmax", "causal", "first.rows", first_way=True),
        Figure("3.21", "The mask before the softmax", "causal", "masked"),
        Figure("3.22", "Dropout on the weights", "causal", "dropout"),
        Figure("3.24", "Heads side by side", "stacked_heads", "context"),
        Figure("3.25", "Their context vectors, joined", "stacked_heads"),
        Figure("3.26", "One matrix, split into heads", "multi_head", "projections"),
    )
}


def chapter_figure(number: str) -> Figure:
    """The figure of this number."""
    if number not in FIGURES:
        raise UsageError(f"figure ({number}) must be one of {', '.join(FIGURES)}")
    return FIGURES[number]
