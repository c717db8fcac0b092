"""The tokenizer of a folder that Hugging Face's tools wrote: its definition, and the ids around a text."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnlab.data.hf_tokenizer import HFTokenizer
from attnlab.errors import UsageError
from attnlab.store.files import parse_json, read_file
from attnlab.store.names import TOKENIZER

CONVERT = "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers writes one"
# How GPT-2's and Qwen2's own tokenizers cut a text (transformers: models/gpt2, models/qwen2), for folders that hold
# their vocabulary and merges alone. GPT-2's expression is the default of ByteLevel.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BY_MERGES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast")


def load_hf_tokenizer(folder: Path | str, n_vocab: int | None = None, *, key: str = "tokenizer.path") -> HFTokenizer:
    """The tokenizer of a folder with tokenizer.json, or vocab.json and merges.txt; `n_vocab` ids where that is given.

    `bos` is what tokenizer_config.json or the tokenizer's own template puts before a text, `eos` the end-of-text ids of
    generation_config.json, else of config.json, else of tokenizer_config.json. Ids are those that tokenizer.json says:
    where transformers 5 makes a Llama's anew by its class, a text that begins with a blank has others there. `key` is
    the setting that named the folder. Raises UsageError where there is no such tokenizer, or it has more ids than
    `n_vocab`.
    """
    folder = Path(folder)
    names = ("tokenizer_config.json", "generation_config.json", "config.json")
    settings, *configs = (_read(folder, name, key) for name in names)
    file = TOKENIZER
    try:
        if (folder / file).is_file():
            definition = _read(folder, file, key)
            if "kind" in definition:
                raise UsageError(f"{key} ({folder}) is a run of attnlab: take its tokenizer with tokenizer=run")
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            file = "vocab.json, with merges.txt,"
            definition = _by_merges(folder, settings, key)
        else:
            raise UsageError(_nothing(folder, key))
        ids = dict(_ids(definition))
        size = n_vocab or 1 + max(ids.values(), default=0)
        eos = next((_listed(c["eos_token_id"]) for c in configs if c.get("eos_token_id") is not None), None)
        if eos is None:
            eos = [ids[token] for token in [_content(settings.get("eos_token"))] if token in ids]
        bos = _bos(definition, settings, configs[1], ids)
        return HFTokenizer("hf", definition, n_vocab=n_vocab, bos=bos, eos=[i for i in eos if i < size])
    except UsageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"{key} ({folder}): its {file} cannot be used ({reason})") from error


def _read(folder: Path, name: str, key: str) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is none."""
    try:
        content = parse_json(read_file(folder / name))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UsageError(f"{key} ({folder}): its {name} cannot be read ({reason})") from error
    if not isinstance(content, dict):
        raise UsageError(f"{key} ({folder}): its {name} must hold settings by name")
    return content


def _nothing(folder: Path, key: str) -> str:
    if not folder.is_dir():
        return f"{key} ({folder}) is not a folder"
    others = sorted(path.name for path in folder.glob("*") if path.suffix == ".model" or path.name == "vocab.txt")
    has = (
        f"has {others[0]}, but no tokenizer.json" if others else "has no tokenizer.json, nor vocab.json and merges.txt"
    )
    return f"{key} ({folder}) {has}: {CONVERT}"


def _by_merges(folder: Path, settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The definition of a byte-level BPE from its vocabulary and its merges."""
    name = settings.get("tokenizer_class")
    if name not in BY_MERGES:
        raise UsageError(f"{key} ({folder}): its tokenizer_class ({name}) needs a tokenizer.json: {CONVERT}")
    vocab = _read(folder, "vocab.json", key)
    lines = read_file(folder / "merges.txt").decode().split("\n")
    merges = [line.rstrip("\r").split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    by_regex = {"type": "ByteLevel", "add_prefix_space": bool(settings.get("add_prefix_space")), "trim_offsets": True}
    is_qwen = str(name).startswith("Qwen2")
    cut = {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}
    as_bytes = {**by_regex, "use_regex": not is_qwen}
    return {
        "version": "1.0",
        "added_tokens": _added(vocab, settings, _read(folder, "added_tokens.json", key)),
        "normalizer": {"type": "NFC"} if is_qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, as_bytes]} if is_qwen else as_bytes,
        "decoder": {**by_regex, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _added(vocab: Mapping[str, int], settings: Mapping[str, Any], more: Mapping[str, int]) -> list[dict[str, Any]]:
    """The tokens that stand beside the vocabulary, in the order of their ids."""
    named = (_content(settings.get(f"{name}_token")) for name in ("bos", "eos", "unk", "pad"))
    special = {token for token in named if token is not None}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {
        **{vocab[token]: {"content": token, "special": True} for token in special if token in vocab},
        **{i: {"content": token, "special": True} for token, i in more.items()},
        **{int(i): token for i, token in (settings.get("added_tokens_decoder") or {}).items()},
    }
    return [{**flags, **token, "id": i} for i, token in sorted(added.items())]


def _ids(definition: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    vocab = definition["model"]["vocab"]
    if isinstance(vocab, Mapping):
        yield from vocab.items()
    else:
        yield from ((piece[0], i) for i, piece in enumerate(vocab))
    yield from ((token["content"], token["id"]) for token in definition.get("added_tokens") or ())


def _bos(
    definition: Mapping[str, Any], settings: Mapping[str, Any], model: Mapping[str, Any], ids: Mapping[str, int]
) -> list[int]:
    """The ids before a text. Where tokenizer_config.json says whether there is one, the template does not count."""
    if {"add_bos_token", "add_eos_token"} & settings.keys():
        if not settings.get("add_bos_token"):
            return []
        token = _content(settings.get("bos_token"))
        return [ids[token]] if token is not None and token in ids else _listed(model.get("bos_token_id"))
    return before_text(definition.get("post_processor"))


def before_text(processor: Mapping[str, Any] | None) -> list[int]:
    """The ids that the post_processor of a tokenizer.json puts before a text."""
    kind = processor["type"] if processor else None
    if processor is None or kind == "ByteLevel":
        return []
    if kind == "Sequence":
        return [i for inner in reversed(processor["processors"]) for i in before_text(inner)]
    if kind in ("BertProcessing", "RobertaProcessing"):
        return [processor["cls"][1]]
    if kind != "TemplateProcessing":
        raise ValueError(f"its post_processor ({kind}) is not understood")
    before: list[int] = []
    for piece in processor["single"]:
        if "Sequence" in piece:
            return before
        before += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return before


def _content(token: Any) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def _listed(ids: Any) -> list[int]:
    return list(ids) if isinstance(ids, list) else [] if ids is None else [ids]
