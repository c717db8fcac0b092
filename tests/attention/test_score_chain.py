"""Several score modifiers of one layer: which go together, and what each is handed."""

import pytest
import torch

from attnlab.attention.query_sink import QuerySink
from attnlab.attention.score import SoftCap
from attnlab.attention.score_chain import check_chain, of_each
from attnlab.errors import UsageError

SIZES = {"d_model": 8, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4}


def test_shares() -> None:
    """Numbers that stand side by side are dealt out in order; who has none is handed none."""
    first, none, second = (SoftCap(**SIZES, cap=1.0) for _ in range(3))
    numbers = torch.arange(6.0).expand(1, 2, 3, 6)
    dealt = of_each(numbers, {first: 2, none: 0, second: 1})
    assert list(dealt) == [first, second]
    assert dealt[first][0, 0, 0].tolist() == [0.0, 1.0] and dealt[second][0, 0, 0].tolist() == [2.0]
    assert of_each(None, {first: 2}) == of_each(numbers, {none: 0}) == {}


def test_asks_of_queries() -> None:
    """A modifier that needs numbers of each query goes with a layer that makes them."""
    mods = [SoftCap(**SIZES, cap=1.0), QuerySink(**SIZES)]
    check_chain(mods, asks=True, layer="MultiHeadAttention")
    with pytest.raises(UsageError, match=r"score \(QuerySink\) needs numbers of each query, which LatentAttention"):
        check_chain(mods, asks=False, layer="LatentAttention")
