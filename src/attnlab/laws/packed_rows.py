"""The law about documents packed into one row: none sees another, and each gives what it gives alone."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from attnlab.laws.layer_in_stack import layers_in_stack, stack_depth
from attnlab.laws.subject import SAME, LawBroken, Subject, gap, perturbed, tokens
from attnlab.model import GPT

BESIDE = (1, 2, 7, 3)  # tokens of the documents beside the longest; in the second row they stand the other way round


class Span(NamedTuple):
    """A document: its row, and its tokens there."""

    row: int
    first: int
    end: int


def documents(subject: Subject) -> None:
    """Documents packed into one row give what each gives alone: outputs, gradients and maps."""
    longest = max(placed.lengths()[-1] for placed in layers_in_stack(subject))
    lengths = [*BESIDE[:3], longest, *BESIDE[3:]]
    n = sum(lengths)
    # Every token is another one, so that the gradient of the embeddings is that of each token alone.
    model = subject.gpt(stack_depth(subject), init="fan_in", vocab_size=2 * n).double().eval()
    perturbed(model)
    ids, spans = torch.arange(2 * n).view(2, n), [*_spans(0, lengths), *_spans(1, lengths[::-1])]
    numbers = torch.stack(
        [torch.arange(len(lengths)).repeat_interleave(torch.tensor(r)) for r in (lengths, lengths[::-1])]
    )
    _outputs_and_gradients(model, ids, numbers, spans)
    _maps(model, ids, numbers, spans)


def _spans(row: int, lengths: list[int]) -> Iterator[Span]:
    first = 0
    for length in lengths:
        yield Span(row, first, first + length)
        first += length


def _outputs_and_gradients(model: GPT, ids: Tensor, numbers: Tensor, spans: list[Span]) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # How much each output counts: the loss is a sum over some of the vocabulary.
    asked = tokens(ids.size(0), ids.size(1), seed=2)
    packed = model(ids, numbers)
    packed_gradients = _gradients((packed[..., : asked.size(-1)] * asked).sum(), trained)
    total = {name: torch.zeros_like(p) for name, p in trained.items()}
    for row, first, end in spans:
        alone = model(ids[row : row + 1, first:end])[0]
        _compare(packed[row, first:end], alone, Span(row, first, end), "the output")
        loss = (alone[:, : asked.size(-1)] * asked[row, first:end]).sum()
        for name, gradient in _gradients(loss, trained).items():
            total[name] += gradient
    for name, gradient in packed_gradients.items():
        if (off := gap(gradient, total[name])) > SAME:
            raise LawBroken(
                f"the gradient of {name} differs by {off:.1e} (allowed {SAME:.0e}) between documents packed and alone"
            )


def _gradients(loss: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}


@torch.no_grad()
def _maps(model: GPT, ids: Tensor, numbers: Tensor, spans: list[Span]) -> None:
    packed = model.attention_maps(ids, numbers)
    outside = numbers[:, None, :, None] != numbers[:, None, None, :]
    for i, shown in enumerate(packed):
        if shown.weights is not None and (most := float((shown.weights.abs() * outside).max())) > 0:
            raise LawBroken(
                f"layer {i} of a GPT: its map gives a token of another document a weight of {most:.1e}, not 0"
            )
    for row, first, end in spans:
        for i, (shown, alone) in enumerate(
            zip(packed, model.attention_maps(ids[row : row + 1, first:end]), strict=True)
        ):
            if shown.weights is not None and alone.weights is not None:
                own = shown.weights[row, :, first:end, first:end]
                _compare(own, alone.weights[0], Span(row, first, end), f"the map of layer {i}")
            if shown.value_norm is not None and alone.value_norm is not None:
                norms = shown.value_norm[row, :, first:end]
                _compare(norms, alone.value_norm[0], Span(row, first, end), f"the value norms of layer {i}")


def _compare(packed: Tensor, alone: Tensor, span: Span, what: str) -> None:
    if packed.shape != alone.shape:
        raise LawBroken(
            f"{what} is {tuple(packed.shape)} of a document packed into a row and {tuple(alone.shape)} alone"
        )
    if (off := gap(packed, alone)) > SAME:
        raise LawBroken(
            f"{what} of the document in row {span.row}, tokens {span.first} to {span.end - 1}, differs by {off:.1e} "
            f"(allowed {SAME:.0e}) between packed and alone"
        )
