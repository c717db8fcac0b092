"""Laws about numbers: every parameter matters, runs repeat bit for bit, bfloat16 stays near float32."""

import copy
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attnlab.laws.layer_in_stack import LayerInStack, layers_in_stack, stack_depth
from attnlab.laws.subject import (
    BATCH,
    CONTEXT,
    LONG,
    LawBroken,
    Skipped,
    Subject,
    gap,
    ids,
    perturbed,
    seeded,
    tokens,
)

DEAD = 1e-13  # gradients here are of size 1e-3 to 10, those that are zero but for rounding below 1e-15
RECENT = 16  # tokens: longer than any short convolution
FAR = CONTEXT  # tokens, for what only matters at a distance
# Of the largest output. bfloat16 keeps 8 bits, so one rounding costs up to 0.004 and a layer has several in a row:
# softmax layers measure 0.002 to 0.005, gated delta 0.02, whose output norm magnifies the rounding of small outputs.
HALF = 0.04


def no_dead_parameter(subject: Subject) -> Skipped | None:
    """Every scalar of every parameter, every column of a table, gets a finite gradient other than zero."""
    trainable = 0
    for placed in layers_in_stack(subject):
        y = placed(tokens(BATCH, FAR))
        params = {name: p for name, p in placed.layer.named_parameters() if p.requires_grad}
        tables = {f"{name}.weight" for name, m in placed.layer.named_modules() if isinstance(m, nn.Embedding)}
        trainable += len(params)
        if not params:
            continue
        grads = torch.autograd.grad((y * tokens(BATCH, FAR, seed=1)).sum(), list(params.values()), allow_unused=True)
        for (name, parameter), grad in zip(params.items(), grads, strict=True):
            if grad is None:
                raise LawBroken(f"{placed.label}{name} {tuple(parameter.shape)} does not enter the output")
            if bad := int((~grad.isfinite()).sum()):
                raise LawBroken(f"{placed.label}{name}: {bad} of {grad.numel()} gradients are not finite, T={FAR}")
            zero, what = grad.abs() < DEAD, "scalars"
            if name in tables:  # which rows are looked up, masks and tokens decide
                zero, what = zero.all(dim=0), "columns"
            if dead := int(zero.sum()):
                raise LawBroken(
                    f"{placed.label}{name}: {dead} of {zero.numel()} {what} get no gradient, T={FAR} "
                    f"(below {DEAD:.0e}; the largest is {grad.abs().max():.1e})"
                )
    return None if trainable else Skipped("nothing in this variant is trained")


def reproducible(subject: Subject) -> None:
    """The same seed gives the same bits, in values and gradients, and a saved model is the model."""
    depth, x = stack_depth(subject), ids(BATCH, 7)
    models = []
    for drawn_before, seed in ((1, 5), (2, 5), (3, 6)):
        with seeded(drawn_before):
            models.append(subject.gpt(depth, seed=seed))
    one, same, other = models
    for (name, a), b in zip(_numbers(one).items(), _numbers(same).values(), strict=True):
        if not torch.equal(a, b):
            raise LawBroken(f"{name} {tuple(a.shape)} starts from other numbers with the same seed: {gap(a, b):.1e}")
    runs = [_training_step(model, x) for model in (one, one, same)]
    for run in runs[1:]:
        for name, a in runs[0].items():
            if not torch.equal(a, run[name]):
                raise LawBroken(f"{name} differs between two runs with the same seed, T=7: {gap(a, run[name]):.1e}")
    perturbed(one)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    try:
        other.load_state_dict(torch.load(file, weights_only=True), strict=True)
    except RuntimeError as error:
        raise LawBroken(f"a saved model cannot be loaded: {' '.join(str(error).split())}") from error
    with torch.no_grad():
        a, b = one.eval()(x), other.eval()(x)
    if not torch.equal(a, b):
        raise LawBroken(f"a saved and loaded model gives other outputs, T=7: {gap(a, b):.1e} (allowed 0)")


