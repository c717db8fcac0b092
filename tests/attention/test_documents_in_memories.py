"""Documents in a row, in layers that keep a memory: each finds it empty, wherever chunks of the scan begin."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.attention.plain_layers import draw
from torch import Tensor

from attnlab.attention.base import Shared
from attnlab.attention.borders import Borders
from attnlab.attention.controls import UniformAttention
from attnlab.attention.convolution import ShortConv
from attnlab.attention.decay import ChannelDecay, Decay, NoDecay, ScalarDecay
from attnlab.attention.documents import Documents
from attnlab.attention.feature_map import EluPlusOne, FeatureMap, RandomFeatures
from attnlab.attention.heads import Heads
from attnlab.attention.output_norm import SumNorm
from attnlab.attention.recurrent import Matrix, RecurrentAttention
from attnlab.attention.rwkv import erase_and_write
from attnlab.attention.scan import chunked, token_loop

B, H, D, V = 2, 3, 5, 4
LENGTHS = ((1, 2, 13, 1, 6, 1, 1), (9, 8, 8))  # of one row and the other, which a chunk of 8 or 9 also ends with
DOCUMENTS = Documents(torch.stack([torch.arange(len(n)).repeat_interleave(torch.tensor(n)) for n in LENGTHS]))
T = DOCUMENTS.ids.size(1)
SPANS = [(row, sum(n[:i]), sum(n[: i + 1])) for row, n in enumerate(LENGTHS) for i in range(len(n))]
same = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)  # float64


def alone(run: Callable[..., Tensor], *given: Tensor | None, dim: int = 2) -> Tensor:
    """What `run` gives of each document by itself, back in rows; axis `dim` of what is given are the tokens."""
    rows: list[list[Tensor]] = [[] for _ in LENGTHS]
    for row, a, b in SPANS:
        rows[row].append(run(*(None if x is None else x[row : row + 1].narrow(dim, a, b - a) for x in given)))
    return torch.cat([torch.cat(row, dim=dim) for row in rows])


def compared(packed: Tensor, apart: Tensor, given: list[Tensor]) -> None:
    """Values and gradients agree."""
    same(packed, apart)
    asked = draw(*packed.shape, seed=9)
    gradients = (torch.autograd.grad((o * asked).sum(), given, retain_graph=True) for o in (packed, apart))
    for one, other in zip(*gradients, strict=True):
        same(one, other)


@pytest.mark.parametrize("decay", ["none", "scalar", "channel", "strong"])
@pytest.mark.parametrize("writes", [False, True])
def test_scan(decay: str, writes: bool) -> None:
    """Chunks with borders in them are the loop over the tokens of each document, whatever lies before a row."""
    q, k, v = (draw(B, H, T, width, seed=width).requires_grad_() for width in (D, D + 1, V))
    k = F.normalize(k[..., :D], dim=-1)
    shape = {"none": None, "scalar": (B, H, T)}.get(decay, (B, H, T, D))
    size = 60.0 if decay == "strong" else 1.0
    log_decay = None if shape is None else (F.logsigmoid(draw(*shape, seed=1)) * size).requires_grad_()
    beta = draw(B, H, T, seed=2).sigmoid().requires_grad_() if writes else None
    before = draw(B, H, D, V, seed=3)
    given = [x for x in (q, v, log_decay, beta) if x is not None]
    apart = alone(lambda *x: token_loop(*x, torch.zeros(1, H, D, V).double())[0], q, k, v, log_decay, beta)  # type: ignore[call-arg]
    for chunk in (1, 3, 8, 64):
        run = partial(chunked, q, k, v, log_decay, beta, before, chunk)
        compared(run(DOCUMENTS.starts)[0], apart, given)
    assert (run()[0] - apart).abs().max() > 1e-3  # it is the starts that keep them apart


def test_scan_end() -> None:
    """What is left is the memory of each row's last document."""
    q, k, v, log_decay = (draw(B, H, T, D, seed=i) for i in range(4))
    log_decay = F.logsigmoid(log_decay)
    for chunk in (4, 64):
        _, state = chunked(q, k, v, log_decay, None, torch.zeros(B, H, D, D).double(), chunk, DOCUMENTS.starts)
        for row, n in enumerate(LENGTHS):
            last = [x[row : row + 1, :, -n[-1] :] for x in (q, k, v, log_decay)]
            same(state[row : row + 1], token_loop(*last, None, torch.zeros(1, H, D, D).double())[1])  # type: ignore[call-arg]


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_rwkv(chunk: int) -> None:
    """RWKV-7's own scan, too."""
    q, k, removal, rate, log_decay = (draw(B, H, T, D, seed=i).requires_grad_() for i in range(5))
    given, v = [q, k, removal, rate, log_decay], draw(B, H, T, V, seed=5)

    def run(q: Tensor, k: Tensor, v: Tensor, g: Tensor, removal: Tensor, rate: Tensor, **more: Tensor) -> Tensor:
        state = torch.zeros(q.size(0), H, D, V).double()
        return erase_and_write(
            q, k, v, F.logsigmoid(g), F.normalize(removal, dim=-1), rate.sigmoid(), state, chunk, **more
        )[0]

    parts = (q, k, v, log_decay, removal, rate)
    compared(run(*parts, starts=DOCUMENTS.starts), alone(run, *parts), given)


