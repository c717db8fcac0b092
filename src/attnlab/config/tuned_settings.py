"""Settings for each variant, as `attnlab tune` chose them: read from tuned.yaml of a tuning experiment.

variants:
  - variant: linear
    settings: {}            # what sets it apart from others of the name, if there are several
    optimizer: AdamW
    chosen: {optimizer.lr: 0.00218, optimizer.weight_decay: 0.1}  # what tuned= takes
    seeds: [100, 101, 102]  # that chose it, and that no final run may use
"""

import hashlib
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from attnlab.config.keys import LISTS, owner_of, stable
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError, nearest, shown
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import parse_yaml, read_file
from attnlab.store.leaves import leaves

OPTIMIZER, RATE = "optimizer._target_", "optimizer.lr"
NEEDED = ("variant", "settings", "optimizer", "chosen", "seeds")
BEFORE = "lr"  # what stood for chosen when rates alone were tuned
MOST_VALUES = 100_000  # of the file: a variant with 64 trials has some 300
VALUES = (bool, int, float, str, NoneType)
NEVER_TUNED = ("paths", *LISTS)  # groups that say where files go, and what else is run


def with_tuned_settings(config: RunConfig, variant: str) -> tuple[RunConfig, dict[str, Any]]:
    """The config with what was tuned for its variant, and what summary.json says of it; tuned=null does nothing.

    Refuses variants that were not tuned, and seeds that took part in the choice: on them it looks better than it is.
    """
    if config.tuned is None:
        return config, {}
    path, entries, digest = read(config.tuned)
    flat = dict(leaves(config.as_dict()))
    named = [entry for entry in entries if entry["variant"] == variant]
    fitting = [e for e in named if all(stable(k, flat.get(k)) == stable(k, v) for k, v in e["settings"].items())]
    if not named:
        names = [entry["variant"] for entry in entries]
        raise UsageError(
            f"tuned ({path}) holds nothing for {variant}{nearest(variant, names)} (it has: {', '.join(names)}); run "
            "attnlab tune with it, too"
        )
    if len(fitting) != 1:
        keys = dict.fromkeys(f"{k}={shown(v)}" for entry in named for k, v in entry["settings"].items())
        raise UsageError(f"tuned ({path}) holds {variant} at other settings than these: {', '.join(keys)}")
    entry = fitting[0]
    if stable(OPTIMIZER, flat[OPTIMIZER]) != stable(OPTIMIZER, entry["optimizer"]):
        raise UsageError(
            f"tuned ({path}) was made with {entry['optimizer']}: what suits it is not tuned for {flat[OPTIMIZER]}"
        )
    for key, seed in flat.items():
        if (key == "seed" or key.startswith("streams.")) and seed in entry["seeds"]:
            chose = ", ".join(map(str, entry["seeds"]))
            raise UsageError(
                f"{key} ({seed}) is one of the seeds that chose the settings ({chose} in {path}): final runs "
                "need others"
            )
    content = config.as_dict()
    for key, value in entry["chosen"].items():
        try:
            node, last = owner_of(content, key)
        except (KeyError, TypeError) as error:
            raise UsageError(f"tuned ({path}) chooses {key}, which this config does not have") from error
        node[last] = value
    return RunConfig.of(content), {"experiment": config.tuned, "sha256": digest, **entry}


def read(tuned: str) -> tuple[Path, list[dict[str, Any]], str]:
    """Where the file is, the entries of its variants, and the SHA-256 of its bytes."""
    path = ExperimentFolder(Path(tuned)).tuned if Path(tuned).suffix != ".yaml" else Path(tuned)
    try:
        data = read_file(path)
    except OSError as error:
        raise UsageError(
            f"tuned ({tuned}) must be the folder of an experiment with a {path.name}: {error.strerror}; attnlab tune "
            f"experiment={tuned} writes it"
        ) from error
    return path, _entries(path, data), hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=4)
def _entries(path: Path, data: bytes) -> list[dict[str, Any]]:
    """The entries of a file with these bytes; every job of a sweep asks for them several times."""
    try:
        content = parse_yaml(data.decode(), MOST_VALUES)
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"tuned ({path}) is not YAML: {' '.join(str(error).split())[:120]}") from error
    entries = content.get("variants") if isinstance(content, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and BEFORE in entry:
            entry["chosen"] = {RATE: entry.pop(BEFORE)}
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise UsageError(f"tuned ({path}) must hold a list variants, each with {', '.join(NEEDED)}")
    for key, value in (pair for entry in entries for pair in entry["chosen"].items()):
        if not is_tunable(key) or not isinstance(value, VALUES):
            raise UsageError(
                f"tuned ({path}) chooses {key}: it may choose numbers and words, of settings such as {RATE}"
            )
    return entries


def chosen_keys(tuned: str) -> set[str]:
    """The settings that were tuned."""
    return {key for entry in read(tuned)[1] for key in entry["chosen"]}


def is_tunable(key: str) -> bool:
    """Whether a key may be tuned, and a file may choose its value: one that names no class, package, folder or file."""
    group, dot, rest = key.partition(".")
    return bool(dot) and "/" not in key and group not in NEVER_TUNED and not rest.split(".")[-1].startswith("_")


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or any(key not in entry for key in NEEDED):
        return False
    chosen, rate = entry["chosen"], entry["chosen"].get(RATE, 1) if isinstance(entry["chosen"], dict) else 0
    return (
        isinstance(rate, int | float)
        and rate > 0
        and bool(chosen)
        and all(isinstance(key, str) for key in chosen)
        and all(isinstance(entry[key], str) for key in ("variant", "optimizer"))
        and isinstance(entry["seeds"], list)
        and isinstance(entry["settings"], dict)
    )