def _numbers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _training_step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.train().zero_grad()
    with seeded(0):
        logits = model(x)
        logits.sum().backward()
    grads = {f"the gradient of {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"the output": logits.detach()} | grads


def half_precision(subject: Subject) -> None:
    """In bfloat16, and under autocast, outputs are finite and near float32, and a recurrent state stays float32.

    Where a rule jumps, rounding may bring a few outputs to the other side: there they are near on average.
    """
    for placed in layers_in_stack(subject, torch.float32):
        half = copy.deepcopy(placed).to(torch.bfloat16)
        near = _near_on_average if placed.layer.traits.discontinuous else _near
        exact = copy.deepcopy(half).to(torch.float32)  # the same rounded weights: arithmetic alone is judged
        for t in (7, LONG):
            x = tokens(BATCH, t, dtype=torch.bfloat16)
            with torch.no_grad():
                usual, decoded = exact(x.float()), _decoded(exact, x.float())
                near(half(x), usual, f"{placed.label}T={t}, bfloat16")
                near(_decoded(half, x), decoded, f"{placed.label}T={t}, bfloat16, decoded")
                with torch.autocast("cpu", torch.bfloat16):
                    near(exact(x.float()), usual, f"{placed.label}T={t}, autocast")
                    near(_decoded(exact, x.float()), decoded, f"{placed.label}T={t}, autocast, decoded")
            with torch.autocast("cpu", torch.bfloat16):
                loss = exact(x.float()).float().square().sum()
            _finite_gradients(exact, loss, f"{placed.label}T={t}, autocast")
        if placed.layer.traits.growth == "constant":
            _memory_is_float32(half, torch.bfloat16, f"{placed.label}bfloat16")
            with torch.autocast("cpu", torch.bfloat16):
                _memory_is_float32(exact, torch.float32, f"{placed.label}autocast")


def _decoded(placed: LayerInStack, x: Tensor) -> Tensor:
    """Token by token, but for the first of a long sequence, which come at once."""
    prompt = max(1, x.size(1) - 10)
    return placed.decode(x, [prompt] + [1] * (x.size(1) - prompt), max_len=x.size(1))


def _near(y: Tensor, usual: Tensor, label: str) -> None:
    off = float((y.float() - usual).abs().max() / usual.abs().max())
    if not off <= HALF:
        raise LawBroken(f"{label}: {off:.1e} of the largest output away from float32 (allowed {HALF})")


def _near_on_average(y: Tensor, usual: Tensor, label: str) -> None:
    off = float((y.float() - usual).abs().mean() / usual.abs().mean())
    if not off <= HALF:
        raise LawBroken(f"{label}: {off:.1e} of the average output away from float32 on average (allowed {HALF})")


def _finite_gradients(placed: LayerInStack, loss: Tensor, label: str) -> None:
    params = {name: p for name, p in placed.layer.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True) if params else ()
    for name, grad in zip(params, grads, strict=True):
        if grad is not None and not grad.isfinite().all():
            raise LawBroken(f"{label}: {int((~grad.isfinite()).sum())} gradients of {name} are not finite")


@torch.no_grad()
def _memory_is_float32(placed: LayerInStack, dtype: torch.dtype, label: str) -> None:
    """What is kept below float32 may be a few recent inputs, never a sum over all tokens: sums round each time."""
    x, older = (tokens(1, LONG, seed, dtype) for seed in (0, 1))
    other = torch.cat([older[:, :-RECENT], x[:, -RECENT:]], dim=1)
    states = [placed.step(way, placed.init_state(1, LONG))[1][-1] for way in (x, other)]
    leaves: list[list[Any]] = [pytree.tree_leaves(state) for state in states]
    for a, b in zip(*leaves, strict=True):
        if isinstance(a, Tensor) and a.is_floating_point() and a.dtype.itemsize < 4 and not torch.equal(a, b):
            raise LawBroken(
                f"{label}: a tensor {tuple(a.shape)} of the state is {a.dtype} and depends on tokens more than "
                f"{RECENT} back (moves by {gap(a, b):.1e}, T={LONG}); a sum over tokens needs float32"
            )
