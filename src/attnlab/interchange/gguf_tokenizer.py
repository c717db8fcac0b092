"""The tokenizer in the metadata of a GGUF file, as a tokenizer.json would say it, and back."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.data.hf_export import to_hf
from attnlab.data.hf_files import QWEN2
from attnlab.data.hf_tokenizer import HFTokenizer
from attnlab.data.tokenizers import ByteTokenizer, Tokenizer
from attnlab.errors import UsageError
from attnlab.store.names import TOKENIZER

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens, as llama.cpp numbers them
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, {**BYTES, "use_regex": False}]}


DIGITS = {"type": "Digits", "individual_digits": True}
# How texts are cut, by llama.cpp's names: what stands in a tokenizer.json for it.
CUTS: Mapping[str, dict[str, Any]] = {
    "gpt-2": {"pre_tokenizer": BYTES},
    "smollm": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}},
    "llama-bpe": {"pre_tokenizer": _split(LLAMA3), "model": {"ignore_merges": True}},
    "qwen2": {"pre_tokenizer": _split(QWEN2), "normalizer": {"type": "NFC"}},
}
SPACE = "\u2581"


def read_tokenizer(about: Mapping[str, Any], n_vocab: int, source: str) -> HFTokenizer:
    """The tokenizer that the metadata `tokenizer.ggml.*` (without that prefix) describe, with `n_vocab` ids.

    Raises UsageError for a kind or a way of cutting that is not known.
    """
    try:
        kind, tokens = about["model"], about["tokens"]
        types: Sequence[int] = about.get("token_type") or [NORMAL] * len(tokens)
        definition = {"gpt2": _byte_level, "llama": _by_scores}[kind](about, tokens)
    except KeyError as error:
        raise UsageError(f"{source}: its tokenizer ({about.get('model')}) lacks or is not {error.args[0]!r}") from error
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    definition["added_tokens"] = [
        {"id": i, "content": token, **flags, "special": type_ != USER_DEFINED}
        for i, (token, type_) in enumerate(zip(tokens, types, strict=True))
        if type_ in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    adds_bos = about.get("add_bos_token", kind == "llama")
    bos = [about["bos_token_id"]] if adds_bos and "bos_token_id" in about else []
    eos = {about[key] for key in ("eos_token_id", "eot_token_id") if key in about}
    try:
        return HFTokenizer("gguf", definition, n_vocab=n_vocab, bos=bos, eos=sorted(eos))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"{source}: its tokenizer cannot be used ({reason})") from error


def _byte_level(about: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """Byte-pair encoding with its merges."""
    cut = CUTS[about.get("pre", "gpt-2")]
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, **cut.get("model", {})}
    model["merges"] = [merge.split(" ") for merge in about["merges"]]
    return {"version": "1.0", "normalizer": None, "decoder": BYTES, **cut, "model": model}


def _by_scores(about: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any]:
    """SentencePiece's BPE: of two neighbours that make a token, those whose token has the highest score join first."""
    ids, scores = {token: i for i, token in enumerate(tokens)}, about["scores"]
    pairs = [(t[:i], t[i:]) for t in tokens for i in range(1, len(t)) if t[:i] in ids and t[i:] in ids]
    pairs.sort(key=lambda pair: (-scores[ids["".join(pair)]], ids[pair[0]], ids[pair[1]]))
    unknown = tokens[about.get("unknown_token_id", 0)]
    model = {
        "type": "BPE",
        "vocab": ids,
        "merges": [list(pair) for pair in pairs],
        "unk_token": unknown,
        "byte_fallback": True,
        "fuse_unk": True,
    }
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    before = [{"type": "Prepend", "prepend": SPACE}] if about.get("add_space_prefix", True) else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if before else []
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": [*before, blanks]},
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": model,
    }


def write_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The metadata that `read_tokenizer` makes the same tokenizer of; refused by name for one that llama.cpp has no
    words for."""
    refusal = UsageError(f"to=gguf: llama.cpp knows no tokenizer like this one ({tokenizer.name})")
    if not isinstance(tokenizer, HFTokenizer | ByteTokenizer):
        raise refusal
    definition = json.loads(to_hf(tokenizer)[TOKENIZER])
    if definition["model"].get("type") != "BPE":
        raise refusal
    model, added = definition["model"], {token["id"]: token for token in definition["added_tokens"] or ()}
    pieces = {i: piece for piece, i in model["vocab"].items()} | {i: token["content"] for i, token in added.items()}
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", ())]
    tokens = [pieces.get(i, f"[PAD{i}]") for i in range(tokenizer.n_vocab)]
    about: dict[str, Any] = {
        "tokens": tokens,
        "token_type": [_kind(i, pieces, added, model) for i in range(tokenizer.n_vocab)],
        "add_bos_token": bool(tokenizer.bos),
        **{f"{name}_token_id": ids[0] for name, ids in (("bos", tokenizer.bos), ("eos", tokenizer.eos)) if ids},
    }
    if model.get("byte_fallback"):
        ranks: dict[str, int] = {}
        for rank, pair in enumerate(merges):
            ranks.setdefault("".join(pair), rank)
        about |= {"model": "llama", "scores": [-float(ranks.get(token, 0)) for token in tokens]}
        about["add_space_prefix"] = "Prepend" in json.dumps(definition["normalizer"])
        about["unknown_token_id"] = model["vocab"].get(model.get("unk_token"), 0)
    else:
        cut = "gpt-2" if not merges else next((name for name in CUTS if _cuts_so(definition, CUTS[name])), None)
        if cut is None:
            raise refusal
        about |= {"model": "gpt2", "pre": cut, "merges": [" ".join(pair) for pair in merges]}
    again = read_tokenizer(about, tokenizer.n_vocab, "to=gguf").definition
    if again["model"]["merges"] != merges or not _same(again["normalizer"], definition["normalizer"]):
        raise refusal
    return about


def _kind(i: int, pieces: Mapping[int, str], added: Mapping[int, Any], model: Mapping[str, Any]) -> int:
    if i not in pieces:
        return UNUSED
    if i in added:
        is_unknown = pieces[i] == model.get("unk_token")
        return UNKNOWN if is_unknown else CONTROL if added[i]["special"] else USER_DEFINED
    return BYTE if model.get("byte_fallback") and pieces[i].startswith("<0x") and len(pieces[i]) == 6 else NORMAL


def _cuts_so(definition: Mapping[str, Any], cut: Mapping[str, Any]) -> bool:
    return all(_same(definition.get(key), cut.get(key)) for key in ("pre_tokenizer", "normalizer"))


def _same(one: Any, other: Any) -> bool:
    """Whether two parts of a tokenizer.json do the same; offsets are nothing that ids depend on."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = {*one, *other} - {"trim_offsets"}
        return all(_same(one.get(key), other.get(key)) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
