"""Finished runs, from their folders alone."""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from attnlab.attention.cost import tensor_bytes
from attnlab.attention.documents import Documents
from attnlab.build import build_model, instantiate
from attnlab.config.allowed_classes import allowed_packages, check_targets
from attnlab.config.code import changes_since, code_of, in_a_line
from attnlab.config.compose import check_values
from attnlab.config.guard import check_references
from attnlab.config.keys import settings_of, without_watchers
from attnlab.config.run_config import RunConfig
from attnlab.data.dataset import IGNORED, Batch, Dataset
from attnlab.data.download import offline
from attnlab.data.load import reload_dataset
from attnlab.data.stored_tokenizers import load_tokenizer
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import AttnlabError, UsageError, shown
from attnlab.inspection.maps import check_prompt, collect
from attnlab.inspection.prompt_maps import PromptMaps, choose_heads
from attnlab.machine.environment import harmless
from attnlab.machine.limits import CHECKPOINT_BYTES, MODEL_BYTES, MOST_HEADS, MOST_LAYERS, STATE_BYTES, within
from attnlab.model import GPT
from attnlab.store.digests import check_files, digests_in
from attnlab.store.names import CODE, CONFIG
from attnlab.store.run_folder import RunFolder, find_run
from attnlab.training.checkpoint import load_checkpoint, weights_in
from attnlab.training.hardware import WEIGHTS

AS_TYPED = ("seed", "streams.", "batch_size", "model.", "attention.", "position.", "optimizer.")
MOST_MAP_TOKENS = 512  # a map holds tokens^2 weights for each head
CACHE = Path(".cache/attnlab")  # where paths.cache usually is; only read


def read_config(run: RunFolder, allow_targets: Sequence[str] = ()) -> RunConfig:
    """The config of a run. What its file says may be imported is not believed: packages are allowed by the caller."""
    return _checked(run.read_config(), run.config, allow_targets)


