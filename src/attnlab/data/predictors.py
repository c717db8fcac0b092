"""Guessing without the mechanism that a task asks for: named predictors, fitted on some rows and scored on others."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64

from attnlab.data.dataset import IGNORED

Index = Int64[np.ndarray, " n"]
CAUTIONS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)  # what may be added to the counts of a row


class AnswerScore(NamedTuple):
    """What some way of answering comes to: the share of right answers, and nats per answer."""

    accuracy: float
    loss: float


class Rows(NamedTuple):
    """Token ids, the answer wanted after each token (IGNORED: none), and the slice that an answer counts in."""

    inputs: Int64[np.ndarray, "b t"]
    targets: Int64[np.ndarray, "b t"]
    slices: Int64[np.ndarray, "b t"]

    @property
    def asked(self) -> Bool[np.ndarray, "b t"]:
        """Where an answer is wanted."""
        return self.targets != IGNORED


Predictor = Callable[[Rows, Rows, range], AnswerScore]
"""Called as predictor(fit, rows, answers): fitted on the first rows, scored on the second; which tokens may answer."""


class Floor(NamedTuple):
    """The best of several predictors, by accuracy and by loss, and which one that is."""

    accuracy: float
    loss: float
    predictor: str
    loss_predictor: str


def best_of(predictors: tuple[Predictor, ...], fit: Rows, rows: Rows, answers: range) -> Floor:
    """The floor of a task: how far one gets without its mechanism."""
    scores = {predictor.__name__: predictor(fit, rows, answers) for predictor in predictors}
    name = max(scores, key=lambda name: scores[name].accuracy)
    by_loss = min(scores, key=lambda name: scores[name].loss)
    return Floor(scores[name].accuracy, scores[by_loss].loss, name, by_loss)


def most_frequent(fit: Rows, rows: Rows, answers: range) -> AnswerScore:
    """Always the answer that is given most often; the loss is that of saying how often each is given."""
    share = _shares(fit.targets[fit.asked], answers)
    targets = rows.targets[rows.asked] - answers.start
    return AnswerScore(float((targets == share.argmax()).mean()), float(-np.log(share[targets]).mean()))


def by_place(fit: Rows, rows: Rows, answers: range) -> AnswerScore:
    """At each place of the row its most frequent answer, or the token at the place that most often holds the answer."""
    hits, losses = [], []
    for t in np.flatnonzero(rows.asked.any(axis=0)):
        in_fit, in_rows = fit.asked[:, t], rows.asked[:, t]
        past = fit.inputs[in_fit, : t + 1]
        source = int((past == fit.targets[in_fit, t, None]).sum(axis=0).argmax())
        hit, loss = _score_copying(
            past[:, source], fit.targets[in_fit, t], rows.inputs[in_rows, source], rows.targets[in_rows, t], answers
        )
        hits.append(hit)
        losses.append(loss)
    return AnswerScore(float(np.concatenate(hits).mean()), float(np.concatenate(losses).mean()))


def by_distance(fit: Rows, rows: Rows, answers: range) -> AnswerScore:
    """The token so many places back, at the one distance that is right most often."""
    row, t = np.nonzero(fit.asked)
    fit_targets = fit.targets[row, t]

    def back(inputs: Int64[np.ndarray, "b t"], row: Index, t: Index, distance: int) -> Index:
        return np.where(t >= distance, inputs[row, np.maximum(t - distance, 0)], IGNORED - 1)

    distance = max(
        range(fit.inputs.shape[1]), key=lambda distance: int((back(fit.inputs, row, t, distance) == fit_targets).sum())
    )
    before, (row, t) = back(fit.inputs, row, t, distance), np.nonzero(rows.asked)
    shown, targets = back(rows.inputs, row, t, distance), rows.targets[row, t]
    hits, losses = _score_copying(before, fit_targets, shown, targets, answers)
    return AnswerScore(float(hits.mean()), float(losses.mean()))


def by_count(fit: Rows, rows: Rows, answers: range) -> AnswerScore:
    """The possible answer that has stood most often in the row so far, whatever its place; ties are drawn."""

    def loss(counts: Counts, caution: float) -> float:
        return float(-np.log((counts.own + caution) / (counts.all + caution * len(answers))).mean())

    fitted, counted = _counts(fit, answers), _counts(rows, answers)
    caution = min(CAUTIONS, key=lambda caution: loss(fitted, caution))
    return AnswerScore(float(counted.hit.mean()), loss(counted, caution))


class Counts(NamedTuple):
    """Of each answer: how often it has stood in its row so far, how often all have, and the chance to hit it."""

    own: Int64[np.ndarray, " n"]
    all: Int64[np.ndarray, " n"]
    hit: Float[np.ndarray, " n"]


def _counts(rows: Rows, answers: range) -> Counts:
    def parts() -> Iterator[Counts]:
        count = np.zeros((len(rows.inputs), len(answers)), np.int64)
        for t in range(rows.inputs.shape[1]):
            token = rows.inputs[:, t] - answers.start
            counted = np.flatnonzero((token >= 0) & (token < len(answers)))
            count[counted, token[counted]] += 1
            asked = np.flatnonzero(rows.asked[:, t])
            here, most = count[asked], count[asked].max(axis=1)
            own = count[asked, rows.targets[asked, t] - answers.start]
            yield Counts(own, here.sum(axis=1), (own == most) / (here == most[:, None]).sum(axis=1))

    return Counts(*(np.concatenate(part) for part in zip(*parts(), strict=True)))


def _score_copying(
    before: Int64[np.ndarray, " n"],
    fit_targets: Int64[np.ndarray, " n"],
    shown: Int64[np.ndarray, " m"],
    targets: Int64[np.ndarray, " m"],
    answers: range,
) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Hits and losses of saying a certain token of the row, as far as it can be trusted, and else what is said most:
    fitted on `fit_targets` and the token `before` them, scored on `targets` and the token `shown`."""
    share, right = _shares(fit_targets, answers), before == fit_targets
    trust = (right.sum() + 1) / (len(fit_targets) + 2)

    def mixed(hit: Bool[np.ndarray, " n"], answer: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return trust * hit + (1 - trust) * share[answer - answers.start]

    usual = share[targets - answers.start]
    helps = np.log(mixed(right, fit_targets)).sum() > np.log(share[fit_targets - answers.start]).sum()
    loss = -np.log(mixed(shown == targets, targets) if helps else usual)
    hits = shown == targets if trust > share.max() else targets - answers.start == share.argmax()
    return hits, loss


def _shares(targets: Int64[np.ndarray, " n"], answers: range) -> Float[np.ndarray, " k"]:
    """How often each answer is given, with one more of each."""
    count = np.bincount(targets - answers.start, minlength=len(answers)) + 1.0
    share: np.ndarray = count / count.sum()
    return share
