"""Texts that others have tokenised: nanoGPT's .bin files, the bare numbers, llm.c's, with a header, and .npy arrays."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attnlab.data.batches import TokenSplits
from attnlab.data.corpus import HeldBack, Share, Source
from attnlab.data.download import sha256_of, sha256_of_file
from attnlab.data.listing import TextFile, kind_of, list_files
from attnlab.data.stretches import Unit
from attnlab.data.text import Order, Text, no_test_part
from attnlab.data.text_files import paths_of
from attnlab.data.tokenising import mapped
from attnlab.data.tokenizers import TaskTokenizer, Tokenizer
from attnlab.data.unigram import unigram_entropy
from attnlab.errors import UsageError
from attnlab.options import Natural, checked
from attnlab.store.files import parse_json, read_file, write_atomically, writing

KINDS = (".bin", ".npy")
AT_ONCE = 1 << 22  # tokens
LEAST_IDS = 2  # of each part: one to read and one to predict
MOST_IDS = 1 << 22  # beyond any vocabulary that there is, and what is read as numbers of the wrong size soon is
# llm.c's .bin files begin with 256 integers of 32 bits: a sign, a version and how many ids follow.
HEADER = 1024  # bytes
HEADERS: dict[tuple[int, int], np.dtype[Any]] = {(20240520, 1): np.dtype("<u2"), (20240801, 7): np.dtype("<u4")}
LOOKED_AT = 1 << 16  # ids of a .bin, by which one of the other kind is noticed
KEY = "paths.cache"
FORM = 2  # of what is kept of a file; another one looks at it anew


class Tokens(Source):
    """Token ids in files: `data.path` names a .bin or .npy file, a folder of them, a glob, or a list of these.

    `dtype` is that of a .bin that does not say it. Those of `val` are for validation; without it, the last
    `val_fraction` of the tokens, from the end of a document on where `eot`, the id that ends one, is given, and behind
    them, cut likewise, what `test_fraction` holds back. Several files are put together once below paths.cache; one
    alone is read where it lies.
    """

    @checked
    def __init__(
        self,
        path: Any = None,
        val_fraction: Share = 0.1,
        val: Any = None,
        dtype: Literal["uint16", "uint32"] = "uint16",
        eot: Natural | None = None,
        order: Order | None = "epoch",
        documents: bool = False,
        test_fraction: HeldBack = 0.0,
    ) -> None:
        super().__init__(val_fraction, order, documents, test_fraction=test_fraction)
        if not path:
            raise UsageError(
                "data=tokens needs token ids: set data.path=FILE, a .bin or .npy file, or a folder of them"
            )
        if documents and eot is None:
            raise UsageError("data.documents (true) needs data.eot, the id that ends a document, such as 50256")
        self.path, self.val = paths_of(path, "data.path"), paths_of(val, "data.val") if val else None
        self.dtype, self.eot = np.dtype(dtype).newbyteorder("<"), eot

    def load(self, cache: Path | None = None, *, keep: bool = True) -> "TokenText":
        named = [("data.path", self.path), *([("data.val", self.val)] if self.val else [])]
        listed = [[(key, file) for file in list_files(paths, key=key, kinds=KINDS)] for key, paths in named]
        return TokenText(self, listed, Keeper(cache, keep))


class Keeper:
    """Where what took time is kept, if it is."""

    def __init__(self, cache: Path | None, keep: bool) -> None:
        self.cache, self.keep = cache, keep

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """What a small file holds, which is made if it is not there."""
        path = self.cache / "tokens" / f"{sha256_of(name.encode())[:16]}.json" if self.cache else None
        try:
            if path is not None:
                return parse_json(read_file(path))
        except (OSError, ValueError):
            pass
        content = make()
        if path is not None and self.keep:
            write_atomically(path, json.dumps(content).encode(), key=KEY)
        return content

    def numbers(self, name: str, kind: np.dtype[Any], blocks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
        """An array in a file, which is written block by block if it is not there."""
        if self.cache is None or not self.keep:
            with tempfile.TemporaryDirectory() as folder:
                return self._written(Path(folder) / "numbers", kind, blocks)
        path = self.cache / "tokens" / f"{sha256_of(name.encode())[:16]}.{kind.name}"
        return mapped(path, kind) if path.is_file() else self._written(path, kind, blocks)

    def _written(self, path: Path, kind: np.dtype[Any], blocks: Callable[[], Iterator[np.ndarray]]) -> np.ndarray:
        with writing(path, key=KEY):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                temporary = Path(folder) / path.name
                with temporary.open("wb") as file:
                    for block in blocks():
                        file.write(np.ascontiguousarray(block, kind).tobytes())
                temporary.replace(path)
        return mapped(path, kind)


class TokenText(Text):
    """The ids of files as arrays, and what was counted of them once."""

    def __init__(self, source: Tokens, listed: Sequence[Sequence[tuple[str, TextFile]]], keeper: Keeper) -> None:
        self.source, self.keeper = source, keeper
        self.name = Path(source.path[0]).stem
        arrays = [[self._array(*named) for named in part] for part in listed]
        about = [[self._about(*named) for named in part] for part in listed]
        self.sha256 = sha256_of(json.dumps([[one["sha256"] for one in part] for part in about]).encode())
        self.largest: int
        self.largest, self.largest_in = max(
            (int(one["largest"]), f"{key} ({file.path})")
            for named, part in zip(listed, about, strict=True)
            for (key, file), one in zip(named, part, strict=True)
        )
        joined = [self._joined(f"{self.sha256}/{i}", parts) for i, parts in enumerate(arrays)]
        whole = joined[0]
        end = self._cut(whole, source.test_fraction)
        rest, self.test = whole[:end], whole[end:]
        cut = end if source.val else self._cut(rest, source.val_fraction)
        self.train, self.val = rest[:cut], joined[1] if source.val else rest[cut:]
        self.parts = f"{self.sha256}/{cut}" + (f"/{end}" if source.test_fraction else "")
        if self.largest >= MOST_IDS:
            raise UsageError(
                f"{self.largest_in} holds the number {self.largest}, which is no token id: a .bin is read as "
                f"data.dtype={source.dtype.name}"
            )
        if source.test_fraction and min(map(len, (self.train, self.val, self.test))) < LEAST_IDS:
            sizes = ", ".join(f"{len(ids)} for {part}" for part, ids in self.cuts.items())
            raise UsageError(
                f"data.test_fraction ({source.test_fraction:g}) leaves too little: of {len(whole)} tokens {sizes}, and "
                f"each part needs at least {LEAST_IDS}"
            )

    @property
    def cuts(self) -> dict[str, np.ndarray]:
        """The ids of each part."""
        return {"training": self.train, "validation": self.val, "test": self.test}

    def tested(self) -> "TokenText":
        if not self.source.test_fraction:
            raise no_test_part()
        other = copy.copy(self)
        other.val, other.parts = self.test, f"{self.parts}/test"
        return other

    def _array(self, key: str, file: TextFile) -> np.ndarray:
        """The ids of a file. Raises UsageError where it holds none, or is of another type than it is read as."""
        where, path = f"{key} ({file.path})", Path(file.path)
        if kind_of(file.path, KINDS) is None:
            raise UsageError(f"{where} is named as no file of token ids: it must end in {' or '.join(KINDS)}")
        try:
            array = self._of_bin(path) if file.kind == ".bin" else np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise UsageError(f"{where} holds no token ids: {' '.join(str(error).split())}") from error
        if array.ndim != 1 or array.dtype.kind not in "ui" or not len(array):
            shape = f"{array.dtype} of shape {array.shape}"
            raise UsageError(f"{where} holds {shape}: it must hold integers, one after the other")
        return array

    def _of_bin(self, path: Path) -> np.ndarray:
        with path.open("rb") as file:
            first = np.frombuffer(file.read(HEADER), np.uint8)
        sign, version, count = first.view("<i4")[:3].tolist() if len(first) == HEADER else (0, 0, 0)
        if (kind := HEADERS.get((sign, version))) is not None:
            ids = mapped(path, kind)[HEADER // kind.itemsize :]
            if len(ids) != count:
                raise ValueError(f"its header counts {count:,} of them, and {len(ids):,} are there")
            return ids
        kind = self.source.dtype
        if path.stat().st_size % kind.itemsize:
            raise ValueError(f"its size is no multiple of {kind.itemsize} bytes (data.dtype={kind.name})")
        ids = mapped(path, kind)
        halves = ids[: LOOKED_AT & -2].reshape(-1, 2) if len(ids) % 2 == 0 else None
        if kind.itemsize == 2 and halves is not None and len(halves) >= 128:
            low, high = halves.max(0)
            if high < 4 and low > 255:  # the upper halves of ids below 2^18
                raise ValueError("as uint16 every other number is next to nothing; set data.dtype=uint32")
        return ids

    def _about(self, key: str, file: TextFile) -> dict[str, Any]:
        """The digest of a file and its largest id; not counted again as long as the file is what it was."""
        name = json.dumps([FORM, str(Path(file.path).absolute()), file.stamp, str(self.source.dtype)])

        def count() -> dict[str, Any]:
            array = self._array(key, file)
            blocks = (array[i : i + AT_ONCE] for i in range(0, len(array), AT_ONCE))
            least, largest = np.array([(int(block.min()), int(block.max())) for block in blocks], object).T
            if min(least) < 0:
                raise UsageError(f"{key} ({file.path}) holds the number {min(least)}: no token id is below 0")
            return {"sha256": sha256_of_file(Path(file.path)), "largest": max(largest)}

        return dict(self.keeper.record(name, count))

    def _joined(self, name: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
        if len(arrays) == 1:
            return arrays[0]
        kind = np.dtype("<u2" if self.largest < 1 << 16 else "<u4")

        def blocks() -> Iterator[np.ndarray]:
            yield from (ids[i : i + AT_ONCE] for ids in arrays for i in range(0, len(ids), AT_ONCE))

        return self.keeper.numbers(f"joined/{name}", kind, blocks)

    def _cut(self, ids: np.ndarray, fraction: float) -> int:
        """Where the last fraction begins: after the end of a document, if that is known."""
        cut = int(len(ids) * (1 - fraction))
        if self.source.eot is not None:
            for start in range(cut, len(ids), AT_ONCE):
                if (ends := np.flatnonzero(ids[start : start + AT_ONCE] == self.source.eot)).size:
                    return start + int(ends[0]) + 1
        return cut

    def _ends(self, part: str, ids: np.ndarray) -> np.ndarray | None:
        """The exclusive ends of documents; what stands behind the last one's end token is one, too."""
        eot = self.source.eot
        if eot is None:
            return None

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(ids), AT_ONCE):
                yield start + np.flatnonzero(ids[start : start + AT_ONCE] == eot) + 1
            yield np.array([len(ids)] if len(ids) and ids[-1] != eot else [])

        return self.keeper.numbers(f"ends/{self.key}/{part}/{eot}", np.dtype("<i8"), blocks)

    @property
    def key(self) -> str:
        return self.parts

    @property
    def n_train_bytes(self) -> int:
        return 0

    @property
    def val_sha256(self) -> str:
        return sha256_of(self.key.encode())

    def units(self) -> list[Unit]:
        raise UsageError("data=tokens holds no text to learn a vocabulary from: leave tokenizer= out, or name its own")

    def splits(self, tokenizer: Tokenizer, order: Order | None) -> TokenSplits:
        """Training and validation ids; bits per byte are known where the tokenizer says what each id stands for."""
        if self.largest >= tokenizer.n_vocab:
            raise UsageError(
                f"{self.largest_in} holds token id {self.largest}, and the vocabulary of tokenizer {tokenizer.name} "
                f"ends at {tokenizer.n_vocab - 1}: name the one that made them (a .bin is read as data.dtype="
                f"{self.source.dtype.name})"
            )
        n_vocab = tokenizer.n_vocab
        loss = self.keeper.record(
            f"unigram/{self.key}/{n_vocab}", lambda: unigram_entropy(self.train, self.val, n_vocab)
        )
        spells = not isinstance(tokenizer, TaskTokenizer) and not tokenizer.losses
        return TokenSplits(
            self.train,
            self.val,
            n_vocab,
            self.sha256,
            self._bytes(tokenizer) if spells else None,
            val_sha256=self.val_sha256,
            train_ends=self._ends("train", self.train),
            val_ends=self._ends("val", self.val),
            order=order or "epoch",
            unigram=loss,
            remarks=() if spells else ("its ids stand for no text: no bits per byte",),
        )

    def _bytes(self, tokenizer: Tokenizer) -> int:
        """The bytes of the validation tokens that are predicted; of an end of a document none."""
        lengths = np.array([len(token) for token in tokenizer.tokens])
        if tokenizer.end_of_text is not None:
            lengths[tokenizer.end_of_text] = 0
        return sum(int(lengths[self.val[i : i + AT_ONCE]].sum()) for i in range(1, len(self.val), AT_ONCE))
