"""A tokenizer.json in the hands of Hugging Face's `tokenizers`, and the bytes that each of its pieces stands for."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

MOST_IDS = 1 << 22  # each takes memory, whether it stands for something or not
MOST_DEPTH = 8  # of decoders within decoders
MOST_STRIPPED = 8  # signs at either end of a text
LONG = tuple(64 * run + end for run, end in ("a!", "1!", "!a", " a"))  # for patterns that take too many tries
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")  # a byte of a character without a piece of its own


class Backend:
    """The content of a tokenizer.json at work: a ValueError where it cannot be read, or cannot cut a text.

    `pieces` are the bytes of each id, `special` the ids of special tokens, `start` and `end` what decoding takes off a
    whole text.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        if definition["model"].get("dropout"):
            raise ValueError("its model drops merges at random")
        reads = reader(definition.get("decoder"))
        with _in_python(), _silenced():
            alone = {**definition, "post_processor": None, "truncation": None, "padding": None}  # a text, whole
            self._tokenizer = Tokenizer.from_str(json.dumps(alone))
            self._tokenizer.encode_special_tokens = True  # those in a text are ordinary text
            for text in LONG:
                with suppress(Exception):  # a sign that it has no id for
                    self._tokenizer.encode(text, add_special_tokens=False)
        added = self._tokenizer.get_added_tokens_decoder()
        texts = {i: piece for piece, i in self._tokenizer.get_vocab(with_added_tokens=False).items()}
        texts |= {i: token.content for i, token in added.items()}
        if not texts or max(texts) >= MOST_IDS:
            raise ValueError(f"its ids must be 0 .. {MOST_IDS - 1:,}, and at least one")
        self.pieces = {i: reads.bytes_of(text) for i, text in texts.items()}
        self.special = {i for i, token in added.items() if token.special}
        self.start, self.end = reads.start, reads.end

    def encode(self, text: str) -> list[int]:
        """The ids of a text, and of nothing around it."""
        with _in_python():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


@contextmanager
def _in_python() -> Iterator[None]:
    """Let what Rust refuses be a ValueError; where it panics, that is no Exception."""
    try:
        yield
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise ValueError(" ".join(str(error).split())[:200]) from error
        raise


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep off the terminal the lines that Rust writes before it panics."""
    usual, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(usual, 2)
        os.close(usual)
        os.close(nothing)


class Reader(NamedTuple):
    """What a decoder does: the bytes of a piece, and what it takes off the start and the end of a whole text."""

    bytes_of: Callable[[str], bytes]
    start: bytes
    end: bytes


def byte_of_sign() -> dict[str, int]:
    """The printable sign that byte-level vocabularies write for each byte, turned round: GPT-2's convention."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


SIGNS = byte_of_sign()


def reader(decoder: Mapping[str, Any] | None) -> Reader:
    """How pieces become text; a ValueError for a decoder whose pieces have no bytes of their own, such as CTC.

    Without a decoder, pieces stand with blanks between them.
    """
    steps = [(_STEPS[kind](step)) for kind, step in _flat(decoder)] if decoder else [_word]
    kinds = [kind for kind, _ in _flat(decoder)] if decoder else []
    edges = [step for kind, step in _flat(decoder) if kind == "Strip"] if decoder else []
    if any(step[side] not in range(MOST_STRIPPED + 1) for step in edges for side in ("start", "stop")):
        raise ValueError(f"its decoder takes more than {MOST_STRIPPED} signs off a text")
    blank = not decoder or "WordPiece" in kinds or any(_puts_blank(step) for step in _all(decoder, "Metaspace"))
    start = "".join(step["content"] * step["start"] for step in edges) or " " * blank
    end = "".join(step["content"] * step["stop"] for step in edges) or " " * ("BPEDecoder" in kinds)

    def bytes_of(piece: str) -> bytes:
        for step in steps:
            result = step(piece)
            if isinstance(result, bytes):
                return result
            piece = result
        return piece.encode()

    return Reader(bytes_of, start.encode(), end.encode())


Step = Callable[[str], str | bytes]


def _flat(decoder: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = decoder["type"]
    if kind == "Sequence" and depth < MOST_DEPTH:
        for inner in decoder["decoders"]:
            yield from _flat(inner, depth + 1)
    elif kind in _STEPS:
        yield kind, decoder
    else:
        raise ValueError(f"its decoder ({kind}) is not among {', '.join(_STEPS)}")


def _all(decoder: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [step for name, step in _flat(decoder) if name == kind]


def _puts_blank(metaspace: Mapping[str, Any]) -> bool:
    scheme = metaspace.get("prepend_scheme")
    return bool(metaspace.get("add_prefix_space", True)) if scheme is None else scheme != "never"


def _word(piece: str) -> str:
    return f" {piece}"


def _byte_level(_: Mapping[str, Any]) -> Step:
    def step(piece: str) -> bytes:
        return bytes([SIGNS[sign] for sign in piece]) if SIGNS.keys() >= set(piece) else piece.encode()

    return step


def _byte_fallback(_: Mapping[str, Any]) -> Step:
    return lambda piece: bytes([int(byte[1], 16)]) if (byte := BYTE.fullmatch(piece)) else piece


def _replace(settings: Mapping[str, Any]) -> Step:
    if "String" not in settings["pattern"]:
        raise ValueError("its decoder replaces by a regular expression, so that pieces have no bytes of their own")
    old, new = settings["pattern"]["String"], settings["content"]
    return lambda piece: piece.replace(old, new)


def _metaspace(settings: Mapping[str, Any]) -> Step:
    sign = settings["replacement"]
    return lambda piece: piece.replace(sign, " ")


def _word_piece(settings: Mapping[str, Any]) -> Step:
    prefix = settings["prefix"]
    return lambda piece: piece.removeprefix(prefix) if piece.startswith(prefix) else f" {piece}"


def _word_end(settings: Mapping[str, Any]) -> Step:
    suffix = settings["suffix"]
    return lambda piece: piece.replace(suffix, " ")


def _nothing(_: Mapping[str, Any]) -> Step:  # what concerns a whole text, not a piece
    return lambda piece: piece


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], Step]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Replace": _replace,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "BPEDecoder": _word_end,
    "Fuse": _nothing,
    "Strip": _nothing,
}
