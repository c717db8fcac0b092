"""Brings a variant to the budget of its baseline before it is trained, and says what is left between the two.

| match | held equal | what is moved |
|---|---|---|
| params | trained scalars of the layers | hidden width of the MLP |
| flops | training FLOPs of the layers, per token | hidden width of the MLP |
| time | seconds of a forward and backward pass of the layers, measured here | hidden width of the MLP |
| state | bytes that decoding keeps after model.context tokens | head_dim (kv_rank where there is one), then n_heads |
| tokens | training tokens, which are the same anyway | nothing |

Widths are multiples of 8 where that comes within 1 %, else any integer. Every result is counted on the model that
is built from it, never taken from a formula.
"""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.options.model_config import GATED
from attnlab.store.locks import make_once
from attnlab.training.budget import (
    BUILT_FROM,
    COUNTS,
    GRAIN,
    TOLERANCE,
    UNITS,
    build_to_measure,
    count_budget,
    step_seconds,
)
from attnlab.training.head_sizes import at, by_heads, sizes

NARROWEST = 8  # an MLP is not made narrower


class TimingSite(NamedTuple):
    """Where times are measured, and where they are kept so that every seed of a configuration gets the same sizes."""

    accelerator: str
    precision: str
    threads: int
    cache: Path


def match_budget(config: RunConfig, site: TimingSite) -> tuple[RunConfig, dict[str, Any]]:
    """The config with the sizes that meet the budget, and what summary.json says of it; match=null changes nothing.

    Raises UsageError where nothing that may move can come to the budget.
    """
    mode = config.match
    if mode is None:
        return config, {}
    if config.model.mlp == "none" and mode not in ("state", "tokens"):
        raise UsageError(f"match={mode} moves the width of the MLP, and model.mlp is none; choose match=tokens")
    base = RunConfig.of({**config.as_dict(), **config.baseline})
    if base == config or mode == "tokens":
        ours, spent = config, _spent(base, mode, site)
    elif mode == "state":
        ours, spent = by_heads(config, count_budget(base, mode))
    elif mode == "time":
        ours, spent = _by_time(config, base, site)
    else:
        ours, spent = _by_width(config, count_budget(base, mode), mode)
    target, got = spent
    moved = {key: [at(config, key), at(ours, key)] for key in sizes(ours) if at(config, key) != at(ours, key)}
    beside = {name: [count_budget(base, name), count_budget(ours, name)] for name in COUNTS if name != mode}
    result = {"mode": mode, "to": config.match_to, "unit": UNITS[mode], "budget": target, "got": got}
    left = {"left": got - target, "left_percent": 100 * (got / target - 1) if target else 0.0}
    return ours, {**result, **left, "moved": moved, "mlp_width": _mlp_width(build_to_measure(ours)), "beside": beside}


def describe_match(match: Mapping[str, Any]) -> str:
    """What was moved and what is left, for the person at the terminal."""
    moved = ", ".join(f"{key} {_short(old)} -> {_short(new)}" for key, (old, new) in match["moved"].items())
    beside = ", ".join(
        f"{UNITS[name]} {100 * (ours / base - 1):+.2f} %" for name, (base, ours) in match["beside"].items() if base
    )
    far = abs(match["left_percent"]) > 100 * TOLERANCE
    return (
        f"match={match['mode']} to {match['to']}: {moved or 'nothing had to move'} (MLP {match['mlp_width']} wide); "
        f"{match['got']:,.6g} of {match['budget']:,.6g} {match['unit']}, residual {match['left_percent']:+.3f} %"
        f"{' (over the 1 % tolerance)' if far else ''}; not matched: {beside}"
    )


def _short(value: Any) -> str:
    return "null" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _spent(config: RunConfig, mode: str, site: TimingSite) -> tuple[float, float]:
    """What the baseline itself spends, twice: as its own budget."""
    if mode == "tokens":
        trainer = config.trainer
        sequences = config.batch_size * trainer.accumulate * trainer.max_steps
        return (sequences * config.model.context,) * 2
    return (_time_steps([config], site)[0] if mode == "time" else count_budget(config, mode),) * 2


