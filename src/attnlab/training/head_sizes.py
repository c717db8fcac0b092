"""match=state: the size and number of heads whose decode state is nearest to a budget."""

from collections.abc import Iterator, Mapping
from typing import Any

from attnlab.config.keys import nodes
from attnlab.config.run_config import RunConfig, class_name
from attnlab.errors import UsageError
from attnlab.training.budget import GRAIN, TOLERANCE, count_budget


def sizes(config: RunConfig) -> list[str]:
    """The keys that matching may move, where they stand in a config."""
    names = ("head_dim", "kv_rank", "n_heads")
    inside = [path for path, _, _ in nodes({"attention": config.attention}) if path.rpartition(".")[2] in names]
    width = "model.mlp_ratio" if config.model.mlp_width is None else "model.mlp_width"
    return [width, "model.n_heads", *inside]


def at(config: RunConfig, key: str) -> Any:
    """What stands at a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part] if isinstance(value, Mapping) else getattr(value, part)
    return value


def put(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with these values at their dotted keys."""
    changed = config.as_dict()
    for key, value in values.items():
        *path, last = key.split(".")
        node = changed
        for part in path:
            node = node[part]
        node[last] = value
    return RunConfig.of(changed)


def by_heads(config: RunConfig, target: int) -> tuple[RunConfig, tuple[int, int]]:
    """The size of heads whose decode state is nearest to the target: first with the number of heads as it is."""
    name = f"match=state cannot be met: attention={class_name(config.attention)}"
    there = sizes(config)
    ranks = [key for key in there if key.endswith(".kv_rank")]
    levers = ranks or [key for key in there if key.endswith(".head_dim")]
    if not levers:
        raise UsageError(f"{name} has neither head_dim nor kv_rank, and nothing else may move; choose match=params")
    best: tuple[int, RunConfig] = (count_budget(config, "state"), config)
    tried = {best[0]}
    for heads in _head_counts(config.model.n_heads):
        for size, resized in _search(_with_heads(config, heads), levers, target):
            tried.add(size)
            if abs(size - target) < abs(best[0] - target):
                best = (size, resized)
        if abs(best[0] - target) <= TOLERANCE * target:
            break
    if not max(tried):
        raise UsageError(f"{name} keeps nothing while decoding; choose match=params or match=tokens")
    if not min(tried) <= target <= max(tried) and abs(best[0] - target) > TOLERANCE * target:
        raise UsageError(
            f"{name} keeps {min(tried):,} to {max(tried):,} bytes, whatever its heads; match_to={config.match_to} "
            f"keeps {target:,}"
        )
    return best[1], (target, best[0])


def _head_counts(own: int) -> list[int]:
    return list(dict.fromkeys([own, 2 * own, max(1, own // 2), 4 * own, 1]))


def _with_heads(config: RunConfig, heads: int) -> RunConfig:
    own = config.model.n_heads
    keys = [key for key in sizes(config) if key.endswith(".n_heads") and at(config, key) == own]
    return put(config, dict.fromkeys(keys, heads)) if heads != own else config


def _search(config: RunConfig, levers: list[str], target: int) -> Iterator[tuple[int, RunConfig]]:
    """States around the target, with the configs that give them. The state grows with the size of a head."""

    def tried(size: int) -> tuple[int, RunConfig] | None:
        resized = put(config, dict.fromkeys(levers, size))
        try:
            return count_budget(resized, "state"), resized
        except (UsageError, ValueError):  # a size that a constructor refuses: odd, or not a multiple of something
            return None

    low, high = 0, GRAIN
    most = 16 * config.model.d_model
    while (there := tried(high)) is not None and high < most:
        yield there
        if there[0] >= target:
            break
        low, high = high, 2 * high
    while high - low > GRAIN:
        middle = (low + high) // 2 // GRAIN * GRAIN
        if (there := tried(middle)) is None:
            return
        yield there
        low, high = (middle, high) if there[0] < target else (low, middle)
    for step in (2, 1):
        for size in range(low + step, high, step):
            if (there := tried(size)) is not None:
                yield there
