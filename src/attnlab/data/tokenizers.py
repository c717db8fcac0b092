"""From text to token ids and back: kinds of tokenizer, each of which a folder can hold without its corpus."""

import base64
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Set
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import regex
import tiktoken
from jaxtyping import Int32

from attnlab.data.download import sha256_of
from attnlab.data.token_labels import label
from attnlab.errors import UsageError
from attnlab.store.files import write_atomically

FEW_IDS, IDS_AT_ONCE = 256, 1 << 20  # below the one a loop is as fast; the other bounds what gathering needs
MOST_PATTERN = 1000  # characters of the rule that cuts a text
END_OF_TEXT = b"<|endoftext|>"  # as tiktoken's encodings call what ends a document
BORDER = "\0"  # a special token between texts; where tiktoken knows none, it looks for one at every character


class Tokenizer(ABC):
    """A vocabulary of byte strings, and a rule that cuts text into them.

    `tokens[id]` are the bytes of an id, so decoding is joining; encoding is what the kinds differ in.
    Encoding and decoding again gives the same text, unless `losses` names what it changes. An id without bytes is one
    that no text ever produces. A prompt begins with the ids `bos`, and a text ends where one of `eos` comes.
    """

    kind: ClassVar[str]
    bos: tuple[int, ...] = ()
    eos: tuple[int, ...] = ()

    def __init__(self, name: str, tokens: Sequence[bytes]) -> None:
        self.name = name
        self.tokens = tuple(tokens)

    @property
    def n_vocab(self) -> int:
        """How many ids there are: 0 .. n_vocab - 1."""
        return len(self.tokens)

    @property
    def end_of_text(self) -> int | None:
        """The id that ends a document among several; None: they follow each other with nothing between."""
        return self.eos[0] if self.eos else None

    @abstractmethod
    def _encode(self, text: str) -> Int32[np.ndarray, " n"]: ...

    @property
    def losses(self) -> tuple[str, ...]:
        """What does not come back when a text is encoded and decoded again, in words: nothing."""
        return ()

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of the start of a text, as the model has read starts: after `bos`."""
        return [*self.bos, *self.encode(text)]

    def _extra(self) -> dict[str, Any]:
        """What the kind needs to be built again, besides name and tokens."""
        return {}

    def _identity(self) -> dict[str, Any]:
        """What decides which ids a text gets."""
        return {"tokens": [t.hex() for t in self.tokens], **self._extra()}

    def _stored(self) -> dict[str, Any]:
        """What `_restore` needs."""
        return {**self._extra(), "tokens": [base64.b64encode(t).decode() for t in self.tokens]}

    @classmethod
    def _restore(cls, name: str, n_vocab: int, stored: dict[str, Any]) -> "Tokenizer":
        """A ValueError, KeyError or TypeError for what no tokenizer can be made of."""
        tokens = [base64.b64decode(t, validate=True) for t in stored.pop("tokens")]
        _check_tokens(cls, tokens, **stored)
        return cls(name, tokens, **stored)

    def encode_array(self, text: str) -> Int32[np.ndarray, " n"]:
        """Token ids of a text as a numpy array; what looks like a special token is ordinary text."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text holds U+{ord(text[error.start]):04X} at character {error.start}, which is not a character: "
                "it was not UTF-8 where it came from"
            ) from error
        return self._encode(text)

    def encode_documents(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        """Token ids of several texts that can be written as UTF-8, each by itself."""
        return [self.encode_array(text) for text in texts]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; what looks like a special token is ordinary text."""
        ids: list[int] = self.encode_array(text).tolist()
        return ids

    def decode_bytes(self, ids: Iterable[SupportsIndex]) -> bytes:
        """The bytes of a sequence of ids: a list, an array or a one-dimensional tensor."""
        return self._join(self._checked(ids))

    def _checked(self, ids: Iterable[SupportsIndex]) -> np.ndarray:
        array = np.asarray(ids if isinstance(ids, Sequence) or hasattr(ids, "__array__") else list(ids))
        wrong = array[(array < 0) | (array >= self.n_vocab)]
        if wrong.size:
            raise UsageError(f"token id {wrong[0]} is not in the vocabulary of {self.name} (0 .. {self.n_vocab - 1})")
        return array

    def _join(self, ids: np.ndarray) -> bytes:
        """The bytes of ids that are all within the vocabulary, those of many ids gathered at once."""
        if len(ids) < FEW_IDS:
            return b"".join([self.tokens[i] for i in ids.tolist()])
        text, starts, lengths = self._table
        parts = []
        for block in np.array_split(ids, -(-len(ids) // IDS_AT_ONCE)):
            sizes = lengths[block]
            ends = np.cumsum(sizes)
            parts.append(text[np.arange(ends[-1]) + np.repeat(starts[block] - ends + sizes, sizes)].tobytes())
        return b"".join(parts)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All tokens one after the other, and where each starts and how long it is."""
        lengths = np.array([len(token) for token in self.tokens], dtype=np.int64)
        return np.frombuffer(b"".join(self.tokens), dtype=np.uint8), np.cumsum(lengths) - lengths, lengths

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """The text of a sequence of ids; bytes that make no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one id stands for."""
        return self._join(self._checked([token_id]))

    def labels(self, ids: Iterable[SupportsIndex]) -> list[str]:
        """A short name for each token, of printable characters: a space is '·', a line break '\\n'."""
        return [label(self.token_bytes(int(i))) for i in ids]

    @cached_property
    def sha256(self) -> str:
        """The identity of the vocabulary: equal exactly where every text gets equal ids."""
        return sha256_of(json.dumps({"kind": self.kind, **self._identity()}, sort_keys=True).encode())

    def to_json(self) -> str:
        """Everything `from_json` needs, the tokens in base64."""
        head = {"kind": self.kind, "name": self.name, "n_vocab": self.n_vocab, "sha256": self.sha256}
        return json.dumps(head | self._stored(), indent=0) + "\n"

    def save(self, path: Path) -> None:
        """Write a file for `load_tokenizer`."""
        write_atomically(path, self.to_json().encode(), key="paths.runs")


class RankTokenizer(Tokenizer):
    """Byte-pair encoding (arXiv 1508.07909) by tiktoken: in each piece of text, merge the neighbours of lowest rank.

    `pattern` cuts a text into pieces first. The first `n_ranks` tokens are the ranks in order; ids after them
    belong to special tokens, which are never produced from text.
    """

    kind = "ranks"

    def __init__(self, name: str, tokens: Sequence[bytes], *, pattern: str, n_ranks: int | None = None) -> None:
        super().__init__(name, tokens)
        self.pattern = pattern
        self.n_ranks = len(tokens) if n_ranks is None else n_ranks
        self._encoding = tiktoken.Encoding(
            name,
            pat_str=pattern,
            mergeable_ranks={token: rank for rank, token in enumerate(self.tokens[: self.n_ranks])},
            special_tokens={BORDER: len(self.tokens)},
        )

    @classmethod
    def from_encoding(cls, encoding: tiktoken.Encoding) -> "RankTokenizer":
        """A tiktoken encoding with all its ids; ids it leaves unused stand for no bytes."""
        ranks, special = encoding._mergeable_ranks, encoding._special_tokens
        tokens = [b""] * encoding.n_vocab
        for token, rank in (*ranks.items(), *((text.encode(), i) for text, i in special.items())):
            tokens[rank] = token
        if set(ranks.values()) != set(range(len(ranks))):
            raise UsageError(f"the ranks of {encoding.name} are not 0 .. {len(ranks) - 1}")
        return cls(encoding.name, tokens, pattern=encoding._pat_str, n_ranks=len(ranks))

    def encode_documents(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " n"]]:
        joined = BORDER.join(texts)
        if joined.count(BORDER) >= len(texts):  # one of them holds such a character
            return super().encode_documents(texts)
        ids = self._encode(joined, {BORDER})  # one call for all: each takes a tenth of a millisecond
        borders = np.flatnonzero(ids == len(self.tokens)).tolist()
        return [ids[i + 1 : j] for i, j in pairwise([-1, *borders, len(ids)])]

    def _encode(self, text: str, special: Set[str] = frozenset()) -> Int32[np.ndarray, " n"]:
        # Special tokens that are not named here are ordinary text.
        try:
            ids = self._encoding.encode_to_numpy(text, allowed_special=special, disallowed_special=())
            return ids.astype(np.int32)
        except ValueError as error:  # a pattern of somebody's that takes too many tries
            raise UsageError(f"tokenizer {self.name} cannot cut this text: {' '.join(str(error).split())}") from error

    @property
    def end_of_text(self) -> int | None:
        special = self.tokens[self.n_ranks :]
        return self.n_ranks + special.index(END_OF_TEXT) if END_OF_TEXT in special else None

    def _extra(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "n_ranks": self.n_ranks}