def _checked(stored: Mapping[str, Any], path: Path, allow_targets: Sequence[str]) -> RunConfig:
    content = {**without_watchers(stored), "allow_targets": list(allow_targets)}
    groups = ("model", "attention", "position", "streams")
    if not all(isinstance(content.get(group), dict) for group in groups):
        raise UsageError(f"{path} is not the config of a run: it must hold {', '.join(groups)}")
    check_targets(content)
    try:
        check_values(content)
        return RunConfig.of(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def load(
    run: os.PathLike[str] | str, *, allow_targets: Sequence[str] = (), code: str = "same", limits: bool = True
) -> tuple[GPT, Tokenizer]:
    """The model of a run with its newest whole checkpoint, in evaluation mode on the CPU, and its tokenizer.

    `allow_targets` names packages of yours whose classes the run's config uses; `limits` False reads a run of any size
    (see docs/security.md). Raises UsageError where the folder is not that of a run, or where other code has trained it
    and `code` is not "any", and NoUsableCheckpoint where none of its checkpoints is whole.
    """
    folder = find_run(run)
    _refuse_foreign(folder)
    _check_digests(folder)
    stored = folder.read_config()
    config = _checked(stored, folder.config, allow_targets)
    tokenizer = load_tokenizer(folder.tokenizer, limits=limits)
    path, problems = _newest(folder, limits)
    for problem in problems:
        print(harmless(f"warning: {problem}; the checkpoint before it is used"), file=sys.stderr)
    if limits:
        _check_sizes(folder, config, tokenizer.n_vocab)
    model = _model(folder, config, tokenizer.n_vocab)
    names = changes_since_run(folder, config)
    if names and code != "any":
        raise UsageError(f"run ({folder}) was trained by other code ({in_a_line(names)}): code=any reads it anyway")
    checkpoint = load_checkpoint(path, most=CHECKPOINT_BYTES if limits else None)
    weights = weights_in(checkpoint, path)
    if apart := _of_another_run(folder, stored, tokenizer, checkpoint["fingerprint"]):
        raise UsageError(f"{folder.config} does not belong to {path}: {'; '.join(apart[:4])}")
    if (kind := WEIGHTS.get(config.trainer.precision)) is not None:  # as a model is looked at, it is in float32
        weights = {name: t.float() if t.dtype == kind else t for name, t in weights.items()}
    for name, own in model.state_dict().items():
        if name in weights and (weights[name].dtype, weights[name].layout) != (own.dtype, own.layout):
            raise UsageError(f"{path} is not the checkpoint of a run: {name} is no tensor of {own.dtype}")
    try:
        model.load_state_dict(weights)
    except (RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{folder.config} does not belong to {path}: {' '.join(str(error).split())[:200]}") from error
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UsageError(f"{path} is damaged: {name} holds numbers that are not finite")
    if names:
        print(harmless(f"note: {folder} was trained by other code ({in_a_line(names)})"), file=sys.stderr)
    elif names is None:
        print(harmless(f"note: which code trained {folder} is unknown: it has no {folder.code.name}"), file=sys.stderr)
    return model.eval(), tokenizer


def changes_since_run(folder: RunFolder, config: RunConfig) -> list[str] | None:
    """The modules that have changed since a run was trained; None where that is unknown. `config` is the run's."""
    return changes_since(folder.read_code(), code_of(config.as_dict(), allowed_packages(config.allow_targets)))


def _refuse_foreign(folder: RunFolder) -> None:
    try:
        foreign = next(folder.foreign_entries(), None)
    except OSError as error:
        raise UsageError(f"run ({folder}) cannot be read: {error.strerror}") from error
    if foreign is not None:
        raise UsageError(f"{foreign} is a device, a pipe or a link that leads out of the run's folder")


def _check_digests(folder: RunFolder) -> None:
    """Refuse a finished run whose config or code.json was changed; a summary that was is said, for it is not used."""
    summary = folder.read_summary()
    if not summary and folder.summary.exists():
        print(harmless(f"warning: {folder.summary} is damaged, and {CONFIG} cannot be checked by it"), file=sys.stderr)
    check_files(folder.path, digests_in(summary), CONFIG, CODE)


def _model(folder: RunFolder, config: RunConfig, n_vocab: int) -> GPT:
    try:
        return build_model(config, n_vocab)
    except AttnlabError:
        raise
    except Exception as error:  # values that training would have refused: whatever a constructor makes of them
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(f"{folder.config} gives no model ({reason})") from error


def _check_sizes(folder: RunFolder, config: RunConfig, n_vocab: int) -> None:
    """Refuse a model that is too large to be read without trust, before it takes any memory."""
    n_layers, path = config.model.n_layers, folder.config
    within(f"{path}: model.n_layers", n_layers, MOST_LAYERS)
    within(f"{path}: the heads of all layers", _n_heads(config.attention) * n_layers, MOST_HEADS)
    with torch.device("meta"):
        model = _model(folder, config, n_vocab)
        numbers = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        within(f"{path}: the size of the model", numbers, MODEL_BYTES, " bytes")
        try:
            state: float = tensor_bytes(model.init_state(1, model.context).layers)
        except RuntimeError:  # more than can be counted
            state = math.inf
    within(f"{path}: what decoding {model.context:,} tokens keeps", state, STATE_BYTES, " bytes")


def _n_heads(node: Any) -> int:
    """The heads of a layer, those of heads that hold others counted."""
    if not isinstance(node, Mapping):
        return 1
    own = node.get("n_heads")
    return (own if isinstance(own, int) else 1) * max(map(_n_heads, node.values()), default=1)


def _of_another_run(
    folder: RunFolder, stored: Mapping[str, Any], tokenizer: Tokenizer, fingerprint: Mapping[str, Any]
) -> list[str]:
    """In what the settings of a config and those that a checkpoint was trained with differ.

    Of those that stand in both as they were typed: what the machine and the files decide is in the fingerprint alone,
    but for the tokenizer, which lies beside it.
    """
    settings, theirs = (
        {key: value for key, value in side.items() if str(key).startswith(AS_TYPED)}
        for side in (settings_of(stored, besides=()), fingerprint)
    )
    trained_with = fingerprint.get("tokenizer.sha256", tokenizer.sha256)
    apart = [] if trained_with == tokenizer.sha256 else [f"{folder.tokenizer.name} is not that of its training"]
    for key in sorted({*settings, *theirs}):
        ours, other = (side.get(key, "absent") for side in (settings, theirs))
        if key.endswith("_target_"):  # a class may have moved
            ours, other = (str(name).rpartition(".")[2] for name in (ours, other))
        if ours != other and "${oc." not in str(ours):  # what came from the environment is not in the config
            apart.append(f"{key} ({shown(ours)} here, {shown(other)} there)")
    return apart


def _with_environment(config: RunConfig) -> RunConfig:
    """The config with what its data took from the environment, which is stored as it was written: ${oc.env:NAME}."""
    raw = {"paths": asdict(config.paths), "data": config.data}
    try:
        check_references(raw)
        resolved = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise UsageError(f"data of the run: {' '.join(str(error).split())[:200]}") from error
    assert isinstance(resolved, dict)
    return replace(config, data=resolved["data"])


def newest_step(folder: RunFolder, *, limits: bool = True) -> int:
    """After how many updates the checkpoint was taken that `load` reads."""
    path, _ = _newest(folder, limits)
    step: int = folder.checkpoints.listed()[path.name]["step"]
    return step


def _newest(folder: RunFolder, limits: bool) -> tuple[Path, list[str]]:
    path, problems = folder.checkpoints.newest(most=CHECKPOINT_BYTES if limits else None)
    if path is None:
        raise UsageError(f"run ({folder}) has no checkpoint yet")
    return path, problems


def validation_batches(
    run: os.PathLike[str] | str, tokenizer: Tokenizer, *, tokens: int, allow_targets: Sequence[str] = ()
) -> list[tuple[Tensor, Tensor]]:
    """The first rows of a run's validation part, about `tokens` tokens in all, and their targets, as it was validated.

    Of rows packed with documents each of these is a row of its own, filled up by what scores nothing.
    """
    folder = find_run(run)
    config = read_config(folder, allow_targets)
    dataset = dataset_of(folder, config, tokenizer)
    context, seed = config.model.context, config.streams.eval
    chosen = np.arange(min(dataset.n_val_rows(context), max(1, tokens // context)))
    rows = max(1, 8192 // context)  # per batch, for speed
    batches = [dataset.val_batch(chosen[i : i + rows], context=context, seed=seed) for i in range(0, len(chosen), rows)]
    return [pair for batch in batches for pair in _apart(batch)]


def _apart(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    if batch.documents is None:
        return [(batch.ids, batch.targets)]
    packed = Documents(batch.documents)
    parts = zip(packed.apart(batch.ids, 1), packed.apart(batch.targets, 1), packed.own, strict=True)
    return [(ids, targets.where(own, IGNORED)) for ids, targets, own in parts]


def dataset_of(folder: RunFolder, config: RunConfig, tokenizer: Tokenizer, *, tested: bool = False) -> Dataset:
    """What a run was trained on and validated by, or with `tested` what it was not; refused if it is not what it was.

    Nothing is fetched, and nothing is written: where its config says that a cache lies is not believed.
    """
    config = _with_environment(config)
    with offline():
        dataset = reload_dataset(instantiate(config, "data"), tokenizer, CACHE, tested=tested)
    digest = folder.read_summary().get("data_sha256")
    if digest is not None and digest != dataset.sha256:
        raise UsageError(f"data of {folder} has changed since the run: its contents are not those it was trained on")
    return dataset


def maps_of(
    run: os.PathLike[str] | str,
    prompt: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    allow_targets: Sequence[str] = (),
    code: str = "same",
    limits: bool = True,
) -> PromptMaps:
    """The maps of a text by the newest checkpoint of a run; of the layers and heads that are named, or of all."""
    home = find_run(run)
    model, tokenizer = load(home, allow_targets=allow_targets, code=code, limits=limits)
    ids, labels = check_prompt(prompt, tokenizer, model.context, max_tokens=MOST_MAP_TOKENS)
    layer_maps = choose_heads(collect(model, ids), layers, heads)
    return PromptMaps(home.title, newest_step(home, limits=limits), prompt, labels, layer_maps)
