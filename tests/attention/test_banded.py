"""A band computed in blocks is the same attention, and costs what grows with the length only."""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import sampled
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention import banded, masked
from attnlab.attention.banded import Blocks, Overlapping
from attnlab.attention.contextual_position import CoPE
from attnlab.attention.cost import count_flops
from attnlab.attention.differential import DifferentialAttention
from attnlab.attention.documents import Documents
from attnlab.attention.forgetting import Forget
from attnlab.attention.latent import LatentAttention
from attnlab.attention.mask import Causal, Chunked, Dilated, LocalGlobal, Mask, Strided, Window, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.attention.multi_token import MultiToken
from attnlab.attention.normalizer import Sink, Softmax1
from attnlab.attention.path import Path
from attnlab.attention.position import Position
from attnlab.attention.position_bias import FIRE, ALiBi, Kerple, T5Bias
from attnlab.attention.rotary import RoPE
from attnlab.attention.scalable_softmax import SSMax
from attnlab.attention.score import SoftCap
from attnlab.attention.selective import Selective
from attnlab.attention.shared import Shared
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.stick_breaking import StickBreaking
from attnlab.errors import UsageError
from attnlab.laws import judge, subject_of
from attnlab.laws.subject import SAME, gap

C, HEADS = 24, 4
BANDS: dict[str, tuple[Callable[[], Mask], int]] = {
    "window": (partial(Window, 7), 7),
    "window of one": (partial(Window, 1), 1),
    "wide window": (partial(Window, 81), 81),
    "chunked": (partial(Chunked, 9), 9),
    "dilated": (partial(Dilated, 3, 4), 9),
    "window and sinks": (partial(WindowSinks, 7, 3), 7),
    "as many sinks as window": (partial(WindowSinks, 5, 5), 5),
    "more sinks than a block": (partial(WindowSinks, 2, 40), 2),
}
RULES: dict[str, dict[str, Any]] = {
    "sink": {"normalizer": Sink},
    "softmax1": {"normalizer": Softmax1},
    "softcap": {"score": {"cap": partial(SoftCap, cap=2.0)}},
    "stick breaking": {"normalizer": StickBreaking},
    "ssmax": {"score": {"ssmax": SSMax}},
    "cope": {"score": {"cope": partial(CoPE, p_max=3)}},
    "forget": {"score": {"forget": Forget}},
    "selective": {"score": {"selective": Selective}},
    "multi-token": {"score": {"multi_token": partial(MultiToken, queries=3, keys=3)}},
    "path": {"score": {"path": Path}},
}


