"""Checkpoints that can be trusted: written whole, listed with their SHA-256, checked before they are used."""

import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from attnlab.digests import Digests, damage, digest, digests_in
from attnlab.errors import AttnlabError, NoUsableCheckpoint, UsageError
from attnlab.files import METRICS, parse_json, read_file, write_atomically

MANIFEST = "manifest.json"
KEEP = 2  # the newest may be the one that a dying disk spoiled
MOST_FILES = 100  # that a manifest lists


class Unusable(AttnlabError):
    """A checkpoint file is not what was written."""


class CheckpointFolder:
    """The checkpoints of one run and their manifest: {"files": {name: {"step", "size", "sha256", "beside"}}}.

    "beside" holds the digests of metrics.csv and of the event files when the checkpoint was taken.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self.path, self.most = path, most  # a file of more bytes is not read

    def listed(self) -> dict[str, dict[str, Any]]:
        """What the manifest says; nothing if it is missing or cannot be read."""
        try:
            files = parse_json(read_file(self.path / MANIFEST))["files"]
            if len(files) > MOST_FILES or not all(Path(name).name == name for name in files):
                return {}
            return {
                str(name): {
                    "step": int(entry["step"]),
                    "size": int(entry["size"]),
                    "sha256": str(entry["sha256"]),
                    "beside": digests_in(entry.get("beside")),
                }
                for name, entry in files.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return {}

    def write(self, name: str, step: int, data: bytes, beside: Digests = {}) -> None:  # noqa: B006
        """Keep a checkpoint, list it, and drop those that are older than the newest two."""
        write_atomically(self.path / name, data, key="paths.runs")
        entry = {"step": step, **digest(data), "beside": dict(beside)}
        files = self.listed() | {name: entry}
        newest = sorted(files, key=lambda n: files[n]["step"])[-KEEP:]
        manifest = {"files": {n: files[n] for n in newest}}
        write_atomically(self.path / MANIFEST, json.dumps(manifest, indent=1).encode(), key="paths.runs")
        for file in self.path.glob("*.ckpt"):
            if file.name not in newest:
                file.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """The bytes of a checkpoint, if they are those that were written."""
        entry = self.listed().get(name)
        if entry is None:
            raise Unusable(f"{name} is not listed in {MANIFEST}")
        try:
            data = read_file(self.path / name, self.most)
        except (OSError, ValueError) as error:
            raise Unusable(f"{name} cannot be read ({getattr(error, 'strerror', error)})") from error
        if len(data) != entry["size"]:
            raise Unusable(f"{name} has {len(data)} bytes instead of {entry['size']}")
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise Unusable(f"{name} was changed after it was written (its SHA-256 differs)")
        return data

    def newest(self, *, with_rows: bool = False) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and what is wrong with newer ones; refused where all there are are damaged.

        To go on from one, the rows that were written before it must be whole, too (`with_rows`).
        """
        files = self.listed()
        problems: list[str] = []
        for name in sorted(files, key=lambda n: files[n]["step"], reverse=True):
            try:
                self.read(name)
                if with_rows and (problem := damage(self.path.parent, files[name]["beside"], METRICS)):
                    raise Unusable(f"{name} is whole, but {problem}")
                return self.path / name, problems
            except Unusable as unusable:
                problems.append(str(unusable))
        unlisted = sorted(p.name for p in self.path.glob("*.ckpt") if p.name not in files)
        # A run that was killed while writing its first checkpoint leaves one file and no manifest; more is damage.
        if not files and unlisted and (len(unlisted) > 1 or (self.path / MANIFEST).exists()):
            problems.append(f"{MANIFEST} is damaged or gone, so {', '.join(unlisted)} cannot be checked")
        if problems:
            raise NoUsableCheckpoint(
                f"{self.path} holds no usable checkpoint: {'; '.join(problems)}; overwrite=true starts the run again"
            )
        return None, []


def load_checkpoint(path: Path | str, map_location: Any = "cpu", most: int | None = None) -> dict[str, Any]:
    """The content of a checkpoint after its check: tensors, numbers, text, lists, dictionaries, nothing that runs.

    `most` is how many bytes the file may have, and what it holds may take. Raises UsageError if it is no checkpoint.
    """
    path = Path(path)
    data = CheckpointFolder(path.parent, most).read(path.name)
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


class VerifiedCheckpointIO(CheckpointIO):
    """Lightning's way of reading and writing files, by way of a CheckpointFolder."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file, beside = io.BytesIO(), checkpoint.pop("beside", {})
        torch.save(checkpoint, file)
        path = Path(path)
        CheckpointFolder(path.parent).write(path.name, checkpoint["global_step"], file.getvalue(), beside)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_checkpoint(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
