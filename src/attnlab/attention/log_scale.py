"""Positive features by their logarithms, for exponentials that no number type holds."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from attnlab.attention.documents import Documents
from attnlab.attention.precision import running_sum
from attnlab.attention.uncompiled import uncompiled

RISE = 100.0  # in nats; float32 holds e^-87 to e^88, of which sums and a value of ten thousand take their part


class Rescaled(NamedTuple):
    """Queries, keys and a memory that multiply as their logarithms say, and stay within what float32 holds."""

    q: Float[Tensor, "b h t f"]
    k: Float[Tensor, "b h t f"]
    log_decay: Float[Tensor, "b h t f"] | None
    memory: Float[Tensor, "b h d w"]
    scale: Float[Tensor, "b h f"]
    units: Float[Tensor, "b h #t f"]  # the scale that each token's query meets


def rescaled(
    log_q: Float[Tensor, "b h t f"],
    log_k: Float[Tensor, "b h t f"],
    log_decay: Float[Tensor, "b h t"] | Float[Tensor, "b h t f"] | None,
    memory: Float[Tensor, "b h d w"],
    scale: Float[Tensor, "b h f"],
    documents: Documents | None = None,
) -> Rescaled:
    """exp(log_q) and exp(log_k), each query up to a factor of its own, against a memory stored as exp(-scale) S.

    Row f of the memory is kept in units of exp(scale_f), or all rows where f is one; -inf marks one that holds nothing.
    A query is divided by exp(max_f(log_q_f + scale_f)), which a division by the sum of weights takes out again, so that
    its largest product with the memory is near one: no sum is 0 or infinite. Where no key rises far above what was seen
    before it, and nothing decays, one scale serves all tokens. Else the scale is the largest key so far, decayed as
    the memory is, and what it rises by is taken off each row like a decay: a query never sees a scale that a later key
    has set. Scales cancel, and so need no gradient. Each of several documents begins at the scale of its own first key.
    """
    with torch.no_grad():
        first = torch.where(scale.isfinite(), scale, log_k[:, :, 0])
        if documents is not None:  # the lowest of the first keys, from which none may rise far
            first = log_k.masked_fill(~documents.starts[:, None, :, None], torch.inf).amin(dim=2)
        top = torch.maximum(first, log_k.amax(dim=2))
        if one_for_all := log_decay is None and not exceeds(top - first, RISE):
            first = torch.maximum(first, top - RISE / 2)
            after = first[:, :, None]
        else:
            falls = torch.zeros_like(log_k) if log_decay is None else log_decay.view(*log_k.shape[:3], -1)
            age = running_sum(F.pad(falls, (0, 0, 1, 0)), dim=2)
            peaks = torch.cat([first[:, :, None], log_k - age[:, :, 1:]], dim=2)
            peaks = (
                peaks.cummax(dim=2).values if documents is None else _cummax(peaks, F.pad(documents.positions, (1, 0)))
            )
            scales = (peaks + age).to(log_k.dtype)
            after, rise = scales[:, :, 1:], scales[:, :, 1:] - scales[:, :, :-1]
        best = (log_q + after).amax(dim=-1, keepdim=True)
    if not one_for_all:
        log_decay = (0 if log_decay is None else log_decay.view(*log_k.shape[:3], -1)) - rise
        if documents is not None:  # a fall back to another scale is no decay
            log_decay = log_decay.masked_fill(documents.starts[:, None, :, None], 0.0)
    memory = memory * (scale - first).exp()[..., None]
    return Rescaled(
        (log_q + after - best).exp(), (log_k - after).exp(), log_decay, memory, after[:, :, -1].clone(), after
    )


def _cummax(x: Float[Tensor, "b h t f"], positions: Int[Tensor, "b t"]) -> Float[Tensor, "b h t f"]:
    """The largest number so far in each document, over twice as many tokens at each pass."""
    span = 1
    while span < x.size(2):
        beyond = (positions < span)[:, None, :, None]
        x = torch.maximum(x, F.pad(x[:, :, :-span], (0, 0, span, 0)).masked_fill(beyond, -torch.inf))
        span *= 2
    return x


@uncompiled  # its answer is a number, at which the compiler would stop with a warning
def exceeds(x: Tensor, bound: float) -> bool:
    """Whether any number is above the bound, of all models that are run as one; on the meta device none is."""
    while torch._C._functorch.is_batchedtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.device.type != "meta" and bool((x > bound).any())
