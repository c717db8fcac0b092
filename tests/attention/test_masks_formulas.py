"""Masks against their published rules, written pair by pair, and what decoding keeps of the keys."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attnlab.attention.mask import Causal, Chunked, Dilated, LocalGlobal, Mask, Strided, WindowSinks
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.errors import UsageError

T = 23
RULES: dict[str, tuple[Callable[[], Mask], Callable[[int, int], bool]]] = {
    "window_sinks": (lambda: WindowSinks(window=5, sinks=2), lambda i, j: i - j < 5 or j < 2),
    "window_sinks_of_one": (lambda: WindowSinks(window=1, sinks=3), lambda i, j: i == j or j in (0, 1, 2)),
    "chunked": (lambda: Chunked(chunk=6), lambda i, j: j >= i - i % 6),
    "strided": (lambda: Strided(stride=4), lambda i, j: i - j < 4 or (i - j) in range(0, T, 4)),
    "dilated": (lambda: Dilated(window=3, dilation=4), lambda i, j: j in (i, i - 4, i - 8)),
    "local_global": (lambda: LocalGlobal(window=3, every=7), lambda i, j: i - j < 3 or not j % 7 or not i % 7),
}
KEPT = {"window_sinks": 7, "window_sinks_of_one": 4, "chunked": 6, "strided": None, "dilated": 9, "local_global": None}


def seen(mask: Mask, length: int = T) -> Tensor:
    pos = torch.arange(length)
    return mask.visible(pos, pos)


def read(rule: Callable[[int, int], bool], length: int = T) -> Tensor:
    return torch.tensor([[j <= i and rule(i, j) for j in range(length)] for i in range(length)])


@pytest.mark.parametrize("name", RULES)
def test_visible_pairs(name: str) -> None:
    """A mask shows the pairs of its rule and no others."""
    make, rule = RULES[name]
    assert torch.equal(seen(make()), read(rule))
    assert not torch.equal(seen(make()), seen(Causal()))


@pytest.mark.parametrize("name", RULES)
def test_visible_in_cuts(name: str) -> None:
    """A mask says the same of any cut of the positions."""
    mask = RULES[name][0]()
    q_pos, k_pos = torch.tensor([9, 20, 3]), torch.tensor([0, 20, 7, 3, 19, 8])
    assert torch.equal(mask.visible(q_pos, k_pos), seen(mask)[q_pos][:, k_pos])


@pytest.mark.parametrize("name", RULES)
def test_cache_size(name: str) -> None:
    """Decoding holds every key that a later query reads."""
    make, rule = RULES[name]
    mask = make()
    assert mask.cache_size == KEPT[name]
    if mask.cache_size is None:
        return
    for count in range(T):
        held = [p for p in mask.slot_positions(count, torch.device("cpu")).tolist() if p >= 0]
        assert len(set(held)) == len(held) == min(count, mask.cache_size)
        assert all(p < count for p in held)
        assert {j for j in range(count) if rule(count, j)} <= set(held), count


@pytest.mark.parametrize("name", [name for name in RULES if KEPT[name] is not None])
def test_a_slot_changes_only_to_a_new_token(name: str) -> None:
    mask = RULES[name][0]()
    for before in range(T):
        for after in range(before, T):
            one, other = (mask.slot_positions(count, torch.device("cpu")) for count in (before, after))
            assert ((one == other) | (other >= before)).all()


@pytest.mark.parametrize("name", [name for name in RULES if KEPT[name] is not None])
def test_contiguous(name: str) -> None:
    """A mask is contiguous where every token between a key and the query is held."""
    make, rule = RULES[name]
    mask = make()
    between = True
    for count in range(T):
        held = set(mask.slot_positions(count, torch.device("cpu")).tolist())
        oldest = min((j for j in range(count) if rule(count, j)), default=count)
        between &= set(range(oldest, count)) <= held
    assert mask.contiguous == between


@pytest.mark.parametrize("name", RULES)
def test_masked_attention(name: str) -> None:
    """Attention under a mask is the sum over the pairs of its rule."""
    make, rule = RULES[name]
    torch.manual_seed(0)
    layer = MultiHeadAttention(12, n_heads=2, mask=make).double()
    x = torch.randn(2, T, 12, dtype=torch.float64)
    heads = layer.project(x)
    expected = torch.zeros_like(heads.v)
    for i in range(T):
        keys = [j for j in range(i + 1) if rule(i, j)]
        weights = torch.stack([(heads.q[:, :, i] * heads.k[:, :, j]).sum(-1) / 6**0.5 for j in keys]).exp()
        for weight, j in zip(weights / weights.sum(dim=0), keys, strict=True):
            expected[:, :, i] += weight[..., None] * heads.v[:, :, j]
    torch.testing.assert_close(layer.mix(heads), expected, rtol=0, atol=1e-10)
    assert layer.pairs(T) == int(read(rule).sum())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WindowSinks(window=0, sinks=2), r"window \(0\) must be an integer of at least 1"),
        (lambda: WindowSinks(window=3, sinks=0), r"sinks \(0\) must be an integer of at least 1"),
        (lambda: Chunked(chunk=0), r"chunk \(0\) must be an integer of at least 1"),
        (lambda: Strided(stride=0), r"stride \(0\) must be an integer of at least 1"),
        (lambda: Dilated(window=0, dilation=2), r"window \(0\) must be an integer of at least 1"),
        (lambda: Dilated(window=2, dilation=0), r"dilation \(0\) must be an integer of at least 1"),
        (lambda: LocalGlobal(window=0, every=2), r"window \(0\) must be an integer of at least 1"),
        (lambda: LocalGlobal(window=2, every=0), r"every \(0\) must be an integer of at least 1"),
    ],
)
def test_sizes_below_one_are_refused(make: Callable[[], Mask], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()
