"""Laws about the map: it is what the layer computes, it is of the kind it claims, and the fused kernel agrees."""

import copy
from typing import get_args

import torch
from torch import Tensor, nn

from attnlab.attention.base import Attention, HeadedAttention, Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.traits import MapKind
from attnlab.laws.layer_in_stack import LayerInStack, layers_in_stack
from attnlab.laws.sequence import stack
from attnlab.laws.subject import BATCH, LONG, SAME, UNTOUCHED, LawBroken, Skipped, Subject, cuttings, gap, ids, tokens


def map_(subject: Subject, lengths: tuple[int, ...] = ()) -> None:
    """The map reproduces the output, shows no later token, and is of the kind that `map_kind` says."""
    for placed in layers_in_stack(subject):
        for t in lengths or placed.lengths():
            x = tokens(BATCH, t)
            _map_holds(placed.layer, x, placed.shared(x), f"{placed.label}T={t}: ")
        _mode_is_left_alone(placed)
    _model_shows_every_map(subject)


def _map_holds(layer: Attention, x: Tensor, shared: Shared, label: str) -> None:
    kind = layer.traits.map_kind
    if kind not in get_args(MapKind):
        raise LawBroken(f"map_kind is {kind!r}, not one of {', '.join(get_args(MapKind))}")
    a = layer.weights(x, shared.copy())
    if a is None or kind == "none":
        if (a is None) != (kind == "none"):
            raise LawBroken(f"{label}map_kind is {kind!r}, but weights gives {'no map' if a is None else 'a map'}")
        return
    _kind_holds(a, x, kind, label)
    if isinstance(layer, HeadedAttention):
        _reproduces(layer, a, x, shared, label)
        return
    parts = list(_parts(layer))
    for i, part in enumerate(parts):
        _map_holds(part, x, shared, f"{label}part {i}: ")
    drawn = [part.weights(x, shared.copy()) for part in parts]
    whole = [part for part in drawn if part is not None]
    if whole and len(whole) == len(drawn):
        together = torch.cat(whole, dim=1)
        if together.shape != a.shape or gap(together, a) > UNTOUCHED:
            raise LawBroken(f"{label}the map is not that of its parts side by side")


def _parts(module: nn.Module) -> list[Attention]:
    """The attentions nearest below a module, outermost first."""
    attentions: list[Attention] = []
    for child in module.children():
        attentions += [child] if isinstance(child, Attention) else _parts(child)
    return attentions


def _kind_holds(a: Tensor, x: Tensor, kind: MapKind, label: str) -> None:
    b, t = x.shape[:2]
    if a.dim() != 4 or a.size(0) != b or tuple(a.shape[2:]) != (t, t):
        raise LawBroken(f"{label}weights makes {tuple(a.shape)}, not (b={b}, heads, t={t}, s={t})")
    if not a.isfinite().all():
        raise LawBroken(f"{label}the map holds {int((~a.isfinite()).sum())} numbers that are not finite")
    later = a.triu(1).abs()
    if later.max() > 0:
        _, h, i, j = (later == later.max()).nonzero()[0].tolist()
        raise LawBroken(
            f"{label}head {h} gives later token {j} a weight of {a[:, h, i, j].max():.1e} at query {i}, not 0"
        )
    sums, least = a.sum(dim=-1), float(a.min())
    if kind != "signed" and least < 0:
        raise LawBroken(f"{label}a {kind} map holds a weight of {least:.1e}, below 0")
    if kind == "probability" and (off := gap(sums, torch.ones_like(sums))) > UNTOUCHED:
        raise LawBroken(f"{label}a row of a probability map misses the sum 1 by {off:.1e} (allowed {UNTOUCHED:.0e})")
    if kind == "sub_probability" and (most := float(sums.max())) > 1 + UNTOUCHED:
        raise LawBroken(f"{label}a row of a sub_probability map sums to {most:.12f}, above 1")


