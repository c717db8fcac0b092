"""Checkpoints and what they hold: tensors, numbers, text, and nothing that runs."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnlab.errors import UsageError
from attnlab.store.checkpoints import CheckpointFolder


def load_checkpoint(path: Path | str, map_location: Any = "cpu", most: int | None = None) -> dict[str, Any]:
    """The content of a checkpoint after its check: tensors, numbers, text, lists, dictionaries, nothing that runs.

    `most` is how many bytes the file may have, and what it holds may take. Raises UsageError if it is no checkpoint.
    """
    path = Path(path)
    data = CheckpointFolder(path.parent).read(path.name, most)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:  # torch unpacks what is compressed, to any size
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            size = sum(entry.file_size for entry in archive.infolist())
        if packed or (most is not None and size > most):
            raise UsageError(f"{path} is not a checkpoint that attnlab wrote: it is packed, or larger than it looks")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about kinds of tensors that no run writes
            checkpoint = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(f"{path} holds more than numbers and text, and is not loaded: it could run code") from error
    except UsageError:
        raise
    except Exception as error:  # whatever zipfile and torch make of bytes that are none of theirs
        raise UsageError(f"{path} is not a checkpoint ({type(error).__name__}: {_one_line(error)})") from error
    kinds = {"state_dict": dict, "fingerprint": dict, "global_step": int}
    lacking = [key for key, kind in kinds.items() if not (isinstance(checkpoint, dict) and _is(checkpoint, key, kind))]
    if lacking:
        raise UsageError(f"{path} is not the checkpoint of a run: it lacks {', '.join(lacking)}")
    return checkpoint


def _is(checkpoint: Mapping[str, Any], key: str, kind: type) -> bool:
    return isinstance(checkpoint.get(key), kind)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def weights_in(checkpoint: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """The parameters of the network in a checkpoint, by their names in a GPT; refused if they are no numbers."""
    weights: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UsageError(f"{path} is not the checkpoint of a run: its state_dict holds more than tensors")
        weights[name.removeprefix("model.")] = tensor
    return weights


def network_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The parameters of the network in a checkpoint, by their names in a GPT."""
    return weights_in(load_checkpoint(path), Path(path))
