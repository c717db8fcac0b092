"""The chapter's sentence and its variants, and vectors for other words.

Source: S. Raschka, "Build a Large Language Model (From Scratch)", chapter 3.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.errors import UsageError

TOKENS = ("Your", "journey", "starts", "with", "one", "step")
VECTORS = (
    (0.43, 0.15, 0.89),
    (0.55, 0.87, 0.66),
    (0.57, 0.85, 0.64),
    (0.22, 0.58, 0.33),
    (0.77, 0.25, 0.10),
    (0.05, 0.80, 0.55),
)
FOCUS = "journey"
SEED = 123  # of the weights, unless the chapter shows a variant with another
CONTEXT = 64  # positions that a layer is built for
WIDTH = len(VECTORS[0])


class BookExample(NamedTuple):
    """A variant as the chapter shows it: what it adds and keeps, its settings, the seed of its weights, and how they
    are drawn."""

    heading: str
    change: str  # what it adds to the one before
    same: str  # what stays as it was
    settings: Mapping[str, Any]
    seed: int = SEED
    init: str = "linear"


BOOK_EXAMPLES = {
    "simple": BookExample(
        "Without trainable weights (section 3.3)",
        "The start: the dot product of two tokens' vectors is their score, a softmax turns each row of scores into "
        "weights, and the weighted sum of the vectors is the context vector.",
        "These three steps stay in all that follows.",
        {"causal": False},
    ),
    "self": BookExample(
        "With trainable projections (section 3.4)",
        "Added: three learned matrices, so that a token asks with q = x W_q, is found by k = x W_k and hands over "
        "v = x W_v; scores are divided by the square root of a key's length.",
        "As before: dot products, softmax, weighted sum; every token sees every other.",
        {"causal": False, "d_out": 2},
        init="uniform",
    ),
    "causal": BookExample(
        "No look ahead, and dropout (section 3.5)",
        "Added: a mask, so that no token reads later ones, and dropout, which leaves out weights while training.",
        "As before: the matrices, and with them queries, keys, values and scores.",
        {"d_out": 2, "dropout": 0.5},
        seed=789,
    ),
    "stacked_heads": BookExample(
        "Several heads side by side (section 3.6.1)",
        "Added: a second head with matrices of its own; the heads' context vectors are laid next to each other.",
        "As before: each head is the causal layer, which knows nothing of the other.",
        {"d_out": 4, "n_heads": 2, "dropout": 0.0},
    ),
    "multi_head": BookExample(
        "One projection, split into heads (section 3.6.2)",
        "Added: one matrix makes the queries of all heads at once (so for keys and values), and W_o mixes what the "
        "heads hand over. This is the layer that `train.py` trains, wider, with more heads, and with positions.",
        "As before: with the same matrices everything down to the context vectors, number by number.",
        {"d_out": 2, "n_heads": 2, "out_bias": True, "dropout": 0.0},
    ),
}
"""The chapter's variants, in its order."""


def inputs(d_model: int, tokens: Sequence[str] = TOKENS) -> Float[Tensor, "1 t c"]:
    """A vector for each word, followed by zeros where a variant needs more than three numbers.

    The chapter's words have the chapter's; another has one that is drawn from its letters, the same wherever it stands.
    """
    chapters = dict(zip(TOKENS, VECTORS, strict=True))
    vectors = [torch.tensor(chapters[word]) if word in chapters else _drawn(word) for word in tokens]
    return nn.functional.pad(torch.stack(vectors), (0, d_model - WIDTH))[None]


def _drawn(word: str) -> Float[Tensor, " c"]:
    """Three numbers from 0.01 to 0.99, of two decimals as the chapter's."""
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode(errors="replace")))
    return torch.randint(1, 100, (WIDTH,), generator=generator) / 100


def words_of(prompt: str) -> list[str]:
    """The words of a sentence; refused is one that is empty, or longer than the layers are made for."""
    tokens = prompt.split()
    if not 0 < len(tokens) <= CONTEXT:
        raise UsageError(f"prompt ({len(tokens)} words) must have 1 to {CONTEXT} words")
    return tokens
