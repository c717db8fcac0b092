"""Hits and losses of the answers that a task wants, in all and by slice."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from attnlab.data.dataset import IGNORED

ACCURACY, ERROR = "val/accuracy", "val/accuracy_error"
SLICE_ACCURACY, SLICE_LOSS, SLICE_COUNT = "val_accuracy/", "val_loss/", "val_count/"
SEGMENT_LOSS, SEGMENTS = "val_segment_loss/", 4  # equal parts of a validation row, numbered from 1


def at_least_float32(logits: Tensor) -> Tensor:
    """Losses are summed in float32 where a model computes in half precision, and in float64 where it does so."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Answers(NamedTuple):
    """Where answers are wanted, and of each in turn: whether it was right (0 or 1), and its loss in nats."""

    asked: Bool[Tensor, "b t"]
    right: Float64[Tensor, " m"]
    nats: Float64[Tensor, " m"]


def score_answers(logits: Float[Tensor, "b t vocab"], targets: Int64[Tensor, "b t"]) -> Answers:
    """Score every answer that is wanted, once for all ways to sum it up."""
    asked = targets != IGNORED
    asked_logits, labels = at_least_float32(logits[asked]), targets[asked]
    nats = F.cross_entropy(asked_logits, labels, reduction="none").double()
    return Answers(asked, (asked_logits.argmax(dim=-1) == labels).double(), nats)


def tally(scored: Answers, slices: Int64[Tensor, "b t"], n: int) -> Float64[Tensor, "n 3"]:
    """For each of n slices: how many answers were wanted, how many were right, and the sum of their losses in nats."""
    group, parts = slices[scored.asked], (torch.ones_like(scored.nats), scored.right, scored.nats)
    sums = [torch.bincount(group, weights=part, minlength=n) for part in parts]
    return torch.stack(sums, dim=1).double().cpu()  # of nothing, torch counts in integers


def segments(targets: Int64[Tensor, "b t"], length: int) -> Int64[Tensor, "b t"]:
    """In which part of its row each place lies, where a part has so many places."""
    return (torch.arange(targets.shape[1], device=targets.device) // length).expand_as(targets)


def segment_losses(totals: Float64[Tensor, "n 3"], prefix: str) -> dict[str, float]:
    """The loss of each part of the row in which something is asked."""
    numbered = enumerate(totals.tolist(), start=1)
    return {f"{prefix}{number}": nats / count for number, (count, _, nats) in numbered if count}


def by_row(logits: Float[Tensor, "b t vocab"], targets: Int64[Tensor, "b t"]) -> Float64[Tensor, " 4"]:
    """How many rows ask for something, and sums over them: of squares of hits, of hits times answers, and of squares of
    answers. Answers of one row may be right or wrong together, so an error is counted by rows."""
    asked = targets != IGNORED
    hits, asks = ((asked & flag).sum(dim=1).double() for flag in (logits.argmax(dim=-1) == targets, asked))
    return torch.stack([(asks > 0).sum().double(), hits @ hits, hits @ asks, asks @ asks]).cpu()


def error_of(accuracy: float, n_answers: float, rows: Float64[Tensor, " 4"]) -> float:
    """Half of the 95 % interval of an accuracy, for other rows of the same kind.

    1.96 standard errors of a ratio of sums over rows, which is the binomial one where each row asks once; at least
    3 / rows, for where all were right, up to so many may be wrong (the rule of three).
    """
    n, hits, both, squares = rows.tolist()
    variance = (hits - 2 * accuracy * both + accuracy**2 * squares) / n_answers**2
    return max(1.96 * math.sqrt(max(variance, 0.0)), 3 / n)


def numbers(totals: Float64[Tensor, "n 3"], rows: Float64[Tensor, " 4"], names: Sequence[str]) -> dict[str, float]:
    """What is logged of a tally: the accuracy in all and its error, and accuracy, loss and count of each slice."""
    n_answers, right, _ = totals.sum(dim=0).tolist()
    metrics = {ACCURACY: right / n_answers, ERROR: error_of(right / n_answers, n_answers, rows)}
    for name, (count, hits, nats) in zip(names, totals.tolist(), strict=True):
        if count:
            metrics[SLICE_ACCURACY + name] = hits / count
            metrics[SLICE_LOSS + name] = nats / count
            metrics[SLICE_COUNT + name] = count
    return metrics


def by_slice(logged: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Slices by name, from numbers that were logged."""
    names = [tag.removeprefix(SLICE_ACCURACY) for tag in logged if tag.startswith(SLICE_ACCURACY)]
    return {
        name: {
            "accuracy": logged[SLICE_ACCURACY + name],
            "loss": logged[SLICE_LOSS + name],
            "count": logged[SLICE_COUNT + name],
        }
        for name in names
    }
