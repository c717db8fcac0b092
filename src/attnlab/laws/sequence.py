"""Laws about what an output may depend on: its shape, earlier tokens only, its own row only, any cutting alike."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attnlab.laws.layer_in_stack import LayerInStack, layers_in_stack, stack_depth
from attnlab.laws.subject import (
    BATCH,
    D_MODEL,
    LONG,
    SAME,
    SHORT,
    UNTOUCHED,
    LawBroken,
    Subject,
    cuttings,
    gap,
    ids,
    one_line,
    perturbed,
    seeded,
    tokens,
    written,
)
from attnlab.model import GPT


def stack(subject: Subject) -> GPT:
    """A model in fp64, off its initial values, without dropout."""
    model = subject.gpt(stack_depth(subject), init="fan_in").double().eval()
    perturbed(model)
    return model


def shape(subject: Subject) -> None:
    """(batch, tokens, d_model) in, the same shape and type out, no tokens too, and the input is left as it was."""
    for placed in layers_in_stack(subject):
        if placed.layer.d_out != D_MODEL:
            raise LawBroken(f"{placed.label}d_out is {placed.layer.d_out}, not d_model ({D_MODEL})")
        for batch in (1, BATCH):
            for t in placed.lengths():
                _shape(placed, batch, t)
            _no_tokens(placed, batch)


@torch.no_grad()
def _shape(placed: LayerInStack, batch: int, t: int) -> None:
    x = tokens(batch, t)
    before = x.clone()
    y, _ = placed.step(x, placed.init_state(batch, t))
    for what, result in (("forward", placed(x)), ("step", y)):
        if result.shape != x.shape:
            raise LawBroken(f"{placed.label}{what} makes {tuple(result.shape)} of {tuple(x.shape)}")
        if result.dtype != x.dtype:
            raise LawBroken(f"{placed.label}{what} makes {result.dtype} of {x.dtype}")
    norms = placed.value_norms(x)
    if norms is not None and (norms.dim() != 3 or norms.size(0) != batch or norms.size(2) != t):
        raise LawBroken(f"{placed.label}value_norms makes {tuple(norms.shape)} of {tuple(x.shape)}, not (b, h, s)")
    if not torch.equal(x, before):
        raise LawBroken(f"{placed.label}the input of {tuple(x.shape)} is written into")


@torch.no_grad()
def _no_tokens(placed: LayerInStack, batch: int) -> None:
    """Of no tokens (b, 0, d_model) is made, the map is empty, and a state that is given none goes on as it was."""
    none, x = tokens(batch, 0), tokens(batch, 3)
    try:
        _shape(placed, batch, 0)
        a = placed.weights(none)
        with_none, without = (placed.decode(x, cut, max_len=3) for cut in ([0, 2, 0, 1], [2, 1]))
    except (RuntimeError, IndexError, ArithmeticError, ValueError) as error:
        raise LawBroken(
            f"{placed.label}no tokens, (b={batch}, t=0): {type(error).__name__}: {one_line(error)}"
        ) from error
    if a is not None and a.shape[2:] != (0, 0):
        raise LawBroken(f"{placed.label}weights makes {tuple(a.shape)} of no tokens, not (b={batch}, heads, 0, 0)")
    if not torch.equal(with_none, without):
        raise LawBroken(f"{placed.label}a step without tokens changes the steps after it (T=3 cut as 0+2+0+1)")


@torch.no_grad()
def causality(subject: Subject, lengths: tuple[int, ...] = ()) -> None:
    """y[:, i] is a function of x[:, : i + 1]: changing the tokens from i on leaves the outputs before i alone."""
    for placed in layers_in_stack(subject):
        for t in lengths or placed.lengths():
            _earlier_outputs_stay(placed, tokens(1, t), 3 * tokens(1, t, seed=1), placed.label)
        placed.train()  # with dropout: the same noise in each comparison
        _earlier_outputs_stay(placed, tokens(1, SHORT[-1]), tokens(1, SHORT[-1], seed=1), f"{placed.label}training, ")
    model = stack(subject)
    for t, every in ((2, 1), (3, 1), (7, 1), (LONG, 11)):
        label = f"a GPT of {len(model.blocks)} layers, "
        _earlier_outputs_stay(model, ids(1, t), ids(1, t, seed=1), label, every)


def _earlier_outputs_stay(
    run: Callable[[Tensor], Tensor], x: Tensor, other: Tensor, label: str, every: int = 1
) -> None:
    t = x.size(1)
    usual = _seeded(run, x)
    for i in range(1, t, every):
        y = _seeded(run, torch.cat([x[:, :i], other[:, i:]], dim=1))
        moved = [gap(y[:, j], usual[:, j]) for j in range(i)] if gap(y[:, :i], usual[:, :i]) > UNTOUCHED else []
        if moved:
            j = next(j for j, size in enumerate(moved) if size > UNTOUCHED)
            raise LawBroken(
                f"{label}T={t}: changing the tokens from {i} on moves the output at {j} by {moved[j]:.1e} "
                f"(allowed {UNTOUCHED:.0e})"
            )


def _seeded(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with seeded(0):
        return run(x)


@torch.no_grad()
def decode(subject: Subject, lengths: tuple[int, ...] = ()) -> None:
    """Any cutting of a sequence into `step` calls gives what `forward` gives, in room for no more than its length."""
    for placed in layers_in_stack(subject):
        for t in lengths or placed.lengths():
            x = tokens(BATCH, t)
            usual = placed(x)
            for cut in cuttings(t):
                _cut_changes_nothing(placed.decode(x, cut, max_len=t), usual, cut, placed.label)
        _cut_changes_nothing(
            placed.decode(x, cuttings(t)[-1], max_len=t + 5), usual, cut, f"{placed.label}spare room, "
        )
    model = stack(subject)
    for t in (2, 3, 7, LONG):
        x = ids(BATCH, t)
        usual = model(x)
        for cut in cuttings(t)[-1:] if t == LONG else cuttings(t):  # long and token by token: the layers saw it
            state, out = model.init_state(BATCH, t), []
            for piece in x.split(cut, dim=1):
                logits, state = model.step(piece, state)
                out.append(logits)
            _cut_changes_nothing(torch.cat(out, dim=1), usual, cut, f"a GPT of {len(model.blocks)} layers, ")


def _cut_changes_nothing(y: Tensor, usual: Tensor, cut: list[int], label: str) -> None:
    for i in range(y.size(1)) if gap(y, usual) > SAME else ():
        if (off := gap(y[:, i], usual[:, i])) > SAME:
            raise LawBroken(
                f"{label}T={y.size(1)} cut as {written(cut)}: step differs from forward at token {i} by {off:.1e} "
                f"(allowed {SAME:.0e})"
            )


@torch.no_grad()
def batch_independence(subject: Subject) -> None:
    """A row of a batch is mixed as if it were alone, in training and in decoding."""
    t = SHORT[-1]
    for placed in layers_in_stack(subject):
        x, other = tokens(BATCH, t), tokens(BATCH, t, seed=1)
        for training in (False, True):
            placed.train(training)
            in_steps = partial(placed.decode, cut=[t - 2, 1, 1], max_len=t)
            ways: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (("forward", placed), ("step", in_steps))
            for how, run in ways:
                usual = _seeded(run, x)
                for row in range(BATCH):
                    mixed = other.clone()
                    mixed[row] = x[row]
                    _row_stays(
                        _seeded(run, mixed), usual, row, f"{placed.label}{how}{', training' if training else ''}"
                    )
        placed.eval()
        for row in range(BATCH):
            alone = placed(x[row : row + 1])
            _row_stays(alone.expand_as(x), placed(x), row, f"{placed.label}alone")


def _row_stays(y: Tensor, usual: Tensor, row: int, label: str) -> None:
    if (off := gap(y[row], usual[row])) > UNTOUCHED:
        raise LawBroken(
            f"{label}: row {row} of {BATCH} moves by {off:.1e} when the other rows change, T={y.size(1)} "
            f"(allowed {UNTOUCHED:.0e})"
        )