@torch.no_grad()
def _reproduces(layer: HeadedAttention, a: Tensor, x: Tensor, shared: Shared, label: str) -> None:
    heads = layer.share(layer.project(x), shared.copy())
    if a.size(1) != layer.n_heads:
        raise LawBroken(f"{label}the map has {a.size(1)} heads, not n_heads ({layer.n_heads})")
    values = heads.v.repeat_interleave(layer.n_heads // layer.n_kv_heads, dim=1)
    off = gap(layer.merge(a @ values, heads), layer(x, shared.copy()))
    if off > SAME:
        raise LawBroken(f"{label}merge(A v) differs from forward by {off:.1e} (allowed {SAME:.0e})")


def _mode_is_left_alone(placed: LayerInStack) -> None:
    """The map is taken without dropout, and the layer goes on training as before."""
    x = tokens(BATCH, 7)
    calm = placed.weights(x)
    placed.train()
    in_training = placed.weights(x)
    modes = {module.training for module in placed.layer.modules()}
    placed.eval()
    if modes != {True}:
        raise LawBroken(f"{placed.label}taking a map in training leaves parts of the layer in eval mode")
    if calm is not None and in_training is not None and not torch.equal(calm, in_training):
        raise LawBroken(
            f"{placed.label}T=7: the map taken in training differs from that in eval mode by "
            f"{gap(in_training, calm):.1e}"
        )


@torch.no_grad()
def _model_shows_every_map(subject: Subject) -> None:
    """A GPT shows one map per layer, and looking changes nothing."""
    model, x = stack(subject), ids(BATCH, 7)
    usual = model(x)
    maps = model.attention_maps(x)
    for i, (block, shown) in enumerate(zip(model.layers, maps, strict=True)):
        label, kind = f"layer {i} of a GPT: ", block.attention.traits.map_kind
        if shown.kind != kind or (shown.weights is None) != (kind == "none"):
            raise LawBroken(
                f"{label}map_kind is {kind!r}, shown is {'no map' if shown.weights is None else shown.kind}"
            )
        if shown.weights is not None:
            _kind_holds(shown.weights, x, kind, label)
    if not torch.equal(model(x), usual):
        raise LawBroken(f"taking maps changes the output of the model by {gap(model(x), usual):.1e}")


def fused_equals_explicit(subject: Subject) -> Skipped | None:
    """Where the fused kernel serves, it gives what the rule written out gives: values, gradients, maps and decoding."""
    served = 0
    for placed in layers_in_stack(subject):
        twin = copy.deepcopy(placed)
        for module in twin.modules():
            if isinstance(module, SoftmaxAttention):
                served += module.fused
                module.fused = False
        for t in placed.lengths() if served else ():
            _agree(placed, twin, t)
    return None if served else Skipped("the fused kernel does not serve this variant")


def _agree(fused: LayerInStack, explicit: LayerInStack, t: int) -> None:
    what: dict[str, tuple[Tensor, Tensor]] = {}
    x = tokens(BATCH, t)
    with torch.no_grad():
        what["forward without gradients"] = fused(x), explicit(x)
        cut = cuttings(min(t, LONG))[-1] if t <= LONG else [t]
        what["step"] = fused.decode(x, cut, max_len=t), explicit.decode(x, cut, max_len=t)
        maps = fused.weights(x), explicit.weights(x)
    if maps[0] is not None and maps[1] is not None:
        what["the map"] = maps[0], maps[1]
    (y, grads), (y_explicit, grads_explicit) = _gradients(fused, x), _gradients(explicit, x)
    what["forward"] = y, y_explicit
    none = torch.zeros(())  # a parameter that does not enter
    for name in grads | grads_explicit:
        what[f"the gradient of {name}"] = grads.get(name, none), grads_explicit.get(name, none)
    for name, (a, b) in what.items():
        if (off := gap(a, b)) > SAME:
            raise LawBroken(
                f"{fused.label}T={t}: {name} differs between the fused kernel and the rule by {off:.1e} "
                f"(allowed {SAME:.0e})"
            )


def _gradients(placed: LayerInStack, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    x = x.clone().requires_grad_()
    y = placed(x)
    loss = (y * tokens(x.size(0), x.size(1), seed=2)).sum()
    leaves = {"x": x} | {name: p for name, p in placed.layer.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return y.detach(), {name: g for name, g in zip(leaves, gradients, strict=True) if g is not None}
