"""Products of what decays row by row: split at the chunk's beginning, or block by block where it decays much."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention import chunk_decay
from attnlab.attention.borders import Borders
from attnlab.attention.chunk_decay import ChunkDecay
from attnlab.attention.scan import faded

B, H, T, D = 2, 2, 11, 3


def parts(strength: float) -> list[Tensor]:
    """A reader, what is written, and log decays of a chunk, each with a gradient."""
    draw = partial(torch.randn, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, y, decay = (draw(B, H, 1, T, D) for _ in range(3))
    return [part.requires_grad_() for part in (x, y, F.logsigmoid(decay) * strength)]


def results(given: list[Tensor], borders: Borders | None) -> list[Tensor]:
    x, y, decay = given
    decays = ChunkDecay(decay, borders, x)
    written = decays.written(y)
    [[products]], [met] = decays.meet([x], [written])
    first, joins = torch.ones(B, H, D, 1, dtype=x.dtype), written.joins[:, :, 0].mT  # of what was there, of each token
    state = torch.cat([first, joins], dim=-1)
    [(before, after)] = decays.factors((B, H), 1)
    left = faded(state.flatten(0, 1), before)
    left = torch.cat([left[..., :1], state.flatten(0, 1)[..., 1:]], dim=-1)
    outputs = [products, met, faded(left, after)]
    return [*outputs, *torch.autograd.grad(sum(o.sin().sum() for o in outputs), given)]  # type: ignore[union-attr]


@pytest.mark.parametrize("documents", [False, True])
def test_split_is_by_blocks(documents: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients are the same both ways, and those of a loop over pairs."""
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, 0], starts[0, 4], starts[1, 9] = True, True, True
    borders = Borders.of(starts, 0, T, torch.float64) if documents else None
    given = parts(1.0)
    split = results(given, borders)
    x, y, decay = given
    g, number = decay.cumsum(-2), starts.cumsum(-1)
    for i, j in ((3, 3), (5, 3), (10, 9), (2, 7)):
        shown = j <= i and (~torch.tensor(documents) | (number[:, i] == number[:, j]))
        pair = (x[..., i, :] * y[..., j, :] * (g[..., i, :] - g[..., j, :]).exp()).sum(-1) * torch.as_tensor(
            shown, dtype=torch.float64
        ).view(-1, 1, 1)
        torch.testing.assert_close(split[0][..., i, j], pair)
    monkeypatch.setattr(chunk_decay, "FALL", 0.0)
    for one, other in zip(split, results(given, borders), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_strong_decay_stays_finite() -> None:
    """A fall that float64 does not hold the inverse of leaves the split."""
    given = parts(500.0)
    assert ChunkDecay(given[2], None, given[0]).rise is None
    assert all(x.isfinite().all() for x in results(given, None))


def test_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where columns decay, sums and their gradients are the same both ways, and those that are written out."""
    v, met, decay = parts(1.0)
    a = torch.randn(B, H, 1, T, T, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def sums() -> list[Tensor]:
        decays = ChunkDecay(decay, None, v)
        o = decays.columns(a, decays.written(v), met)
        return [o, *torch.autograd.grad(o.sin().sum(), [v, met, decay])]

    split, g = sums(), decay.cumsum(-2)
    between = (g[..., :, None, :] - g[..., None, :, :]).exp()
    plain = torch.einsum("bhnij,bhnjm,bhnijm->bhnim", a.tril(), v, between) + met * g.exp()
    torch.testing.assert_close(split[0], plain)
    monkeypatch.setattr(chunk_decay, "FALL", 0.0)
    for one, other in zip(split, sums(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
