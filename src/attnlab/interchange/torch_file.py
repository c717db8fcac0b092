"""Two models that are kept as a file of torch's: nanoGPT's ckpt.pt and a book's GPT. Only plain types are read."""

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlab.data.download import sha256_of_file
from attnlab.data.tokenizers import CharTokenizer
from attnlab.errors import UsageError
from attnlab.interchange.families.torch_gpts import FROM_SCRATCH, NANOGPT
from attnlab.interchange.hf_folder import DTYPES, TensorHeader
from attnlab.store.files import read_file

STATES = ("model", "model_state_dict", "state_dict")  # where a checkpoint keeps the tensors, if not at its top
COMPILED = "_orig_mod."  # what torch.compile puts before names
BOOK = "trf_blocks.0.att.W_query.weight"  # by which the book's GPT is told
GPT2_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # by width, of the sizes that the book loads
MOST_META_BYTES = 2**24
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TorchFile:
    """The config and the weights of such a file; `n_heads` where the file does not say and the width is not GPT-2's."""

    def __init__(self, path: Path, n_heads: int | None = None) -> None:
        self.path, self.generation = path, dict[str, Any]()
        content = _load(path)
        state = next((content[key] for key in STATES if isinstance(content.get(key), Mapping)), content)
        tensors = {str(name).removeprefix(COMPILED): tensor for name, tensor in state.items()}
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise UsageError(f"ckpt ({path}) holds no tensors by name")
        self._tensors: dict[str, Tensor] = tensors
        self.names = {n: TensorHeader(NAMES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for n, t in tensors.items()}
        if isinstance(arguments := content.get("model_args"), Mapping):
            if not all(isinstance(each, str | int | float | None) for pair in arguments.items() for each in pair):
                raise UsageError(f"ckpt ({path}): model_args must hold numbers by name")
            self.family, sizes = NANOGPT, dict(arguments)
        elif BOOK in tensors:
            self.family, sizes = FROM_SCRATCH, self._sizes(n_heads)
        else:
            raise UsageError(f"ckpt ({path}) is neither nanoGPT's, with model_args, nor the book's, with {BOOK}")
        self.config = {"model_type": self.family.model_type, **sizes}

    def __str__(self) -> str:
        return str(self.path)

    def _sizes(self, n_heads: int | None) -> dict[str, Any]:
        """The book's names for the sizes, read off the shapes."""
        try:
            (vocab_size, width), (context, _) = (self.names[f"{n}_emb.weight"].shape for n in ("tok", "pos"))
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"ckpt ({self.path}) holds no tok_emb.weight and pos_emb.weight of two dimensions"
            ) from error
        if n_heads is None and width not in GPT2_HEADS:
            raise UsageError(f"ckpt ({self.path}) does not say how many heads it has: add n_heads=...")
        return {
            **{"vocab_size": vocab_size, "context_length": context, "emb_dim": width},
            "n_heads": n_heads or GPT2_HEADS[width],
            "n_layers": len({name.split(".")[1] for name in self.names if name.startswith("trf_blocks.")}),
            "qkv_bias": BOOK.replace("weight", "bias") in self.names,
            "tied": "out_head.weight" not in self.names,
        }

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored; refused if it is none of numbers that float32 may hold, or not finite."""
        tensor = self._tensors[name]
        if tensor.dtype not in NAMES or not tensor.isfinite().all():
            raise UsageError(f"{name} in {self.path} is of type {tensor.dtype}, or holds numbers that are not finite")
        return tensor

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Of the file, by its name."""
        return {self.path.name: sha256_of_file(self.path)}


def _load(path: Path) -> Mapping[str, Any]:
    """What a file of torch.save holds: tensors, numbers, text, lists, dictionaries; nothing that runs."""
    if not path.is_file():
        raise UsageError(f"ckpt ({path}) must be a file of torch.save, such as ckpt.pt")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch unpacks what is compressed, to any size
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UsageError(f"ckpt ({path}) is compressed, which torch.save never does")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"ckpt ({path}) holds more than numbers and text, and is not loaded: it could run code"
        ) from error
    except UsageError:
        raise
    except Exception as error:  # whatever zipfile and torch make of bytes that are none of theirs
        raise UsageError(f"ckpt ({path}) is no file of torch.save ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"ckpt ({path}) must hold tensors by name, not a {type(content).__name__}")
    return content


class _Plain(pickle.Unpickler):
    """Reads numbers, text, lists and dictionaries, and refuses every class and function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_meta(path: Path) -> CharTokenizer:
    """The characters of nanoGPT's meta.pkl, in its order, which is that of their code points."""
    try:
        signs = _Plain(io.BytesIO(read_file(path, MOST_META_BYTES))).load()["itos"]
        tokens = [signs[i].encode() for i in range(len(signs))]
        tokenizer = CharTokenizer("characters", tokens)
    except Exception as error:  # whatever pickle makes of bytes that are none of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UsageError(f"tokenizer ({path}) is not nanoGPT's meta.pkl ({reason})") from error
    if list(tokenizer.tokens) != tokens:
        raise UsageError(f"tokenizer ({path}) does not have its characters in the order of their code points")
    return tokenizer
