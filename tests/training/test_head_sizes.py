"""Which head is nearest to a budget of decode state, where the state is a formula."""

from typing import Any

import pytest

from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.training import head_sizes
from attnlab.training.head_sizes import at, by_heads, put, sizes

MODEL = {"n_layers": 1, "d_model": 32, "n_heads": 4, "context": 16}


def config_with(**attention: Any) -> RunConfig:
    return RunConfig.of({"model": MODEL, "match_to": "multi_head", "attention": {"_target_": "x.Y", **attention}})


def test_put() -> None:
    """A value is put where it is read, nowhere else, and not into the config that was given."""
    config = config_with(n_heads=4, head_dim=None, inner={"kv_rank": 8, "n_kv_heads": 2})
    keys = ["model.mlp_ratio", "model.n_heads", "attention.n_heads", "attention.head_dim", "attention.inner.kv_rank"]
    assert sorted(sizes(config)) == sorted(keys)
    changed = put(config, {"attention.inner.kv_rank": 16, "model.n_heads": 2})
    assert [at(changed, key) for key in keys] == [at(config, keys[0]), 2, 4, None, 16]
    assert at(config, "attention.inner.kv_rank") == 8


def even(config: RunConfig, mode: str) -> int:
    """A state of as many numbers as all heads are wide, squared; odd widths are refused."""
    size = config.attention["head_dim"] or 8
    if size % 2:
        raise UsageError("head_dim must be even")
    return int(config.attention["n_heads"] * size**2)


@pytest.mark.parametrize("target", [400, 1000, 5000, 20_000, 100_000])
def test_nearest(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other size of head comes nearer with that many heads, and within the tolerance the heads stay as many."""
    monkeypatch.setattr(head_sizes, "count_budget", even)
    config = config_with(n_heads=4, head_dim=None)
    chosen, (asked, state) = by_heads(config, target)
    heads, size = chosen.attention["n_heads"], chosen.attention["head_dim"]
    assert asked == target and state == even(chosen, "state")
    best = min(abs(heads * each**2 - target) for each in range(2, 513, 2))
    assert abs(state - target) == best, (heads, size)
    four = min(abs(4 * each**2 - target) for each in range(2, 513, 2))
    assert heads == 4 if four <= head_sizes.TOLERANCE * target else best <= four


def test_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that may move, nothing that is kept, or a budget beyond all that can be."""
    monkeypatch.setattr(head_sizes, "count_budget", even)
    with pytest.raises(UsageError, match="match=state cannot be met: attention=Y has neither head_dim nor kv_rank"):
        by_heads(config_with(n_heads=4), 100)
    with pytest.raises(UsageError, match=r"Y keeps .* whatever its heads; match_to=multi_head keeps 1,000,000,000"):
        by_heads(config_with(n_heads=4, head_dim=None), 10**9)
    monkeypatch.setattr(head_sizes, "count_budget", lambda config, mode: 0)
    with pytest.raises(UsageError, match="keeps nothing while decoding"):
        by_heads(config_with(n_heads=4, head_dim=None), 100)
