"""Brings a variant to the budget of its baseline before it is trained, and says what is left between the two.

| match | held equal | what is moved |
|---|---|---|
| params | trained scalars of the layers | hidden width of the MLP |
| flops | training FLOPs of the layers, per token | hidden width of the MLP |
| time | seconds of a forward and backward pass of the layers, measured here | hidden width of the MLP |
| state | bytes that decoding keeps after model.context tokens | head_dim (kv_rank where there is one), then n_heads |
| tokens | training tokens, which are the same anyway | nothing |

Widths are multiples of 8 where that comes within 1 %, else any whole number. Every result is counted on the model that
is built from it, never taken from a formula.
"""

import copy
import fcntl
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attnlab.build import build_model
from attnlab.errors import UsageError
from attnlab.files import write_atomically
from attnlab.keys import nodes
from attnlab.model import GPT
from attnlab.training import budget

TOLERANCE = 0.01  # of the budget; what is left beyond it is said aloud
GRAIN = 8  # widths are multiples of this where they can be
NARROWEST = 8  # an MLP is not made narrower
COUNTS = {"params": budget.parameters, "flops": budget.training_flops, "state": budget.state_bytes}
UNITS = {
    "params": "parameters of the layers",
    "flops": "training FLOPs of the layers per token",
    "state": "bytes of decode state",
    "tokens": "training tokens",
    "time": "seconds a step of the layers",
}
BUILT_FROM = ("model", "attention", "position", "allow_targets")  # the groups that decide what a model spends


class Place(NamedTuple):
    """Where times are measured, and where they are kept so that every seed of a configuration gets the same sizes."""

    accelerator: str
    precision: str
    threads: int
    cache: Path


def matched(config: dict[str, Any], place: Place) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config with the sizes that meet the budget, and what summary.json says of it; match=null changes nothing.

    Raises UsageError where nothing that may move can come to the budget.
    """
    mode = config["match"]
    if mode is None:
        return config, {}
    base = {**config, **config["baseline"]}
    if all(base[group] == config[group] for group in ("model", "attention")) or mode == "tokens":
        ours, spent = config, _spent(base, mode, place)
    elif mode == "state":
        ours, spent = _by_heads(config, _counted(base, mode))
    elif mode == "time":
        ours, spent = _by_time(config, base, place)
    else:
        ours, spent = _by_width(config, _counted(base, mode), mode)
    target, got = spent
    moved = {key: [_at(config, key), _at(ours, key)] for key in _sizes(ours) if _at(config, key) != _at(ours, key)}
    beside = {name: [_counted(base, name), _counted(ours, name)] for name in COUNTS if name != mode}
    found = {"mode": mode, "to": config["match_to"], "unit": UNITS[mode], "budget": target, "got": got}
    left = {"left": got - target, "left_percent": 100 * (got / target - 1) if target else 0.0}
    return ours, {**found, **left, "moved": moved, "mlp_width": _mlp_width(_built(ours)), "beside": beside}


def in_a_line(found: Mapping[str, Any]) -> str:
    """What was moved and what is left, for the person at the terminal."""
    moved = ", ".join(f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in found["moved"].items())
    beside = ", ".join(
        f"{UNITS[name]} {100 * (ours / base - 1):+.2f} %" for name, (base, ours) in found["beside"].items() if base
    )
    far = abs(found["left_percent"]) > 100 * TOLERANCE
    return (
        f"match={found['mode']} to {found['to']}: {moved or 'nothing had to move'} (MLP {found['mlp_width']} wide); "
        f"{found['got']:,.6g} of {found['budget']:,.6g} {found['unit']}, left {found['left_percent']:+.3f} %"
        f"{', MORE THAN 1 %' if far else ''}; not matched: {beside}"
    )


def _short(value: Any) -> str:
    return "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _spent(config: Mapping[str, Any], mode: str, place: Place) -> tuple[float, float]:
    """What the baseline itself spends, twice: as its own budget."""
    if mode == "tokens":
        trainer = config["trainer"]
        sequences = config["batch_size"] * trainer["accumulate"] * trainer["max_steps"]
        return (sequences * config["model"]["context"],) * 2
    return (_timed([config], place)[0] if mode == "time" else _counted(config, mode),) * 2


def _built(config: Mapping[str, Any], device: str = "meta") -> GPT:
    with torch.device(device):
        return build_model({**config, "streams": {"init": 0}}, vocab_size=2)


def _counted(config: Mapping[str, Any], mode: str) -> int:
    """What the model of a config spends. Training FLOPs are per token."""
    parts = {group: config[group] for group in BUILT_FROM}
    return _count(mode, json.dumps(parts))


@lru_cache(maxsize=1024)  # the jobs of a sweep ask the same again and again
def _count(mode: str, parts: str) -> int:
    model = _built(json.loads(parts))
    return COUNTS[mode](model) // (model.context if mode == "flops" else 1)


def _mlp_width(model: GPT) -> int:
    return model.layers[0].mlp.up.out_features


def _with_width(config: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The config with an MLP of this hidden width."""
    model = config["model"]
    ratio = width / model["d_model"] * (1.5 if model["mlp"] == "swiglu" else 1.0)
    found = {**config, "model": {**model, "mlp_ratio": ratio}}
    assert _mlp_width(_built(found)) == width, "the ratio gives another width than the one sought"
    return found