def layer(mask: Callable[[], Mask], **options: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    made: MultiHeadAttention = MultiHeadAttention(C, n_heads=HEADS, mask=mask, **options).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def inputs(t: int, batch: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(t)
    return torch.randn(batch, t, C, generator=draw, dtype=torch.float64).requires_grad_()


def explicit(one: SoftmaxAttention, x: Tensor) -> Tensor:
    pos, heads = torch.arange(x.size(1)), one.project(x)
    return one.merge(one.attend_explicitly(heads, pos, pos), heads)


@pytest.mark.parametrize("name", BANDS)
def test_max_lookback(name: str) -> None:
    """A mask keeps the promise of its band and promises no more."""
    make, band = BANDS[name]
    pos = torch.arange(200)
    visible = make().visible(pos, pos)
    visible[:, : make().sinks] = False
    distances = (pos[:, None] - pos)[visible]
    assert make().max_lookback == band == int(distances.max()) + 1


SPARSE: dict[str, Callable[[], Mask]] = {
    "strided": partial(Strided, 8),
    "wide strides": partial(Strided, 20),
    "local and global": partial(LocalGlobal, 16, 16),
    "a wide window": partial(LocalGlobal, 40, 7),
}


@pytest.mark.parametrize("t", [2500, 3001])
@pytest.mark.parametrize("name", SPARSE)
def test_cuts_cover(name: str, t: int) -> None:
    """Each query stands in one cut, beside all keys that it may read."""
    mask, pos = SPARSE[name](), torch.arange(t)
    cuts, visible = mask.cuts(t, pos.device), mask.visible(pos, pos)
    assert torch.equal(torch.cat([q_pos for q_pos, _ in cuts]).sort().values, pos)
    for q_pos, k_pos in cuts:
        assert k_pos.unique().numel() == k_pos.numel()
        assert visible[q_pos].sum() == visible[q_pos][:, k_pos].sum()


@pytest.mark.parametrize(
    ("name", "rule"),
    [("strided", "plain")]
    + [
        pytest.param(name, rule, marks=pytest.mark.slow)
        for name in SPARSE
        for rule in ("sink", "softcap", "ssmax", "stick breaking", "forget", "path")
    ],
)
def test_cuts_exact(name: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts give the values and gradients of the rule; one that needs what lies between is not cut."""
    monkeypatch.setattr(banded, "HANDLING", 0)
    one = layer(SPARSE[name], position=ALiBi, n_kv_heads=2, **RULES.get(rule, {}))
    assert one.mask.cuts(1025, torch.device("cpu")) and one.reads_between == (rule in ("forget", "path"))
    same_as_the_rule(one, inputs(1025, batch=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["strided", "local and global"])
def test_cuts_save(name: str) -> None:
    """The work is at most four times that of the pairs, of which a full map has sixteen times as many."""
    one, x = layer(SPARSE[name]).to("meta"), torch.empty(1, 4096, C, device="meta", dtype=torch.float64)
    pairs = one.pairs(4096)
    assert pairs is not None
    with torch.no_grad():
        heads = one.project(x)
        assert count_flops(lambda: one.mix(heads)) <= 4 * (4 * C * pairs)


@pytest.mark.parametrize("mask", [Causal(), Strided(4), LocalGlobal(3, 7)])
def test_mask_without_band(mask: Mask) -> None:
    """A mask that reads far back promises nothing."""
    assert mask.max_lookback is None
    assert Blocks.of(10_000, mask.max_lookback).n_blocks == 1


@pytest.mark.parametrize("t", [65, 96, 97, 351])
@pytest.mark.parametrize("name", BANDS)
def test_blocks_exact(name: str, t: int) -> None:
    """Blocks give the values and gradients of the rule."""
    make, band = BANDS[name]
    one, x = layer(make), inputs(t)
    assert (Blocks.of(t, band, one.mask.sinks).n_blocks > 1) == (t > max(4 * (band + one.mask.sinks), 64))
    same_as_the_rule(one, x)


@pytest.mark.parametrize("mask", [partial(Window, 7), partial(WindowSinks, 7, 3)])
@pytest.mark.parametrize("rule", RULES)
def test_rules_written_out(rule: str, mask: Callable[[], Mask]) -> None:
    """Rules that need their scores are written out block by block: the same values and gradients, with sinks, too."""
    try:
        one = layer(mask, position=ALiBi, n_kv_heads=2, **RULES[rule])
    except UsageError:
        assert mask().sinks and rule in ("cope", "forget", "selective", "multi-token", "path")
        return
    same_as_the_rule(one, inputs(97))


def test_two_maps_in_blocks() -> None:
    torch.manual_seed(0)
    one = DifferentialAttention(C, n_heads=HEADS, mask=partial(WindowSinks, 7, 3), position=RoPE).double()
    same_as_the_rule(one, inputs(97))


def same_as_the_rule(one: SoftmaxAttention, x: Tensor) -> None:
    """The values and gradients of the layer are those of the whole map, written out."""
    y, right = one(x), explicit(one, x)
    assert gap(y, right) < SAME
    wanted = [x, *one.parameters()]
    share = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    mine, theirs = (torch.autograd.grad((z * share).sum(), wanted) for z in (y, right))
    assert all(gap(a, b) < SAME for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("position", [RoPE, ALiBi, T5Bias, Kerple, FIRE])
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_positions_in_blocks(position: type[Position], n_kv_heads: int) -> None:
    """Positions and shared keys are right in blocks."""
    one, x = layer(partial(Window, 7), position=partial(position), n_kv_heads=n_kv_heads), inputs(97, batch=3)
    y, right = one(x), explicit(one, x)
    assert gap(y, right) < SAME
    wanted = [x, *one.parameters()]
    mine, theirs = (torch.autograd.grad(z.sin().sum(), wanted) for z in (y, right))
    assert all(gap(a, b) < SAME for a, b in zip(mine, theirs, strict=True))


def test_keys_of_a_latent_are_right_in_blocks() -> None:
    torch.manual_seed(0)
    one = LatentAttention(C, n_heads=HEADS, mask=partial(Window, 7), position=RoPE).double()
    x = inputs(97)
    pos, heads = torch.arange(97), one.project(x)
    assert gap(one(x), one.merge(one.attend_explicitly(heads, pos, pos), heads)) < SAME


LAWS = ("causality", "map", "decode", "fused_equals_explicit", "half_precision", "cost")
OTHER_WINDOWS = ("window_sinks", "sink attention/mask=window", "softcap attention/mask=window")


@pytest.mark.parametrize(("law", "window"), sampled(product(LAWS, ["1", "8"]), 3))
def test_a_narrow_window_keeps_the_laws_in_blocks(law: str, window: str) -> None:
    verdict = judge(law, subject_of("sliding_window", [f"attention.mask.window={window}"]))
    assert verdict.outcome == "kept", verdict.detail


@pytest.mark.parametrize(("law", "words"), sampled(product(LAWS, OTHER_WINDOWS), 4))
def test_other_windows_keep_them(law: str, words: str) -> None:
    name, *more = words.split()
    verdict = judge(law, subject_of(name, [*more, "attention.mask.window=8"]))
    skipped = law == "fused_equals_explicit" and name != "window_sinks"
    assert verdict.outcome == ("skipped" if skipped else "kept"), verdict.detail


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_documents_in_blocks(n_kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of documents go through a window's blocks whole, and give what each document gives alone, gradients too."""
    layer = MultiHeadAttention(C, n_heads=4, n_kv_heads=n_kv_heads, mask=partial(Window, 8), position=RoPE).double()
    borders = torch.tensor([[0, 1, 5, 40, 47, 48, 110], [0, 32, 64, 96, 97, 98, 99]])
    numbers = (torch.arange(130)[:, None] >= borders[:, None]).sum(dim=-1) - 1
    x = torch.randn(2, 130, C, dtype=torch.float64, requires_grad=True)
    alone = masked.mix_apart
    results = []
    for mix in (layer.mix_documents, lambda _, heads, documents: alone(layer.mix, heads, documents)):
        monkeypatch.setattr(layer, "mix_documents", mix)
        monkeypatch.setattr(masked, "mix_apart", lambda *_: pytest.fail("taken apart"))
        y = layer(x, Shared(Documents(numbers)))
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, *layer.parameters()))))
    for whole, apart in zip(*results, strict=True):
        assert gap(whole, apart) < SAME


