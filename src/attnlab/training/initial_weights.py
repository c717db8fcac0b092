"""Weights that a run starts with instead of drawing them: those of another run, or of an import."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from attnlab.build import build_model
from attnlab.config.keys import settings_of
from attnlab.config.run_config import RunConfig
from attnlab.data.stored_tokenizers import load_tokenizer
from attnlab.data.tokenizers import Tokenizer
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.run_folder import RunFolder
from attnlab.training.checkpoint import network_weights
from attnlab.training.identity import differences

OF_THE_MODEL = ("model.", "attention.", "position.")


class InitialWeights(NamedTuple):
    """The folder that `init_from` names, its newest whole checkpoint, and the hash of the weights there."""

    folder: RunFolder
    checkpoint: Path
    sha256: str

    def load_into(self, model: GPT) -> None:
        """Give a model these weights. Raises UsageError if they were changed since they were hashed."""
        weights = network_weights(self.checkpoint)
        if sha256_of_weights(weights) != self.sha256:
            raise UsageError(f"init_from ({self.folder}): its weights changed while the run was prepared")
        model.load_state_dict(weights)


def sha256_of_weights(weights: Mapping[str, Tensor]) -> str:
    """One hash of names, types, shapes and numbers, whatever the order and the file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def initial_weights(config: RunConfig, tokenizer: Tokenizer) -> InitialWeights | None:
    """What `init_from` names; None where it is null.

    Refuses, in a line, a folder without weights, those of another model or of other tokens, and numbers that are not
    finite.
    """
    if config.init_from is None:
        return None
    folder = RunFolder(Path(config.init_from))
    checkpoint, _ = folder.checkpoints.newest()
    if checkpoint is None:
        raise UsageError(f"init_from ({folder}) must be the folder of a run or an import: it has no checkpoint")
    theirs = load_tokenizer(folder.tokenizer, limits=False)
    if theirs.sha256 != tokenizer.sha256:
        raise UsageError(
            f"init_from ({folder}): its weights are of other tokens ({theirs.name}, {theirs.n_vocab} ids) than these "
            f"({tokenizer.name}, {tokenizer.n_vocab}): tokenizer=run takes those of the folder, on a text"
        )
    weights = network_weights(checkpoint)
    _check_fit(config, folder, weights, tokenizer.n_vocab)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UsageError(f"init_from ({folder}): {name} holds numbers that are not finite")
    return InitialWeights(folder, checkpoint, sha256_of_weights(weights))


def _check_fit(config: RunConfig, folder: RunFolder, weights: Mapping[str, Tensor], n_vocab: int) -> None:
    """Refuse weights that are not those of the model of this config, naming the settings that differ."""
    with torch.device("meta"):
        own = build_model(config, n_vocab).state_dict()
    shapes, there = ({name: tuple(t.shape) for name, t in each.items()} for each in (own, weights))
    if shapes == there:
        return
    name = min(name for name in {*shapes, *there} if shapes.get(name) != there.get(name))
    of_tensor = f"{name} is {there.get(name, 'absent')} there and {shapes.get(name, 'absent')} here"
    settings = [
        {k: v for k, v in settings_of(each, besides=()).items() if k.startswith(OF_THE_MODEL)}
        for each in (config.as_dict(), folder.read_config())
    ]
    apart = "; ".join(differences(*settings)[:6])
    raise UsageError(f"init_from ({folder}) holds another model: {apart or of_tensor}")
