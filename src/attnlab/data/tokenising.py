"""A text made into token ids once: by several processes, a unit at a time, into files that are mapped into memory.

A folder below the cache is named by what went in (contents, split, tokenizer). Each unit is a folder of its own, which
gets its name when it is whole, so that a kill costs the units that were being made. When all are there they are put
together, and an index with sizes and SHA-256 is written last: what has one is whole.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attnlab.data.checking import changed
from attnlab.data.download import sha256_of, sha256_of_file
from attnlab.data.file_streams import Changed, Stamp
from attnlab.data.parallel import each
from attnlab.data.stored_tokenizers import load_tokenizer
from attnlab.data.stretches import BLOCK, Bad, Split, TextPiece, Unit, read
from attnlab.data.text import Text
from attnlab.data.tokenizers import Tokenizer
from attnlab.data.unigram import unigram_entropy
from attnlab.store.files import flush_folder, parse_json, read_file, write_atomically, writing
from attnlab.store.locks import exclusive, lock_of
from attnlab.store.names import TOKENIZER

FORM = 1  # of the folders; another one makes them anew
INDEX, UNIT_INDEX = "index.json", "unit.json"
PARTS = ("train", "val")
FILES = tuple(f"{part}.{what}" for part in PARTS for what in ("ids", "ends"))
AT_ONCE = 1 << 20  # bytes that are copied, and numbers that are counted
ALWAYS_HASHED = 1 << 26  # bytes of a file that is hashed whenever it is opened, not only when it looks touched
KEY = "paths.cache"


class EncodeTask(NamedTuple):
    """What one process is to do, and where what it made goes."""

    number: int
    unit: Unit
    field: str
    split: Split | None
    folder: str
    end: int | None  # the token behind each document

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.number:06}"


@dataclass
class TokenIndex:
    """What stands in the files: their digests, and what a validation loss needs to be read.

    `val_bytes` are those of the validation text, None where its ids do not spell it; `unigram` is the loss of guessing
    by frequency.
    """

    files: dict[str, dict[str, Any]]
    val_bytes: int | None
    val_sha256: str = ""
    unigram: float = 0.0


def kind_of_ids(n_vocab: int) -> np.dtype[Any]:
    """The type that holds the ids of a vocabulary."""
    return np.dtype("<u2" if n_vocab <= 1 << 16 else "<u4")


def folder_of(text: Text, tokenizer: Tokenizer, cache: Path) -> Path:
    """Where the ids of a text are."""
    what = f"{FORM}/{text.key}/{text.several}/{tokenizer.sha256}"
    return cache / "tokens" / sha256_of(what.encode())[:16]


def tokenise(
    text: Text, tokenizer: Tokenizer, cache: Path, *, keep: bool = True, processes: int | None = None
) -> tuple[TokenIndex, dict[str, np.ndarray]]:
    """The ids of a text and the ends of its documents, as arrays in files: those that are there, or new ones.

    Of several processes that need them at once, one makes them. Unless `keep`, what is not there is made in a folder
    that is gone when it is closed; the arrays remain.
    """
    folder = folder_of(text, tokenizer, cache)
    if index := _whole(folder):
        return index, _arrays(folder, tokenizer)
    if not keep:
        with tempfile.TemporaryDirectory() as temporary:
            return _make(text, tokenizer, Path(temporary), processes), _arrays(Path(temporary), tokenizer)
    with writing(folder, key=KEY):
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(lock_of(folder / INDEX)):
            index = _whole(folder) or _make(text, tokenizer, folder, processes)
    return index, _arrays(folder, tokenizer)


def _whole(folder: Path) -> TokenIndex | None:
    """The index of a folder whose files are what it says, by their hashes if they look touched or are small."""
    try:
        index = TokenIndex(**parse_json(read_file(folder / INDEX)))
        for name, expected in index.files.items():
            stamp = Stamp.of((folder / name).stat())
            if stamp.size != expected["size"]:
                return None
            touched = list(stamp) != expected["stamp"]
            if (touched or stamp.size <= ALWAYS_HASHED) and sha256_of_file(folder / name) != expected["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index if set(index.files) == set(FILES) else None


def _arrays(folder: Path, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    kinds = {"ids": kind_of_ids(tokenizer.n_vocab), "ends": np.dtype("<i8")}
    return {name: mapped(folder / name, kinds[name.rpartition(".")[2]]) for name in FILES}


def mapped(path: Path, kind: np.dtype[Any]) -> np.ndarray:
    """A file of numbers as an array that takes no memory of its own."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _make(text: Text, tokenizer: Tokenizer, folder: Path, processes: int | None) -> TokenIndex:
    (folder / INDEX).unlink(missing_ok=True)
    write_atomically(folder / TOKENIZER, tokenizer.to_json().encode(), key=KEY)
    end = tokenizer.end_of_text if text.several else None
    jobs = [EncodeTask(i, unit, text.field, text.split, str(folder), end) for i, unit in enumerate(text.units())]
    for stray in folder.glob("*.part"):
        shutil.rmtree(stray)
    left = [job for job in jobs if not _unit_is_whole(job.path)]
    weights = [sum(stretch.weight for stretch in job.unit) for job in left]
    try:
        for _ in each(encode_unit, left, weights, "tokenising", processes):
            pass
    except Changed as error:
        raise changed(error) from error
    index = _join(folder, jobs, tokenizer)
    index.val_sha256 = text.val_sha256
    write_atomically(folder / INDEX, json.dumps(asdict(index)).encode(), key=KEY)
    for job in jobs:
        shutil.rmtree(job.path)
    (folder / TOKENIZER).unlink()
    return index