def test_documents_that_blocks_cannot_hold() -> None:
    """Sinks, chunks and biases follow positions in a document, so that each is run alone."""
    documents = Documents(torch.arange(130).expand(2, -1) // 50)
    x = torch.randn(2, 130, C, dtype=torch.float64)
    for options in ({"mask": partial(WindowSinks, 8, 1)}, {"mask": partial(Chunked, 8)}, {"position": ALiBi}):
        layer = MultiHeadAttention(C, n_heads=4, **{"mask": partial(Window, 8), **options}).double()
        y = layer(x, Shared(documents))
        assert gap(y[:, 50:100], layer(x[:, 50:100])) < SAME


@pytest.mark.parametrize(("reach", "size"), [(63, 32), (10, 4), (3, 5)])
def test_way_back_of_overlapping_blocks(reach: int, size: int) -> None:
    """To the last bit what torch's own gives."""
    x = torch.randn(3, reach + 4 * size, 2, requires_grad=True)
    blocks = x.unfold(1, reach, size).permute(1, 0, 3, 2)
    slope = torch.randn(blocks.shape)
    (torchs,) = torch.autograd.grad(blocks, x, slope)
    (own,) = torch.autograd.grad(Overlapping.apply(x, reach, size), x, slope)
    assert torch.equal(own, torchs)


def test_dropout_in_blocks() -> None:
    """Dropout in blocks drops about its share of the weights."""
    one, t = layer(partial(Window, 9), dropout=0.25), 400
    torch.manual_seed(0)
    heads = one.project(inputs(t))
    identity = torch.eye(t, dtype=torch.float64).expand(2, HEADS, t, t)
    a, whole = one.mix(heads._replace(v=identity)), one.eval().mix(heads._replace(v=identity))
    left = (a != 0)[whole != 0].double().mean()
    assert abs(float(left) - 0.75) < 0.02  # 28 000 weights: a standard deviation of 0.003
    kept = a != 0
    assert gap(a[kept] * 0.75, whole[kept]) < SAME


def test_bfloat16_in_blocks_is_near_float32() -> None:
    one, x = layer(partial(Window, 9)).float(), inputs(130).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = one(x)
    assert gap(y.float(), one(x)) < 0.05


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.untyped_storage().nbytes() // one.element_size())
        return out


class Kept:
    """Counts the numbers that a forward pass keeps for its backward pass, each storage once."""

    def __init__(self) -> None:
        self.storages: dict[int, int] = {}

    def note(self, tensor: Tensor) -> Tensor:
        self.storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def of(self, one: SoftmaxAttention, x: Tensor) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor):
            y = one(x)
        assert y.requires_grad
        return sum(self.storages.values())


@pytest.mark.parametrize("rule", ["plain", "sink", "softcap"])
@pytest.mark.parametrize("mask", [partial(Window, 16), partial(WindowSinks, 16, 4)])
def test_memory_linear(rule: str, mask: Callable[[], Mask]) -> None:
    """No tensor of a training step grows faster than the length."""
    sizes, kept = [], []
    for t in (1024, 2048):
        one, x = layer(mask, **RULES.get(rule, {})), inputs(t, batch=1)
        with Largest() as seen:
            F.mse_loss(one(x), torch.zeros_like(x)).backward()
        sizes.append(seen.numbers)
        kept.append(Kept().of(one, x))
    assert sizes[1] <= 2.1 * sizes[0] and sizes[1] < 2048**2 / 2
    assert kept[1] <= 2.1 * kept[0]
    assert kept[1] < 1.5 * Kept().of(layer(partial(Window, 16)), x)