class CharTokenizer(Tokenizer):
    """One id per character, in the order of their code points; a character it has not seen is refused by name."""

    kind = "characters"

    def __init__(self, name: str, tokens: Sequence[bytes]) -> None:
        super().__init__(name, sorted(tokens))  # the order of UTF-8 is the order of code points
        self._points = np.array([ord(t.decode()) for t in self.tokens], dtype=np.uint32)

    def _encode(self, text: str) -> Int32[np.ndarray, " n"]:
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = np.searchsorted(self._points, points).clip(max=self.n_vocab - 1)
        unknown = np.flatnonzero(self._points[ids] != points)
        if unknown.size:
            character = chr(points[unknown[0]])
            raise UsageError(
                f"the text holds {character!r} (U+{ord(character):04X}), which is not among the {self.n_vocab} "
                "characters of the corpus that tokenizer=char knows; leave it out, or use tokenizer=bpe or byte"
            )
        return ids.astype(np.int32)


class ByteTokenizer(Tokenizer):
    """One id per byte of UTF-8: 256 ids, and no text it cannot write."""

    kind = "bytes"

    def __init__(self, name: str = "byte", tokens: Sequence[bytes] = tuple(bytes([i]) for i in range(256))) -> None:
        super().__init__(name, tokens)

    def _encode(self, text: str) -> Int32[np.ndarray, " n"]:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)


