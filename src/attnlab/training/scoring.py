"""Hits and losses of the answers that a task wants, in all and by slice."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from attnlab.data.material import IGNORED

ACCURACY = "val/accuracy"
SLICE_ACCURACY, SLICE_LOSS, SLICE_COUNT = "val_accuracy/", "val_loss/", "val_count/"


def tally(
    logits: Float[Tensor, "b t vocab"], targets: Int64[Tensor, "b t"], slices: Int64[Tensor, "b t"], n: int
) -> Float64[Tensor, "n 3"]:
    """For each of n slices: how many answers were wanted, how many were right, and the sum of their losses in nats."""
    asked = targets != IGNORED
    said, wanted, group = logits[asked].float(), targets[asked], slices[asked]
    nats = F.cross_entropy(said, wanted, reduction="none").double()
    right = (said.argmax(dim=-1) == wanted).double()
    parts = (torch.ones_like(nats), right, nats)
    return torch.stack([torch.bincount(group, weights=part, minlength=n) for part in parts], dim=1).cpu()


def numbers(totals: Float64[Tensor, "n 3"], names: Sequence[str]) -> dict[str, float]:
    """What is logged of a tally: the accuracy in all, and accuracy, loss and count of each slice that occurs."""
    wanted, right, _ = totals.sum(dim=0).tolist()
    found = {ACCURACY: right / wanted}
    for name, (count, hits, nats) in zip(names, totals.tolist(), strict=True):
        if count:
            found[SLICE_ACCURACY + name] = hits / count
            found[SLICE_LOSS + name] = nats / count
            found[SLICE_COUNT + name] = count
    return found


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
