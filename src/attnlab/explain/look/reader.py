"""What is computed of a typed text, once it is asked for: maps, a layer's steps, scores by coordinate, what is next."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from attnlab.attention.evaluating import evaluating
from attnlab.errors import Diverged, UsageError
from attnlab.explain.example import explained_run
from attnlab.explain.steps import Explanation
from attnlab.inspection.maps import check_prompt, collect
from attnlab.inspection.prompt_maps import PromptMaps, every_head
from attnlab.model import GPT

if TYPE_CHECKING:
    from attnlab.data.tokenizers import Tokenizer

MOST_CHARACTERS = 20_000  # of a typed text, before it is cut into tokens
MOST_CANDIDATES = 12  # next tokens that are shown


class Question(NamedTuple):
    """What is asked: a text, the token to follow (-1: the last), a layer and a head, and how sharply to choose."""

    text: str
    token: int = -1
    layer: int = 0
    head: int = 0
    temperature: float = 1.0


class Candidate(NamedTuple):
    """A token that may come next: its label, its text, and its probability."""

    label: str
    text: str
    probability: float


class Coordinates(NamedTuple):
    """How the followed token scores each token: every product q_c k_c, their sum, the score, the weight."""

    q: Float[np.ndarray, " d"]
    k: Float[np.ndarray, "s d"]
    products: Float[np.ndarray, "s d"]
    sums: Float[np.ndarray, " s"]
    scores: Float[np.ndarray, " s"]  # after scale, position and whatever else acts, -inf where nothing may be read
    weights: Float[np.ndarray, " s"]


class TextReading(NamedTuple):
    """All that the page shows of one question."""

    question: Question
    tokens: list[str]
    candidates: list[Candidate]
    maps: PromptMaps
    explanation: Explanation
    heads: int  # of the layer that is explained
    coordinates: Coordinates | None  # None where scores are no dot products, or there are none


@dataclass(frozen=True)
class TextReader:
    """A trained model that answers questions; it is the same afterwards."""

    name: str
    step: int
    model: GPT
    tokenizer: "Tokenizer"

    def _checked(self, asked: Question) -> tuple[Question, list[int], list[str]]:
        """The question with the token it means, and the tokens of its text, as numbers and as labels."""
        if len(asked.text) > MOST_CHARACTERS:
            raise UsageError(f"text ({len(asked.text):,} characters) must have at most {MOST_CHARACTERS:,}")
        ids, labels = check_prompt(asked.text, self.tokenizer, self.model.context, key="text")
        token = asked.token if asked.token >= 0 else len(ids) - 1
        if token >= len(ids):
            raise UsageError(f"token ({token}) must be below the number of tokens ({len(ids)})")
        if not 0 <= asked.temperature <= 100:
            raise UsageError(f"temperature ({asked.temperature:g}) must be from 0 (the likeliest token) to 100")
        if asked.layer >= len(self.model.layers):
            raise UsageError(f"layer ({asked.layer}) must be below the number of layers ({len(self.model.layers)})")
        return asked._replace(token=token), ids, labels

    def _explained(self, asked: Question) -> Explanation:
        layer = asked.layer + 1  # the steps count from 1, as the chapter does
        explanation = explained_run(self.name, self.model, self.tokenizer, asked.text, layer=layer, token=None)
        return replace(explanation, focus=asked.token)

    def explain(self, asked: Question) -> Explanation:
        """The steps of the layer alone. Raises UsageError as `read` does."""
        question, _, _ = self._checked(asked)
        return self._explained(question)

    def read(self, asked: Question) -> TextReading:
        """Raises UsageError, in one line, for a text or a number that the model does not have."""
        question, ids, labels = self._checked(asked)
        explanation = self._explained(question)
        heads = len(explanation.map.values) if explanation.map is not None else 0
        if asked.head >= max(1, heads):
            raise UsageError(f"head ({asked.head}) must be below the number of heads of layer {asked.layer} ({heads})")
        maps = PromptMaps(self.name, self.step, asked.text, labels, every_head(collect(self.model, ids)))
        candidates = self._candidates(ids[: question.token + 1], asked.temperature)
        coordinates = coordinates_of(explanation, asked.head, question.token)
        return TextReading(question, labels, candidates, maps, explanation, heads, coordinates)

    def _candidates(self, ids: list[int], temperature: float) -> list[Candidate]:
        with torch.inference_mode(), evaluating(self.model):
            logits = self.model(torch.tensor([ids]))[0, -1].double()
        if not logits.isfinite().all():
            raise Diverged(f"the logits of {self.name} are not finite: its weights have diverged")
        probabilities = softmax_at(logits.numpy(), temperature)
        best = np.argsort(-probabilities, kind="stable")[:MOST_CANDIDATES].tolist()
        labels = self.tokenizer.labels(best)
        texts = [self.tokenizer.token_bytes(token).decode("utf-8", errors="replace") for token in best]
        return [
            Candidate(label, text, float(probabilities[i])) for label, text, i in zip(labels, texts, best, strict=True)
        ]


def softmax_at(logits: Float[np.ndarray, " vocab"], temperature: float) -> Float[np.ndarray, " vocab"]:
    """The probabilities from which a token is drawn: at temperature 0 all is on the likeliest."""
    apart = logits - logits.max()
    with np.errstate(divide="ignore", invalid="ignore"):
        exp = np.exp(apart / temperature) if temperature else (apart == 0).astype(float)
    return exp / exp.sum()


def coordinates_of(explanation: Explanation, head: int, token: int) -> Coordinates | None:
    """The score of a token with each it may read, coordinate by coordinate; None unless the products add up to it.

    Some layers score by something else than one dot product, and memories by nothing at all.
    """
    q, k, dot = (explanation.step(key) for key in ("q", "k", "dot"))
    weights = explanation.map
    if q is None or k is None or dot is None or weights is None or len(q.values) != len(weights.values):
        return None
    groups = k.values[head * len(k.values) // len(q.values)]
    if groups.shape[1] != q.values.shape[2]:
        return None
    products = q.values[head, token] * groups
    if not np.allclose(products.sum(1), dot.values[head, token], rtol=1e-3, atol=1e-4):
        return None
    last = [step for step in explanation.steps if step.part == "scores"][-1]
    hidden = last.hidden[head, token] if last.hidden is not None else np.zeros(len(groups), dtype=bool)
    scores = np.where(hidden, -np.inf, last.values[head, token])
    sums = dot.values[head, token]
    return Coordinates(q.values[head, token], groups, products, sums, scores, weights.values[head, token])