class TaskTokenizer(Tokenizer):
    """The tokens of a task by their names, with blanks between: "k17 v3 k17". Blanks mean nothing else."""

    kind = "task"

    def __init__(self, name: str, tokens: Sequence[bytes]) -> None:
        super().__init__(name, tokens)
        self._names = [token.decode().strip() for token in tokens]
        self._ids = {name: i for i, name in enumerate(self._names)}

    def _encode(self, text: str) -> Int32[np.ndarray, " n"]:
        unknown = [word for word in text.split() if word not in self._ids]
        if unknown:
            some = ", ".join(self._names[:: max(1, len(self._names) // 4)][:5])
            raise UsageError(f"{unknown[0]!r} is no token of {self.name}, whose tokens are called {some}, ...")
        return np.array([self._ids[word] for word in text.split()], dtype=np.int32)

    def labels(self, ids: Iterable[SupportsIndex]) -> list[str]:
        return [self._names[int(i)] for i in ids]


def _check_tokens(
    cls: type[Tokenizer], tokens: list[bytes], pattern: str = "", n_ranks: int | None = None, **unknown: Any
) -> None:
    """A ValueError for tokens that no text could be cut into, or that would end tiktoken in another way than that."""
    if not tokens or unknown:
        raise ValueError(f"it holds {', '.join(unknown)}" if unknown else "it holds no tokens")
    cut = tokens[: len(tokens) if n_ranks is None else n_ranks]
    single = {bytes([i]) for i in range(256)}
    if len(set(cut)) != len(cut) or (cls is not CharTokenizer and b"" in cut):
        raise ValueError("a token is empty, or stands there twice")
    if cls is TaskTokenizer and not all(token.decode().isprintable() for token in tokens):
        raise ValueError("the name of a token cannot be shown")
    if cls is ByteTokenizer and set(tokens) != single:
        raise ValueError("its tokens are not the 256 bytes")
    if cls is RankTokenizer:
        if not single <= set(cut):
            raise ValueError("a byte is missing among its tokens")
        if (
            not isinstance(pattern, str)
            or len(pattern) > MOST_PATTERN
            or re.search(r"\\[1-9gkKG]|\(\?[(P&R0-9]", pattern)
        ):
            raise ValueError("its pattern refers back to what it matched, or is too long")
        if regex.compile(pattern).fullmatch("", timeout=1):
            raise ValueError("its pattern cuts text into nothing")
