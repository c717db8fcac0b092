"""A tokenizer as the files that Hugging Face's tools open, with the same ids for every text."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attnlab.data.hf_backend import SIGNS
from attnlab.data.hf_files import before_text
from attnlab.data.hf_tokenizer import HFTokenizer
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer, TaskTokenizer, Tokenizer
from attnlab.errors import UsageError
from attnlab.store.names import TOKENIZER

SIGN_OF = {byte: sign for sign, byte in SIGNS.items()}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
DECODER = {**BYTES, "use_regex": True}
# What Rust's regex and Oniguruma read alike, and what they do not: an end and a start of the text, a bounded
# repetition that gives nothing back, the flags m, s and x.
ATOM = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<end>\$)|(?P<start>\^)|(?P<bound>\{\d+,?\d*\})\+(?P<last>(?=[|)]|$))?")
FLAGS = re.compile(r"\(\?[a-zA-Z]*-?[a-zA-Z]*[msx]")


def to_hf(tokenizer: Tokenizer) -> dict[str, str]:
    """The text of tokenizer.json and tokenizer_config.json, by name.

    AutoTokenizer gives the ids that `tokenizer` gives, and refuses what it refuses. Raises UsageError, by name, for a
    tokenizer whose pattern cannot be said to Hugging Face's tools.
    """
    if isinstance(tokenizer, HFTokenizer):
        definition = {**tokenizer.definition, "post_processor": _template(tokenizer)}
    else:
        definition = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": list(_special(tokenizer)),
            "normalizer": None,
            "post_processor": None,
            **_parts(tokenizer),
        }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # As here, a special token within a text is ordinary text; a model that came with its own way keeps it.
        **(
            {"split_special_tokens": True}
            if isinstance(tokenizer, RankTokenizer) and definition["added_tokens"]
            else {}
        ),
        **dict(_named(tokenizer, definition)),
    }
    files = {TOKENIZER: definition, "tokenizer_config.json": settings}
    return {name: json.dumps(content, ensure_ascii=False, indent=1) + "\n" for name, content in files.items()}


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """The model of a kind of ours, and what cuts a text for it."""
    pieces = [token.decode(errors="replace") for token in tokenizer.tokens]
    by_name = {"type": "WordLevel", "vocab": {piece: i for i, piece in enumerate(pieces)}, "unk_token": ""}
    match tokenizer:
        case RankTokenizer():
            cut = {"Regex": _oniguruma(tokenizer)}
            matches = {"type": "Split", "pattern": cut, "behavior": "Removed", "invert": True}  # the rest is dropped
            cutters = [matches, {**BYTES, "use_regex": False}]
            pre_tokenizer: dict[str, Any] = {"type": "Sequence", "pretokenizers": cutters}
            return {"pre_tokenizer": pre_tokenizer, "decoder": DECODER, "model": _merges(tokenizer)}
        case ByteTokenizer():
            signs = {SIGN_OF[token[0]]: i for i, token in enumerate(tokenizer.tokens)}
            model = {"type": "BPE", "vocab": signs, "merges": []}
            return {
                "pre_tokenizer": BYTES | {"use_regex": False},
                "decoder": DECODER,
                "model": model,
            }
        case CharTokenizer():
            each = {"type": "Split", "pattern": {"Regex": "(?m:.)"}, "behavior": "Isolated", "invert": False}
            return {"pre_tokenizer": each, "decoder": {"type": "Fuse"}, "model": by_name}
        case TaskTokenizer():  # each name with the blank behind it, as it is spelled here
            blanks = {"type": "Replace", "pattern": {"Regex": r"[\s\x1c-\x1f]+|(?<=[^\s\x1c-\x1f])\z"}, "content": " "}
            ends = {"type": "Replace", "pattern": {"Regex": r"\A[\s\x1c-\x1f]+|[\s\x1c-\x1f]+\z"}, "content": ""}
            normalizer = {"type": "Sequence", "normalizers": [ends, blanks]}
            after = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
            return {"normalizer": normalizer, "pre_tokenizer": after, "decoder": {"type": "Fuse"}, "model": by_name}
    raise UsageError(f"tokenizer {tokenizer.name} ({type(tokenizer).__name__}) has no form in Hugging Face's tools")


def _merges(tokenizer: RankTokenizer) -> dict[str, Any]:
    """Byte-pair encoding whose merges give each token from every two that make it, in the order of the ranks."""
    signs = ["".join(SIGN_OF[byte] for byte in token) for token in tokenizer.tokens[: tokenizer.n_ranks]]
    ids = {token: i for i, token in enumerate(tokenizer.tokens[: tokenizer.n_ranks])}
    merges = []
    for token in ids:
        pairs = [(ids[token[:i]], ids[token[i:]]) for i in range(1, len(token)) if {token[:i], token[i:]} <= ids.keys()]
        merges += [[signs[left], signs[right]] for left, right in sorted(pairs)]
    vocab = {sign: i for i, sign in enumerate(signs)}
    return {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": True}  # a piece with an id is that id


def _oniguruma(tokenizer: RankTokenizer) -> str:
    """The pattern, which tiktoken reads by Rust's regex, in the words of the engine behind `tokenizers`."""
    otherwise = f"tokenizer {tokenizer.name} cannot be exported: Hugging Face's tools read its pattern otherwise"
    if flags := FLAGS.search(tokenizer.pattern):
        raise UsageError(f"{otherwise} ({flags[0]})")

    def translate(match: re.Match[str]) -> str:
        if match["end"] or match["start"]:
            return r"\z" if match["end"] else r"\A"
        if match["bound"] and match["last"] is None:
            raise UsageError(f"{otherwise} ({match[0]})")
        return match["bound"] or match[0]  # nothing is given back where the alternative ends

    return ATOM.sub(translate, tokenizer.pattern)


def _special(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """The ids behind the ranks, which no text produces; those that stand for nothing get a name, for none may be left
    out."""
    if isinstance(tokenizer, RankTokenizer):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for i, token in enumerate(tokenizer.tokens[tokenizer.n_ranks :], tokenizer.n_ranks):
            yield {"id": i, "content": token.decode() or f"<|unused_{i}|>", **flags, "special": True}


def _template(tokenizer: HFTokenizer) -> Mapping[str, Any] | None:
    """What puts `bos` before a text: as the tokenizer came, if that does so."""
    own = tokenizer.definition.get("post_processor")
    if tuple(before_text(own)) == tokenizer.bos:
        return own
    pieces = [tokenizer.token_bytes(i).decode(errors="replace") for i in tokenizer.bos]
    tokens = [{"SpecialToken": {"id": piece, "type_id": 0}} for piece in pieces]
    single = [*tokens, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {p: {"id": p, "ids": [i], "tokens": [p]} for p, i in zip(pieces, tokenizer.bos, strict=True)}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _named(tokenizer: Tokenizer, definition: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Which special tokens begin and end texts, where there are any."""
    special = {token["id"]: token["content"] for token in definition["added_tokens"] or () if token["special"]}
    eos = tokenizer.eos[:1]
    if isinstance(tokenizer, RankTokenizer):  # as tiktoken's encodings call it
        eos = tuple(i for i, content in special.items() if content == "<|endoftext|>")
    for name, ids in (("bos_token", tokenizer.bos[:1]), ("eos_token", eos), ("pad_token", eos)):
        if ids and ids[0] in special:
            yield name, special[ids[0]]
