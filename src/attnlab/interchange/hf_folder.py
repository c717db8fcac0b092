"""A model's folder as Hugging Face lays it out: config.json, safetensors. Nothing in it is executed."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from attnlab.data.download import sha256_of_file
from attnlab.errors import UsageError, shown
from attnlab.store.damage import one_line
from attnlab.store.files import parse_json, read_file

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")
MOST_CONFIG_BYTES, MOST_INDEX_BYTES, MOST_HEADER_BYTES = 2**20, 2**25, 2**25
MOST_DEPTH = 16  # of a config.json
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class TensorHeader(NamedTuple):
    """What a file says of a tensor before it is read: its type as safetensors writes it, and its sizes."""

    dtype: str
    shape: tuple[int, ...]


class HFFolder:
    """The config and the weights of a model in a folder; tensors are read one at a time, when they are asked for.

    Raises UsageError for a folder that holds no such model, or files that are not what they say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise UsageError(f"hf ({path}) must be a folder with {CONFIG} and {WEIGHTS}; download=true fetches one")
        self.config = self._read_json(CONFIG)
        self.generation = self._read_json(GENERATION) if (path / GENERATION).exists() else {}
        self.files = self._weight_files()
        self._files_of: dict[str, Path] = {}
        self.names: dict[str, TensorHeader] = {}
        for file in self.files:
            self._read_header(file)
        self._check_index()

    def __str__(self) -> str:
        return str(self.path)

    def check_file(self, name: str) -> Path:
        """The path of a regular file of the folder; refused if it is something else, or a link that leads out.

        The Hub's cache keeps files apart, in `blobs` beside the folders of revisions: links to there are its own.
        """
        file = self.path / name
        try:
            real, home = file.resolve(strict=True), self.path.resolve()
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} holds no {name}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"{name!r} in {self.path} cannot be read: {one_line(error)}") from error
        if not (real.is_relative_to(home) or real.is_relative_to(home.parents[1] / "blobs")):
            raise UsageError(f"{name} in {self.path} leads out of the folder")
        if not real.is_file():
            raise UsageError(f"{name} in {self.path} is not a regular file")
        return file

    def _read_json(self, name: str, most: int = MOST_CONFIG_BYTES) -> dict[str, Any]:
        file = self.check_file(name)
        try:
            content = parse_json(read_file(file, most))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read: {one_line(error)}") from error
        if not isinstance(content, dict) or _depth(content) > MOST_DEPTH:
            raise UsageError(f"{file} must hold settings by name, at most {MOST_DEPTH} deep")
        return content

    def _weight_files(self) -> list[Path]:
        if (self.path / WEIGHTS).exists() or (self.path / WEIGHTS).is_symlink():
            self._index: Mapping[str, str] = {}
            return [self.check_file(WEIGHTS)]
        if (self.path / INDEX).exists():
            index = self._read_json(INDEX, MOST_INDEX_BYTES).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()) or not index:
                raise UsageError(f"{self.path / INDEX} must name a file for each tensor, at weight_map")
            for name in index.values():
                if Path(name).name != name or not name.endswith(".safetensors"):
                    raise UsageError(
                        f"{self.path / INDEX} names {shown(name)!r}, which is no safetensors file beside it"
                    )
            self._index = index
            return [self.check_file(name) for name in sorted({*index.values()})]
        pickled = sorted(file.name for pattern in PICKLES for file in self.path.glob(pattern))
        if pickled:
            raise UsageError(
                f"{self.path} holds its weights as {pickled[0]}, a pickle, which could run code and is not read: save "
                f"them as {WEIGHTS} (model.save_pretrained does)"
            )
        raise UsageError(f"{self.path} holds no {WEIGHTS} and no {INDEX}")

    def _read_header(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise UsageError(f"{file}: its header of {length:,} bytes is above {MOST_HEADER_BYTES:,}")
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    part = tensors.get_slice(name)
                    if name in self.names:
                        raise UsageError(f"{name} stands in {self._files_of[name].name} and in {file.name}")
                    self.names[name] = TensorHeader(part.get_dtype(), tuple(part.get_shape()))
                    self._files_of[name] = file
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{file} is not a whole safetensors file: {one_line(error)}") from error

    def _check_index(self) -> None:
        for name, file in self._index.items():
            if name not in self.names or self._files_of[name].name != file:
                raise UsageError(f"{self.path / INDEX} says that {name} stands in {file}, which does not hold it")

    def tensor(self, name: str) -> Tensor:
        """One tensor in the type it is stored in; refused if that is none of float64, 32 and 16 and bfloat16, or if a
        number is not finite."""
        file, header = self._files_of[name], self.names[name]
        if header.dtype not in DTYPES:
            raise UsageError(f"{name} in {file} is of type {header.dtype}; what is read: {', '.join(DTYPES)}")
        with safe_open(file, framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
        if not tensor.isfinite().all():
            raise UsageError(f"{name} in {file} holds numbers that are not finite")
        return tensor

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Of each file of weights, by its name."""
        return {file.name: sha256_of_file(file) for file in self.files}


def _depth(node: Any) -> int:
    """How deep a value is nested; counted no further than matters."""
    level, depth = [node], 0
    while level and depth <= MOST_DEPTH:
        inner = [child for each in level if isinstance(each, dict | list) for child in _children(each)]
        level, depth = inner, depth + 1
    return depth


def _children(node: dict[str, Any] | list[Any]) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else node
