"""What softmax attention keeps while decoding: every row, or a ring of those that can still be read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnlab.attention.cache import Cache, KeysValues
from attnlab.attention.mask import Causal, Mask, Window
from attnlab.errors import UsageError

steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow

HEADS, D, V = 2, 3, 5


def rows(start: int, n: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Keys and values whose every number is the position they stand at; position 0 is 1, for 0 means empty."""
    place = torch.arange(start, start + n, dtype=torch.float32)[:, None] + 1
    return place.expand(batch, HEADS, n, D).clone(), -place.expand(batch, HEADS, n, V).clone()


def empty(mask: Mask, max_len: int, batch: int = 1, like: Tensor | None = None) -> Cache:
    like = torch.empty(0) if like is None else like
    return Cache.empty(mask, batch=batch, max_len=max_len, heads=HEADS, d=D, v=V, like=like)


def check_readable(at_hand: KeysValues, mask: Mask, first: int, n: int) -> None:
    """Each new query finds every key it may read exactly once, and beside each key its own position."""
    readable = mask.visible(torch.arange(first, first + n), at_hand.pos) & (at_hand.pos >= 0)
    for i, place in enumerate(range(first, first + n)):
        wanted = range(0 if mask.cache_size is None else max(0, place - mask.cache_size + 1), place + 1)
        assert sorted(at_hand.pos[readable[i]].tolist()) == list(wanted)
    real = at_hand.pos >= 0
    for kept, sign in ((at_hand.k, 1), (at_hand.v, -1)):
        assert torch.equal(kept[0, 0, real, 0], sign * (at_hand.pos[real] + 1).float())
        assert (kept == kept[:1, :1, :, :1]).all()  # each row is stored whole, in every head and batch entry


# All rows


def test_rows_are_allocated_once() -> None:
    """Rows are allocated once for the longest text."""
    cache = empty(Causal(), 7, batch=4)
    assert cache.k.shape == (4, HEADS, 7, D) and cache.v.shape == (4, HEADS, 7, V) and cache.length == 0
    storage = cache.k.data_ptr(), cache.v.data_ptr()
    for start, n in ((0, 3), (3, 1), (4, 3)):
        _, cache = cache.append(*rows(start, n, batch=4), Causal())
        assert (cache.k.data_ptr(), cache.v.data_ptr()) == storage and cache.length == start + n
    assert torch.equal(cache.k, rows(0, 7, batch=4)[0]) and torch.equal(cache.v, rows(0, 7, batch=4)[1])


def test_what_is_at_hand_is_everything_so_far() -> None:
    cache = empty(Causal(), 9)
    for start, n in ((0, 2), (2, 4), (6, 1)):
        at_hand, cache = cache.append(*rows(start, n), Causal())
        assert at_hand.pos.tolist() == list(range(start + n))
        assert torch.equal(at_hand.k, rows(0, start + n)[0]) and torch.equal(at_hand.v, rows(0, start + n)[1])


def test_a_state_is_written_in_place() -> None:
    before = empty(Causal(), 3)
    before.append(*rows(0, 2), Causal())
    assert before.length == 0 and before.k[0, 0, :, 0].tolist() == [1, 2, 0]
    ring = empty(Window(2), 3)
    ring.append(*rows(0, 3), Window(2))
    assert ring.length == 0 and ring.k[0, 0, :, 0].tolist() == [3, 2]


@pytest.mark.parametrize(("held", "more", "total"), [(0, 5, 5), (3, 2, 5), (4, 1, 5), (4, 9, 13)])
def test_full_cache_refused(held: int, more: int, total: int) -> None:
    """More tokens than rows are refused and nothing is written."""
    cache = empty(Causal(), 4)
    if held:
        _, cache = cache.append(*rows(0, held), Causal())
    before = cache.k.clone(), cache.v.clone()
    with pytest.raises(UsageError) as error:
        cache.append(*rows(held, more), Causal())
    assert str(error.value) == f"the decode state has room for max_len=4 tokens, not {total}"
    assert torch.equal(cache.k, before[0]) and torch.equal(cache.v, before[1])


# A ring


def test_rows_of_a_ring() -> None:
    """A ring has as many rows as its mask keeps."""
    assert empty(Window(5), 100).k.shape == (1, HEADS, 5, D)
    assert empty(Window(5), 100).v.shape == (1, HEADS, 5, V)


@pytest.mark.parametrize(
    ("seen", "held"),
    [(0, [-1, -1, -1]), (1, [0, -1, -1]), (3, [0, 1, 2]), (4, [3, 1, 2]), (5, [3, 4, 2]), (300, [297, 298, 299])],
)
def test_slot_of_a_position(seen: int, held: list[int]) -> None:
    """A position lies in the slot of its remainder."""
    assert Window(3).slot_positions(seen, torch.device("cpu")).tolist() == held


def test_ring_keeps_last_rows() -> None:
    """A ring keeps the last rows and never fills up."""
    mask = Window(3)
    cache = empty(mask, 2)
    storage = cache.k.data_ptr(), cache.v.data_ptr()
    for start in range(20):
        _, cache = cache.append(*rows(start, 1), mask)
        held = mask.slot_positions(start + 1, torch.device("cpu"))
        assert torch.equal(cache.k[0, 1, :, 2], (held + 1).float()) and torch.equal(
            cache.v[0, 1, :, 4], -(held + 1).float()
        )
    assert (cache.k.data_ptr(), cache.v.data_ptr()) == storage and cache.length == 20


def test_read_rows_are_copies() -> None:
    """What a step read is not changed by the rows it wrote."""
    mask = Window(2)
    _, cache = empty(mask, 9).append(*rows(0, 2), mask)
    at_hand, _ = cache.append(*rows(2, 2), mask)
    assert at_hand.pos.tolist() == [0, 1, 2, 3]
    assert at_hand.k[0, 0, :, 0].tolist() == [1, 2, 3, 4]


@steady
@given(window=st.integers(1, 9), cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_any_cut(window: int, cuts: list[int]) -> None:
    """However a text is cut every query finds its keys."""
    for mask in (Window(window), Causal()):
        cache, start = empty(mask, sum(cuts), batch=2), 0
        for n in cuts:
            at_hand, cache = cache.append(*rows(start, n, batch=2), mask)
            check_readable(at_hand, mask, start, n)
            start += n
        assert cache.length == start


def test_rows_are_kept_in_the_type_of_the_cache() -> None:
    for mask in (Causal(), Window(2)):
        cache = empty(mask, 4, like=torch.empty(0, dtype=torch.bfloat16))
        at_hand, cache = cache.append(*rows(0, 3), mask)
        assert {at_hand.k.dtype, at_hand.v.dtype, cache.k.dtype, cache.v.dtype} == {torch.bfloat16}
