"""An epoch is every window once, in an order of its own."""

import numpy as np
import pytest
import torch

from attnlab.data.batches import TokenSplits
from attnlab.data.epoch_order import _keys, n_epoch_windows, permuted, window_starts
from attnlab.data.text import Order


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 63, 64, 65, 1000, 4097])
def test_bijection(n: int) -> None:
    """All n come out, whatever n, in an order that the key decides."""
    orders = [permuted(np.arange(n), n, _keys(name, 6)) for name in "ab"]
    for order in orders:
        assert sorted(order.tolist()) == list(range(n))
    if n > 60:
        assert not np.array_equal(*orders) and not np.array_equal(orders[0], np.arange(n))
        # Of a random permutation one place in n stays where it is, and neighbours do not stay neighbours.
        assert (orders[0] == np.arange(n)).sum() < 9 and (np.diff(orders[0]) == 1).sum() < 9


def splits(order: Order, n: int = 107) -> TokenSplits:
    ids = np.arange(n, dtype=np.uint16)
    return TokenSplits(ids, ids[:9], n, corpus_sha256="ab", scored_bytes=None, order=order)


def inputs(text: TokenSplits, steps: range, batch_size: int = 4, **rank: int) -> torch.Tensor:
    context = 10
    return torch.cat(
        [text.train_batch(seed=1, step=i, batch_size=batch_size, context=context, **rank)[0] for i in steps]
    )


@pytest.mark.parametrize("order", ["epoch", "random"])
def test_epoch_is_every_window_once(order: Order) -> None:
    """Of 107 tokens 10 windows of 10: each token once, but for those at the edges; random places do not do that."""
    firsts = [inputs(splits(order), range(10))[rows].flatten() for rows in (slice(10), slice(10, 20))]
    once = [len(set(tokens.tolist())) == 100 for tokens in firsts]
    assert once == ([True, True] if order == "epoch" else [False, False])
    assert not torch.equal(*firsts)  # each epoch another order


def test_batches_of_ranks() -> None:
    """A batch is a function of (seed, step), cut by rows among ranks; the next token is the target."""
    text = splits("epoch")
    whole = inputs(text, range(3))
    parts = [inputs(text, range(3), rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    assert torch.equal(inputs(text, range(6), batch_size=2), whole)
    first, targets, *_ = text.train_batch(seed=1, step=7, batch_size=4, context=10)
    assert torch.equal(first + 1, targets)


def test_order_of_today() -> None:
    """A run that is continued after an update must see what it would have seen."""
    assert window_starts(107, 10, "ab/1", np.arange(10)).tolist() == [64, 54, 84, 74, 44, 4, 24, 14, 94, 34]


def test_epochs_are_counted() -> None:
    """Rows over windows; with random places there are none."""
    assert splits("epoch").epochs(25, 10) == 2.5 and splits("random").epochs(25, 10) is None
    assert n_epoch_windows(11, 10) == 1 and "an epoch is 10 rows" in splits("epoch").describe(10)
