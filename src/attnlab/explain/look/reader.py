"""What is computed of a typed text, once it is asked for: maps, a layer's steps, scores by coordinate, what is next."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from attnlab.attention.evaluating import evaluating
from attnlab.errors import Diverged, UsageError
from attnlab.explain.example import ModelPass, explained_pass, pass_through
from attnlab.explain.steps import Explanation, Step, most_read
from attnlab.explain.trace import plain, trace
from attnlab.inspection.prompt_maps import PromptMaps, every_head
from attnlab.inspection.records import LayerMap
from attnlab.model import GPT

if TYPE_CHECKING:
    from attnlab.data.tokenizers import Tokenizer

MOST_CHARACTERS = 20_000  # of a typed text, before it is cut into tokens
MOST_CANDIDATES = 12  # next tokens that are shown
MOST_ROWS = 24  # tokens whose scores are shown coordinate by coordinate


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
    heads: int  # of the layer that is asked for
    rows: list[int]  # the tokens that the followed one reads most
    coordinates: Coordinates | None  # None where scores are no dot products, or there are none


@dataclass(frozen=True)
class TextReader:
    """A trained model that answers questions, the same afterwards; what it made of the last text is remembered."""

    name: str
    step: int
    model: GPT
    tokenizer: "Tokenizer"
    _last: dict[str, tuple[ModelPass, PromptMaps]] = field(default_factory=dict, repr=False, compare=False)

    def _passed(self, text: str) -> tuple[ModelPass, PromptMaps]:
        """What the model makes of a text, with the maps of all heads."""
        if text not in self._last:
            if len(text) > MOST_CHARACTERS:
                raise UsageError(f"text ({len(text):,} characters) must have at most {MOST_CHARACTERS:,}")
            passed = pass_through(self.model, self.tokenizer, text, key="text")
            if not passed.logits.isfinite().all():
                raise Diverged(f"the logits of {self.name} are not finite: its weights have diverged")
            maps = PromptMaps(self.name, self.step, text, passed.tokens, every_head(self._maps(passed)))
            self._last.clear()
            self._last[text] = passed, maps
        return self._last[text]

    @torch.no_grad()
    def _maps(self, passed: ModelPass) -> list[LayerMap]:
        layers = []
        with evaluating(self.model), torch.random.fork_rng(devices=[]):
            for i, (x, shared) in enumerate(passed.entrances):
                layer = self.model.layers[i].attention
                # Of copies: looking must not publish anything.
                weights, norms = layer.weights(x, shared.copy()), layer.value_norms(x, shared.copy())
                numbers = (None if each is None else plain(each) for each in (weights, norms))
                layers.append(LayerMap(i, layer.traits.map_kind, *numbers))
        return layers

    def _checked(self, asked: Question, tokens: Sequence[str]) -> Question:
        """The question with the token it means."""
        token = asked.token if asked.token >= 0 else len(tokens) - 1
        if token >= len(tokens):
            raise UsageError(f"token ({token}) must be below the number of tokens ({len(tokens)})")
        if not 0 <= asked.temperature <= 100:
            raise UsageError(f"temperature ({asked.temperature:g}) must be from 0 (the likeliest token) to 100")
        if asked.layer >= len(self.model.layers):
            raise UsageError(f"layer ({asked.layer}) must be below the number of layers ({len(self.model.layers)})")
        return asked._replace(token=token)

    def explain(self, asked: Question) -> Explanation:
        """The steps of the layer alone. Raises UsageError as `read` does."""
        passed, _ = self._passed(asked.text)
        question = self._checked(asked, passed.tokens)
        layer = asked.layer + 1  # the steps count from 1, as the chapter does
        explanation = explained_pass(self.name, self.model, self.tokenizer, passed, layer=layer, token=None)
        return replace(explanation, focus=question.token)

    def maps(self, text: str) -> PromptMaps:
        """The maps of all heads for a text. Raises UsageError for what the model cannot read."""
        return self._passed(text)[1]

    def read(self, asked: Question) -> TextReading:
        """Raises UsageError, in one line, for a text or a number that the model does not have."""
        passed, maps = self._passed(asked.text)
        question = self._checked(asked, passed.tokens)
        steps = trace(self.model.layers[question.layer].attention, *passed.entrances[question.layer])
        weights = next((step for step in reversed(steps) if step.part == "weights"), None)
        heads = 0 if weights is None else len(weights.values)
        if asked.head >= max(1, heads):
            raise UsageError(f"head ({asked.head}) must be below the number of heads of layer {asked.layer} ({heads})")
        candidates = self._candidates(passed.logits[question.token], asked.temperature)
        rows = most_read(weights, len(passed.tokens), question.token, asked.head, MOST_ROWS)
        coordinates = coordinates_of(steps, asked.head, question.token)
        return TextReading(question, passed.tokens, candidates, maps, heads, rows, coordinates)

    def _candidates(self, logits: Float[torch.Tensor, " vocab"], temperature: float) -> list[Candidate]:
        probabilities = softmax_at(logits.double().numpy(), temperature)
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


def coordinates_of(steps: Sequence[Step], head: int, token: int) -> Coordinates | None:
    """The score of a token with each it may read, coordinate by coordinate; None unless the products add up to it.

    Some layers score by something else than one dot product, and memories by nothing at all.
    """
    q, k, dot = (next((step for step in steps if step.key == key), None) for key in ("q", "k", "dot"))
    weights = next((step for step in reversed(steps) if step.part == "weights"), None)
    if q is None or k is None or dot is None or weights is None or len(q.values) != len(weights.values):
        return None
    groups = k.values[head * len(k.values) // len(q.values)]
    if groups.shape[1] != q.values.shape[2]:
        return None
    products = q.values[head, token] * groups
    if not np.allclose(products.sum(1), dot.values[head, token], rtol=1e-3, atol=1e-4):
        return None
    last = [step for step in steps if step.part == "scores"][-1]
    hidden = last.hidden[head, token] if last.hidden is not None else np.zeros(len(groups), dtype=bool)
    scores = np.where(hidden, -np.inf, last.values[head, token])
    sums = dot.values[head, token]
    return Coordinates(q.values[head, token], groups, products, sums, scores, weights.values[head, token])