def _by_width(config: dict[str, Any], target: int, mode: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """The hidden width whose count is nearest to the target. Counts grow linearly with the width."""
    own = _mlp_width(_built(config))
    here = _counted(config, mode)
    slope = _slope(config, mode)
    width = _nearest_width(own, own + (target - here) / slope, target / slope)
    if width is None:
        least = here + slope * (NARROWEST - own)
        raise UsageError(
            f"match={mode} cannot be met: the layers have {least:,} {UNITS[mode].partition(' of')[0]} even with an MLP "
            f"{NARROWEST} wide, those of match_to={config['match_to']} have {target:,}; choose a smaller attention, or "
            "match=tokens"
        )
    if width == own:
        return config, (target, here)
    found = _with_width(config, width)
    got = _counted(found, mode)
    return found, (target, got)


def _slope(config: Mapping[str, Any], mode: str) -> int:
    """What one more hidden unit of the MLP adds to the count, all layers together: measured on the MLP alone."""
    plain = {"_target_": "attnlab.attention.controls.IdentityAttention", "_partial_": True, "n_heads": 1}
    embed = {"_target_": "attnlab.position.Embedding", "_partial_": True}
    bare = {**config, "attention": plain, "position": {"embed": embed, "inside": config["position"]["inside"]}}
    one, two = (_counted(_with_width(bare, width), mode) for width in (GRAIN, 2 * GRAIN))
    return (two - one) // GRAIN


def _nearest_width(own: int, ideal: float, whole: float) -> int | None:
    """The width nearest to the ideal one; None if even the narrowest is too much. `whole` is the budget in widths."""

    def nearest(widths: set[int]) -> int:
        return min((w for w in widths if w >= NARROWEST), key=lambda w: (abs(w - ideal), abs(w - own)))

    if ideal < NARROWEST and NARROWEST - ideal > TOLERANCE * whole:
        return None
    below = int(ideal // GRAIN) * GRAIN
    coarse = nearest({own, below, below + GRAIN, NARROWEST})
    if abs(coarse - ideal) <= TOLERANCE * whole:
        return coarse
    return nearest({coarse, int(ideal), int(ideal) + 1})


def _sizes(config: Mapping[str, Any]) -> list[str]:
    """The keys that matching may move, where they stand in a config."""
    names = ("head_dim", "kv_rank", "n_heads")
    inside = [path for path, _, _ in nodes({"attention": config["attention"]}) if path.rpartition(".")[2] in names]
    return ["model.mlp_ratio", "model.n_heads", *inside]


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def _put(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(config))
    for key, value in values.items():
        *path, last = key.split(".")
        node = found
        for part in path:
            node = node[part]
        node[last] = value
    return found


def _by_heads(config: dict[str, Any], target: int) -> tuple[dict[str, Any], tuple[int, int]]:
    """The size of heads whose decode state is nearest to the target: first with the number of heads as it is."""
    name = f"match=state cannot be met: attention={config['attention']['_target_'].rpartition('.')[2]}"
    sizes = _sizes(config)
    ranks = [key for key in sizes if key.endswith(".kv_rank")]
    levers = ranks or [key for key in sizes if key.endswith(".head_dim")]
    if not levers:
        raise UsageError(f"{name} has neither head_dim nor kv_rank, and nothing else may move; choose match=params")
    best: tuple[int, dict[str, Any]] = (_counted(config, "state"), config)
    seen = {best[0]}
    for heads in _head_counts(config["model"]["n_heads"]):
        for size, found in _search(_with_heads(config, heads), levers, target):
            seen.add(size)
            if abs(size - target) < abs(best[0] - target):
                best = (size, found)
        if abs(best[0] - target) <= TOLERANCE * target:
            break
    if not max(seen):
        raise UsageError(f"{name} keeps nothing while decoding; choose match=params or match=tokens")
    if not min(seen) <= target <= max(seen) and abs(best[0] - target) > TOLERANCE * target:
        raise UsageError(
            f"{name} keeps {min(seen):,} to {max(seen):,} bytes, whatever its heads; match_to={config['match_to']} "
            f"keeps {target:,}"
        )
    return best[1], (target, best[0])


def _head_counts(own: int) -> list[int]:
    return list(dict.fromkeys([own, 2 * own, max(1, own // 2), 4 * own, 1]))


def _with_heads(config: Mapping[str, Any], heads: int) -> dict[str, Any]:
    own = config["model"]["n_heads"]
    keys = [key for key in _sizes(config) if key.endswith(".n_heads") and _at(config, key) == own]
    return _put(config, dict.fromkeys(keys, heads)) if heads != own else dict(config)


def _search(config: dict[str, Any], levers: list[str], target: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """States around the target, with the configs that give them. The state grows with the size of a head."""

    def tried(size: int) -> tuple[int, dict[str, Any]] | None:
        found = _put(config, dict.fromkeys(levers, size))
        try:
            return _counted(found, "state"), found
        except (UsageError, ValueError):  # a size that a constructor refuses: odd, or not a multiple of something
            return None

    low, high = 0, GRAIN
    most = 16 * config["model"]["d_model"]
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


def _by_time(
    config: dict[str, Any], base: Mapping[str, Any], place: Place
) -> tuple[dict[str, Any], tuple[float, float]]:
    """The hidden width with which a step takes as long as the baseline's. Measured once, then read from the cache."""
    parts = {group: [config[group], base[group]] for group in BUILT_FROM}
    where = [place.accelerator, place.precision, place.threads, platform.node(), torch.__version__]
    key = hashlib.sha256(json.dumps([parts, config["batch_size"], where]).encode()).hexdigest()[:16]
    file = place.cache / "match" / f"time-{key}.json"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # of several jobs of a sweep, one measures
            if not file.is_file():
                write_atomically(file, json.dumps(_measured_width(config, base, place)).encode(), key="paths.cache")
            width, target, got = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"cannot write {file.parent} ({error.strerror}); paths.cache says where it goes") from error
    return (_with_width(config, width) if width != _mlp_width(_built(config)) else config), (target, got)


def _measured_width(config: dict[str, Any], base: Mapping[str, Any], place: Place) -> tuple[int, float, float]:
    """(width, seconds of the baseline, seconds of the variant): a line through two widths, corrected once."""
    own = _mlp_width(_built(config))
    widths = [own, 2 * own]
    for _ in range(2):
        target, one, two = _timed([base, *(_with_width(config, width) for width in widths)], place)
        slope = (two - one) / (widths[1] - widths[0])
        ideal = widths[0] + (target - one) / slope if slope > 0 else own
        if ideal < NARROWEST:
            raise UsageError(
                f"match=time cannot be met: a step of the layers takes {one:.4g} s with an MLP {widths[0]} wide, that "
                f"of match_to={config['match_to']} takes {target:.4g} s; choose match=flops or match=tokens"
            )
        width = max(NARROWEST, round(ideal / GRAIN) * GRAIN)
        widths = [width, width + max(GRAIN, own)]
    target, got = _timed([base, _with_width(config, width)], place)
    return width, target, got


def _timed(configs: list[Any], place: Place) -> list[float]:
    models = [_built(config, place.accelerator).train() for config in configs]
    return budget.step_seconds(models, configs[0]["batch_size"], bf16=place.precision == "bf16")