@lru_cache(1)
def _tokenizer(path: str) -> Tokenizer:
    return load_tokenizer(Path(path), limits=False)


def encode_unit(job: EncodeTask) -> None:
    """Make the folder of a unit: its ids, the ends of its documents, and an index."""
    tokenizer, path = _tokenizer(str(Path(job.folder) / TOKENIZER)), job.path
    temporary = path.with_suffix(f".{os.getpid()}.part")  # whoever a kill has left may be at the same unit
    temporary.mkdir()
    kind, counts = kind_of_ids(tokenizer.n_vocab), dict.fromkeys(PARTS, 0)
    end = b"" if job.end is None else np.array([job.end], kind).tobytes()
    val_bytes: int | None = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context(_Hashed(temporary / name)) for name in FILES}
        for stretch in job.unit:
            pieces = read(stretch, job.field, job.split)
            used = (piece for piece in pieces if not isinstance(piece, Bad) and piece.part in PARTS)
            for piece, ids in _encoded(tokenizer, used):
                if piece.part == "val" and val_bytes is not None:
                    is_spelled = tokenizer.decode_bytes(ids) == piece.text.encode()
                    val_bytes = val_bytes + piece.size if is_spelled else None
                data = ids.astype(kind).tobytes() + (end if piece.ends else b"")
                files[f"{piece.part}.ids"].write(data)
                counts[piece.part] += len(data) // kind.itemsize
                if piece.ends:
                    files[f"{piece.part}.ends"].write(np.int64(counts[piece.part]).tobytes())
    about = {name: file.digest for name, file in files.items()}
    (temporary / UNIT_INDEX).write_text(json.dumps(asdict(TokenIndex(about, val_bytes))))
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


def _encoded(tokenizer: Tokenizer, pieces: Iterator[TextPiece]) -> Iterator[tuple[TextPiece, np.ndarray]]:
    """Each piece with its ids; as many as a block holds are encoded at once."""
    while batch := list(_about_a_block(pieces)):
        yield from zip(batch, tokenizer.encode_documents([piece.text for piece in batch]), strict=True)


def _about_a_block(pieces: Iterator[TextPiece]) -> Iterator[TextPiece]:
    size = 0
    while size < BLOCK and (piece := next(pieces, None)):
        size += piece.size
        yield piece


def _unit_is_whole(path: Path) -> bool:
    try:
        index = TokenIndex(**parse_json(read_file(path / UNIT_INDEX)))
        return all(sha256_of_file(path / name) == about["sha256"] for name, about in index.files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _join(folder: Path, jobs: list[EncodeTask], tokenizer: Tokenizer) -> TokenIndex:
    """The units one after the other, flushed to disk; ends count from the beginning of the whole."""
    kind, files = kind_of_ids(tokenizer.n_vocab), dict[str, dict[str, Any]]()
    for part in PARTS:
        offset = 0
        with _Hashed(folder / f"{part}.ids") as ids, _Hashed(folder / f"{part}.ends") as ends:
            for job in jobs:
                own = mapped(job.path / f"{part}.ends", np.dtype("<i8"))
                for block in np.split(own, range(AT_ONCE, len(own), AT_ONCE)):
                    ends.write((block + offset).tobytes())
                with (job.path / f"{part}.ids").open("rb") as file:
                    while data := file.read(AT_ONCE):
                        ids.write(data)
                        offset += len(data) // kind.itemsize
        files |= {f"{part}.ids": ids.digest, f"{part}.ends": ends.digest}
    flush_folder(folder)
    for name, about in files.items():
        about["stamp"] = list(Stamp.of((folder / name).stat()))
    val_bytes = [TokenIndex(**parse_json(read_file(job.path / UNIT_INDEX))).val_bytes for job in jobs]
    train, val = (mapped(folder / f"{part}.ids", kind) for part in PARTS)
    whole = None if None in val_bytes else sum(size or 0 for size in val_bytes)
    return TokenIndex(files, whole, unigram=unigram_entropy(train, val, tokenizer.n_vocab))


class _Hashed:
    """A new file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.file, self.hash, self.size = path.open("wb"), hashlib.sha256(), 0

    def __enter__(self) -> "_Hashed":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.hash.hexdigest()}
