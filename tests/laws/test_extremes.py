"""The parts of the law that float32 is enough: rounding as float32 does it, errors by size, choices made again."""

import math

import torch

from attnlab.laws.extremes import FLOAT32, Choosing, inputs, off, rounded


def test_rounded() -> None:
    """To the nearest it is float32 itself; towards zero it is a neighbour that is never larger, at any size."""
    x = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(rounded(x, nearest=True), x.float().double())
    for size in (1.0, 1e-60, 1e60):  # beyond what float32 holds the digits are as many
        down = rounded(x * size, nearest=False)
        lost = (x * size - down) / (x * size)
        assert bool(((lost >= 0) & (lost < FLOAT32.eps)).all()) and float(lost.max()) > FLOAT32.eps / 4
        assert torch.equal(rounded(down, nearest=False), down)


def test_off() -> None:
    """An error counts in parts of its token's largest number; where a number is lost it is infinite."""
    right = torch.tensor([[[1.0, 100.0], [0.5, 1e-9]], [[2.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    y = right.clone()
    y[0, 0, 0] += 1.0  # one part in a hundred of that token
    y[0, 1, 1] += 2e-3  # its token is 0.5, its sequence 100: of a thousandth of that, 0.1, or of 0.5
    y[1, 1, 0] += 2e-5  # a token of zeros, in a sequence of size 2
    assert off(y.float(), right).tolist() == [0.01, math.inf] or torch.allclose(
        off(y, right), torch.tensor([0.01, 0.01]).double()
    )
    y[1, 0, 0] = torch.nan
    assert off(y, right)[1].item() == math.inf


def test_choices_again() -> None:
    """What was chosen near a tie is chosen again, with the numbers of the second time."""
    first = Choosing()
    with first:
        torch.tensor([[1.0, 2.0, 3.0]]).topk(2)
    with Choosing(first):
        values, places = torch.tensor([[9.0, 2.0, 3.0]]).topk(2)
    assert (values.tolist(), places.tolist()) == ([[3.0, 2.0]], [[2, 1]])


def test_inputs() -> None:
    """Each is what its name says, and all are of one shape."""
    usual, large = inputs()
    assert not usual["zeros alone"].any() and int((~usual["a row of zeros"].any(dim=1)).sum()) == 1
    tiny, huge = (float(case.abs().max()) for case in (usual["numbers of size 1e-20"], large["numbers of size 10000"]))
    assert tiny < 1e-19 and huge > 1e4
    rows = large["a spike of 1e4"].norm(dim=1)
    assert float(rows.max() / rows.median()) > 1e3 and int(rows.argmax()) != 0
    assert int(large["a spike of 1e4 at the start"].norm(dim=1).argmax()) == 0
    assert len({case.shape for case in (usual | large).values()}) == 1
