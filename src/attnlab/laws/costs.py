"""Laws about cost: what is reported is what is held, and the state grows as claimed."""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from attnlab.attention.base import State
from attnlab.laws.layer_in_stack import LayerInStack, layers_in_stack
from attnlab.laws.subject import BATCH, LawBroken, Subject, tokens


def bytes_held(state: State) -> int:
    """Bytes of memory that a state keeps alive: whole storages, so that a small view of a large tensor shows."""
    leaves: list[Any] = pytree.tree_leaves(state)
    for leaf in leaves:
        if not isinstance(leaf, Tensor | int | float | str | None):
            raise LawBroken(f"a state holds a {type(leaf).__name__}; it may hold nested tuples of tensors and numbers")
    storages = [leaf.untyped_storage() for leaf in leaves if isinstance(leaf, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}.values())


@torch.no_grad()
def cost(subject: Subject) -> None:
    """`cost` reports the parameters there are, FLOPs that grow, the bytes that a state holds, the pairs a map shows."""
    for placed in layers_in_stack(subject):
        lengths = sorted({3, 7, placed.lengths()[-1]})
        costs = {t: placed.layer.cost(t, list(placed.layers[:-1])) for t in lengths}
        count = sum(p.numel() for p in placed.layer.parameters() if p.requires_grad)
        for t, reported in costs.items():
            label = f"{placed.label}T={t}: "
            if reported.params != count:
                raise LawBroken(f"{label}cost reports {reported.params} parameters, there are {count}")
            if reported.forward_flops <= 0 or reported.decode_flops <= 0:
                raise LawBroken(
                    f"{label}cost reports {reported.forward_flops} and {reported.decode_flops} FLOPs, not more than 0"
                )
            for how, cut in (("at once", [t]), ("token by token", [1] * t)):
                held = bytes_held(placed.state_after(t, cut, torch.float64))
                if held != reported.state_bytes:
                    raise LawBroken(
                        f"{label}cost reports {reported.state_bytes} bytes of state, {held} are held after {t} tokens "
                        f"{how}"
                    )
            _pairs_cover_the_map(placed, t, reported.pairs, label)
        for a, b in itertools.pairwise(lengths):
            if not (costs[a].forward_flops < costs[b].forward_flops and costs[a].decode_flops <= costs[b].decode_flops):
                raise LawBroken(
                    f"{placed.label}FLOPs do not grow from T={a} to T={b}: forward {costs[a].forward_flops} to "
                    f"{costs[b].forward_flops}, decode {costs[a].decode_flops} to {costs[b].decode_flops}"
                )
        a, b = lengths[0], lengths[-1]  # between them, since a rule may keep one row for several tokens
        if placed.layer.traits.growth == "linear" and costs[a].decode_flops == costs[b].decode_flops:
            raise LawBroken(
                f"{placed.label}the state grows, but a token costs {costs[a].decode_flops} FLOPs at T={a} and T={b}"
            )


def _pairs_cover_the_map(placed: LayerInStack, t: int, pairs: int | None, label: str) -> None:
    a = placed.weights(tokens(BATCH, t))
    if pairs is None or a is None:
        return
    shown = float((a != 0).any(dim=0).sum(dim=(-2, -1)).double().mean())
    if not 0 < pairs <= t * (t + 1) // 2:
        raise LawBroken(f"{label}pairs is {pairs}, but a causal rule has from 1 to {t * (t + 1) // 2}")
    if shown >= pairs + 1:  # a wrapper rounds the mean over its parts down
        raise LawBroken(f"{label}pairs is {pairs}, but the map of a head shows {shown:g} on average")


@torch.no_grad()
def state_growth(subject: Subject) -> None:
    """What decoding keeps is constant, bounded by a window, or linear in the tokens seen, as `growth` says."""
    for placed in layers_in_stack(subject):
        growth, reach = placed.layer.traits.growth, placed.reach()
        lengths = (reach, 2 * reach, 3 * reach) if growth == "window" else (1, 21, 41, 61)
        held = [bytes_held(placed.state_after(t, [t], torch.float64)) for t in lengths]
        steps = {b - a for a, b in itertools.pairwise(held)}
        if growth == "constant":
            holds = steps == {0}
        elif growth == "window":
            holds = steps == {0} and bytes_held(placed.state_after(1, [1], torch.float64)) <= held[0]
        elif growth == "linear":
            holds = len(steps) == 1 and min(steps) > 0
        else:
            raise LawBroken(f"{placed.label}growth is {growth!r}, not one of constant, window, linear")
        if not holds:
            sizes = ", ".join(f"{b} bytes after {t}" for t, b in zip(lengths, held, strict=True))
            raise LawBroken(f"{placed.label}growth is {growth!r}, but the state holds {sizes} tokens")
