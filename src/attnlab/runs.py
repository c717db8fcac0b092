"""Finished runs, from their folders alone."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from attnlab.build import build_model, made
from attnlab.code import changes_since, code_of, in_a_line
from attnlab.config import allowed_packages, check_targets, check_values
from attnlab.data.material import Batch, Material
from attnlab.data.opening import reopen_material
from attnlab.data.tokenizers import Tokenizer, load_tokenizer
from attnlab.errors import UsageError
from attnlab.files import CODE, CONFIG, read_summary
from attnlab.model import GPT
from attnlab.training.checkpoint import CheckpointFolder, network_weights


def find_run(path: Path | str) -> Path:
    """The folder of a run: the one given, or the only one below it."""
    folder = Path(path)
    if (folder / CONFIG).is_file():
        return folder
    found = sorted(config.parent for config in folder.glob(f"**/{CONFIG}")) if folder.is_dir() else []
    if not found:
        raise UsageError(
            f"run ({path}) must be the folder of a run, such as runs/default/NAME/seed_0: no {CONFIG} there"
        )
    if len(found) > 1:
        names = ", ".join(str(f) for f in found[:6]) + (", ..." if len(found) > 6 else "")
        raise UsageError(f"run ({path}) holds {len(found)} runs; name one of them: {names}")
    return found[0]


def read_config(run: Path, allow_targets: Sequence[str] = ()) -> dict[str, Any]:
    """The config of a run. What its file says may be imported is not believed: packages are allowed by the caller."""
    path = run / CONFIG
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    groups = ("model", "attention", "position", "streams")
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in groups):
        raise UsageError(f"{path} is not the config of a run: it must hold {', '.join(groups)}")
    config = {**config, "allow_targets": list(allow_targets)}
    check_targets(config)
    try:
        check_values(config)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    return config


def load(run: Path | str, *, allow_targets: Sequence[str] = (), code: str = "same") -> tuple[GPT, Tokenizer]:
    """The model of a run with its newest whole checkpoint, in evaluation mode on the CPU, and its tokenizer.

    `allow_targets` names packages of yours whose classes the run's config uses. Raises UsageError where the folder is
    not that of a run, or where other code has trained it and `code` is not "any", and NoUsableCheckpoint where none of
    its checkpoints is whole.
    """
    folder = find_run(run)
    config, tokenizer = read_config(folder, allow_targets), load_tokenizer(folder)
    path = _newest(folder)
    model = build_model(config, tokenizer.n_vocab)
    names = changes_since_run(folder, config)
    if names and code != "any":
        raise UsageError(f"run ({folder}) was trained by other code ({in_a_line(names)}): code=any reads it anyway")
    weights = network_weights(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(
            f"{folder / CONFIG} does not belong to {path}: {' '.join(str(error).split())[:200]}"
        ) from error
    if names:
        print(f"note: {folder} was trained by other code ({in_a_line(names)})", file=sys.stderr)
    elif names is None:
        print(f"note: which code trained {folder} is unknown: it has no {CODE}", file=sys.stderr)
    return model.eval(), tokenizer


def changes_since_run(folder: Path, config: Mapping[str, Any]) -> list[str] | None:
    """The modules that have changed since a run was trained; None where that is unknown. `config` is the run's."""
    return changes_since(folder, code_of(config, allowed_packages(config)))


def newest_step(folder: Path) -> int:
    """After how many updates the checkpoint was taken that `load` reads."""
    path = _newest(folder)
    step: int = CheckpointFolder(path.parent).listed()[path.name]["step"]
    return step


def _newest(folder: Path) -> Path:
    path, _ = CheckpointFolder(folder / "checkpoints").newest()
    if path is None:
        raise UsageError(f"run ({folder}) has no checkpoint yet")
    return path


def validation_batches(
    run: Path | str, tokenizer: Tokenizer, *, tokens: int, allow_targets: Sequence[str] = ()
) -> list[Batch]:
    """The first rows of a run's validation part, about `tokens` tokens in all, as it was validated on."""
    folder = find_run(run)
    material = material_of(folder, tokenizer, allow_targets=allow_targets)
    context = read_config(folder, allow_targets)["model"]["context"]
    chosen = np.arange(min(material.n_val_rows(context), max(1, tokens // context)))
    rows = max(1, 8192 // context)  # per batch, for speed
    batches = [material.val_batch(chosen[i : i + rows], context=context) for i in range(0, len(chosen), rows)]
    return [(batch[0], batch[1]) for batch in batches]


def material_of(folder: Path, tokenizer: Tokenizer, *, allow_targets: Sequence[str] = ()) -> Material:
    """What a run was trained on and validated by; refused if it is not what it was."""
    config = read_config(folder, allow_targets)
    material = reopen_material(made(config, "data"), tokenizer, config["paths"]["cache"])
    known = read_summary(folder).get("data_sha256")
    if known is not None and known != material.sha256:
        raise UsageError(f"data of {folder} has changed since the run: its contents are not those it was trained on")
    return material