def _mlp_width(model: GPT) -> int:
    mlp = model.layers[0].mlp
    return 0 if mlp is None else mlp.up.out_features


def _with_width(config: RunConfig, width: int) -> RunConfig:
    """The config with an MLP of this hidden width."""
    model = config.model
    if model.mlp_width is None:
        model = replace(model, mlp_ratio=width / model.d_model * (1.5 if model.mlp in GATED else 1.0))
    else:
        model = replace(model, mlp_width=width)
    widened = replace(config, model=model)
    assert _mlp_width(build_to_measure(widened)) == width, "the ratio gives another width than the one sought"
    return widened


def _by_width(config: RunConfig, target: int, mode: str) -> tuple[RunConfig, tuple[int, int]]:
    """The hidden width whose count is nearest to the target. Counts grow linearly with the width."""
    own = _mlp_width(build_to_measure(config))
    here = count_budget(config, mode)
    slope = _slope(config, mode)
    width = _nearest_width(own, own + (target - here) / slope, target / slope)
    if width is None:
        least = here + slope * (NARROWEST - own)
        raise UsageError(
            f"match={mode} cannot be met: the layers have {least:,} {UNITS[mode].partition(' of')[0]} even with an MLP "
            f"{NARROWEST} wide, those of match_to={config.match_to} have {target:,}; choose a smaller attention, or "
            "match=tokens"
        )
    if width == own:
        return config, (target, here)
    widened = _with_width(config, width)
    got = count_budget(widened, mode)
    return widened, (target, got)


def _slope(config: RunConfig, mode: str) -> int:
    """What one more hidden unit of the MLP adds to the count, all layers together: measured on the MLP alone."""
    plain = {"_target_": "attnlab.attention.controls.IdentityAttention", "_partial_": True, "n_heads": 1}
    embed = {"_target_": "attnlab.attention.embedding.NoEmbedding", "_partial_": True}
    bare = replace(config, attention=plain, position=replace(config.position, embed=embed))
    one, two = (count_budget(_with_width(bare, width), mode) for width in (GRAIN, 2 * GRAIN))
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


def _by_time(config: RunConfig, base: RunConfig, site: TimingSite) -> tuple[RunConfig, tuple[float, float]]:
    """The hidden width with which a step takes as long as the baseline's. Measured once, then read from the cache."""
    ours, theirs = config.as_dict(), base.as_dict()
    parts = {group: [ours[group], theirs[group]] for group in BUILT_FROM}
    where = [site.accelerator, site.precision, site.threads, platform.node(), torch.__version__]
    key = hashlib.sha256(json.dumps([parts, config.batch_size, where]).encode()).hexdigest()[:16]
    file = site.cache / "match" / f"time-{key}.json"
    width, target, got = make_once(file, lambda: _measured_width(config, base, site), key="paths.cache")
    return (_with_width(config, width) if width != _mlp_width(build_to_measure(config)) else config), (target, got)


def _measured_width(config: RunConfig, base: RunConfig, site: TimingSite) -> tuple[int, float, float]:
    """(width, seconds of the baseline, seconds of the variant): a line through two widths, corrected once."""
    own = _mlp_width(build_to_measure(config))
    widths = [own, 2 * own]
    for _ in range(2):
        target, one, two = _time_steps([base, *(_with_width(config, width) for width in widths)], site)
        slope = (two - one) / (widths[1] - widths[0])
        ideal = widths[0] + (target - one) / slope if slope > 0 else own
        if ideal < NARROWEST:
            raise UsageError(
                f"match=time cannot be met: a step of the layers takes {one:.4g} s with an MLP {widths[0]} wide, that "
                f"of match_to={config.match_to} takes {target:.4g} s; choose match=flops or match=tokens"
            )
        width = max(NARROWEST, round(ideal / GRAIN) * GRAIN)
        widths = [width, width + max(GRAIN, own)]
    target, got = _time_steps([base, _with_width(config, width)], site)
    return width, target, got


def _time_steps(configs: list[RunConfig], site: TimingSite) -> list[float]:
    models = [build_to_measure(config, site.accelerator).train() for config in configs]
    return step_seconds(models, configs[0].batch_size, bf16=site.precision == "bf16")
