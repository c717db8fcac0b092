"""A tokenizer from its file: tokenizer.json of a run, whatever its kind."""

from collections.abc import Mapping
from pathlib import Path

import regex

from attnlab.data.hf_tokenizer import HFTokenizer
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer, TaskTokenizer, Tokenizer
from attnlab.errors import UsageError
from attnlab.store.files import MOST_BYTES, parse_json, read_file

KINDS: Mapping[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (RankTokenizer, CharTokenizer, ByteTokenizer, TaskTokenizer, HFTokenizer)
}


def from_json(text: str, source: str) -> Tokenizer:
    """A tokenizer as `to_json` wrote it; `source` names the file if it is damaged."""
    try:
        content = parse_json(text)
        cls, name, expected = KINDS[content.pop("kind")], content.pop("name"), content.pop("sha256")
        n_vocab = content.pop("n_vocab")
        tokenizer = cls._restore(str(name), n_vocab, content)
    except (ValueError, KeyError, TypeError, AttributeError, TimeoutError, regex.error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"{source} is not a tokenizer that attnlab wrote ({reason})") from error
    if tokenizer.sha256 != expected or tokenizer.n_vocab != n_vocab:
        raise UsageError(f"{source} is damaged: its tokens do not have the sha256 it states")
    return tokenizer


def load_tokenizer(path: Path, *, limits: bool = True) -> Tokenizer:
    """The tokenizer of a run, from its file alone; `limits` False reads a file of any size."""
    try:
        text = read_file(path, MOST_BYTES if limits else None).decode()
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist: {path.parent} is not the folder of a run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return from_json(text, str(path))