@pytest.mark.parametrize("width", [2, 4, 9])
@pytest.mark.parametrize("bias", [False, True])
def test_convolution(width: int, bias: bool) -> None:
    """The first tokens of a document see no other, not even one that is not a number."""
    torch.manual_seed(0)
    conv = ShortConv(D, width, bias=bias).double()
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    y = draw(B, T, D).requires_grad_()
    packed = conv(y, None, DOCUMENTS)[0]
    compared(packed, alone(lambda y: conv(y, None)[0], y, dim=1), [y, *conv.parameters()])
    broken = y.detach().clone()
    broken[1, : LENGTHS[1][0]] = torch.nan
    assert torch.equal(conv(broken, None, DOCUMENTS)[0][1, LENGTHS[1][0] :], packed[1, LENGTHS[1][0] :])


@pytest.mark.parametrize("feature_map", [EluPlusOne, RandomFeatures])
@pytest.mark.parametrize("decay", [NoDecay, ScalarDecay, ChannelDecay])
def test_features_out_of_range(feature_map: type[FeatureMap], decay: type[Decay]) -> None:
    """In float32, beside documents whose features are e^100 times as large, one is what it is alone in float64."""
    if decay is ChannelDecay and feature_map is RandomFeatures:
        pytest.skip("it has more features than channels")
    torch.manual_seed(0)
    slots: dict[str, Any] = {"feature_map": feature_map, "decay": decay, "output_norm": SumNorm}
    layer = RecurrentAttention(12, n_heads=2, chunk=8, **slots)
    x = draw(B, T, 12)
    sizes = torch.tensor([1.0, 300.0, 0.01, 40.0, 120.0, 1.0, 500.0])[DOCUMENTS.ids]
    x = (x * sizes[..., None]).float()
    packed = layer(x, Shared(DOCUMENTS)).detach()
    wide = layer.double()
    right = alone(lambda x: wide(x), x.double(), dim=1).detach()
    for row, a, b in SPANS:
        size = float(right[row, a:b].abs().max())
        assert float((packed[row, a:b] - right[row, a:b]).abs().max()) < 1e-3 * size  # of what exponents of 100 lose


def test_averages() -> None:
    """Uniform weights are those of the tokens of a document, exactly 0 elsewhere."""
    layer, x = UniformAttention(12, n_heads=2).double(), draw(B, T, 12)
    maps = layer.weights(x, Shared(DOCUMENTS))
    right = DOCUMENTS.same.tril().double() / (1 + DOCUMENTS.positions[..., None])
    assert maps is not None
    same(maps, right[:, None].expand_as(maps))
    assert not maps[~DOCUMENTS.same[:, None].expand_as(maps)].any()


class Counted(RecurrentAttention):
    """Counts the tokens that its scan is given."""

    documents = True

    def scan(self, heads: Heads, memory: Matrix, start: int) -> tuple[Tensor, Matrix]:
        self.given = heads.v.size(2)
        return super().scan(heads, memory, start)


class Rescanned(RecurrentAttention):
    """Has a scan of its own, and does not say that it takes documents."""

    scan = Counted.scan


def test_rows_at_once() -> None:
    """A layer whose scan takes documents is given whole rows; one that writes its scan anew must say so again."""
    layer = Counted(12, n_heads=2)
    layer(draw(B, T, 12).float(), Shared(DOCUMENTS))
    assert layer.given == T
    assert RecurrentAttention.documents and not Rescanned.documents


def test_borders() -> None:
    """Two chunks of two tokens, of which the second begins within the document that the first one ends with."""
    hidden, entering, leaving = Borders.of(torch.tensor([[True, False, False, True]]), 0, 2, torch.float64)
    assert hidden.tolist() == [[[[[False, True], [False, False]], [[False, True], [True, False]]]]]
    assert entering.flatten().tolist() == [0, 0, 1, 0]
    assert leaving.flatten().tolist() == [1, 1, 0, 1]
