"""Checkpoints and what they hold: tensors, numbers, text, and nothing that runs."""

import io
import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from attnlab.errors import UsageError
from attnlab.store.checkpoints import REST, CheckpointFolder, is_sharded

OPTIMIZER = "optimizer/"  # begins the name of what an optimizer keeps, in a checkpoint in parts
# How torch.distributed.checkpoint notes in a safetensors file where each piece of a tensor begins.
CUSTOM_METADATA_KEY, SAVED_OFFSETS_KEY = "DCP_SHARDING_INFO", "saved_offsets"


def load_checkpoint(path: Path | str, map_location: Any = "cpu", most: int | None = None) -> dict[str, Any]:
    """The content of a checkpoint after its check: tensors, numbers, text, lists, dictionaries, nothing that runs.

    `most` is how many bytes the file may have, and what it holds may take. Raises UsageError if it is no checkpoint.
    """
    path = Path(path)
    if is_sharded(path):
        return _load_folder(path, most)
    return _parse(path, CheckpointFolder(path.parent).read(path.name, most), map_location, most)


def load_rest(path: Path | str) -> dict[str, Any]:
    """What a checkpoint holds besides the tensors of its parts; of one that is a file, all."""
    path = Path(path)
    if not is_sharded(path):
        return load_checkpoint(path)
    rest = path / REST
    return _parse(rest, CheckpointFolder(path.parent).read_part(path.name, REST), "cpu", None, tensors=False)


def _load_folder(path: Path, most: int | None) -> dict[str, Any]:
    """A checkpoint in parts as one process would have written it: whole tensors, parameters of optimizers numbered."""
    CheckpointFolder(path.parent).check(path.name, most)
    rest, tensors = load_rest(path), dict[str, torch.Tensor]()
    try:
        for name, (shape, dtype, cuts) in _pieces(path).items():
            tensors[name] = torch.empty(shape, dtype=dtype)
            for start, piece in cuts:
                own = tuple(slice(a, a + n) for a, n in zip(start, piece.shape, strict=True))
                tensors[name][own] = piece
    except Exception as error:  # whatever safetensors and torch make of bytes that are none of theirs
        raise UsageError(f"{path} is not a checkpoint ({type(error).__name__}: {_one_line(error)})") from error
    optimizers = []
    for saved in rest["optimizer_states"]:
        names = [name for group in saved["param_groups"] for name in group["params"]]
        numbers = {name: number for number, name in enumerate(names)}
        states = {numbers[name]: dict(state) for name, state in saved["state"].items()}
        for key in [key for key in tensors if key.startswith(OPTIMIZER)]:
            name, _, kind = key.removeprefix(OPTIMIZER).rpartition("/")
            if name in numbers:
                states.setdefault(numbers[name], {})[kind] = tensors.pop(key)
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in saved["param_groups"]]
        optimizers.append({"state": states, "param_groups": groups})
    aliases = {name: tensors[first] for name, first in rest.pop("aliases").items()}
    return {**rest, "state_dict": tensors | aliases, "optimizer_states": optimizers}


def _pieces(path: Path) -> dict[str, tuple[list[int], torch.dtype, list[tuple[list[int], torch.Tensor]]]]:
    """Of each tensor its shape, its type, and the pieces that processes have written, each with where it begins."""
    pieces: dict[str, list[tuple[list[int], torch.Tensor]]] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            starts = json.loads((content.metadata() or {}).get(CUSTOM_METADATA_KEY, "{}"))
            for name in content.keys():  # noqa: SIM118
                piece = content.get_tensor(name)
                start = starts.get(name, {}).get(SAVED_OFFSETS_KEY, [0] * piece.ndim)
                pieces.setdefault(name, []).append((start, piece))
    whole = {}
    for name, cuts in pieces.items():
        ends = ([a + n for a, n in zip(start, piece.shape, strict=True)] for start, piece in cuts)
        shape = [max(axis) for axis in zip(*ends, strict=True)]
        if math.prod(shape) > sum(piece.numel() for _, piece in cuts):
            raise ValueError(f"pieces of {name} are missing")
        whole[name] = (shape, cuts[0][1].dtype, cuts)
    return whole


def _parse(path: Path, data: bytes, map_location: Any, most: int | None, tensors: bool = True) -> dict[str, Any]:
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
    kinds = {"fingerprint": dict, "global_step": int}
    kinds |= {"state_dict": dict} if tensors else {"aliases": dict, "optimizer_states": list}
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
