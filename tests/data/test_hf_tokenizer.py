"""Tokenizers of other people's models: their ids, their bytes, what stands around a text, and what is refused."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.hf_folders import MAKES, TEXT, byte_level, llama_3, metaspace, word_piece, write_folder

import attnlab.generation
import attnlab.runs
from attnlab.cli import main
from attnlab.data.batches import load_splits
from attnlab.data.corpus import Corpus
from attnlab.data.hf_backend import MOST_IDS, byte_of_sign, reader
from attnlab.data.hf_files import load_hf_tokenizer
from attnlab.data.hf_tokenizer import HFTokenizer
from attnlab.data.stored_tokenizers import from_json
from attnlab.data.vocabularies import HuggingFace
from attnlab.errors import UsageError
from attnlab.inspection.maps import check_prompt

STRINGS = (
    *("", " ", "Your journey", " a goat  sat", "don't stop!\n\nThe café\t", "\r\n 日本 \U0001f98a", "e\u0301 \ufb01²"),
    *("<s> </s><|endoftext|>", "<|begin_of_text|>x", "[CLS] a", "a" * 300, "<0x41>", "▁a ▁"),
)
LOSSLESS = ("byte_level", "llama_3", "metaspace")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("tokenizers")
    return {name: write_folder(home / name, make()) for name, make in MAKES.items()}


@pytest.fixture(scope="module")
def ours(folders: dict[str, Path]) -> dict[str, HFTokenizer]:
    return {name: load_hf_tokenizer(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", MAKES)
def test_ids_are_theirs(name: str, folders: dict[str, Path], ours: dict[str, HFTokenizer]) -> None:
    """Ids of texts and of prompts are those of AutoTokenizer, and so are texts of ids."""
    from transformers import AutoTokenizer

    theirs, tokenizer = AutoTokenizer.from_pretrained(folders[name]), ours[name]
    for text in STRINGS:
        ids = tokenizer.encode(text)
        assert ids == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        prompt = tokenizer.encode_prompt(text)
        assert prompt == theirs(text, split_special_tokens=True).input_ids[: len(prompt)]
        if name != "word_piece":  # whose decoder takes blanks from before signs, too
            assert tokenizer.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("name", LOSSLESS)
def test_bytes_spell_the_text(name: str, ours: dict[str, HFTokenizer]) -> None:
    """Where nothing is lost, the bytes of the ids are those of the text, after a blank that some put before it."""
    tokenizer = ours[name]
    assert tokenizer.losses == (("the sign ▁",) if name == "metaspace" else ())
    for text in STRINGS[:-1]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode_bytes(ids) == text.encode()
        spelled = b"".join(map(tokenizer.token_bytes, ids))
        assert spelled == (b" " if name == "metaspace" and text else b"") + text.encode()


def test_losses(ours: dict[str, HFTokenizer]) -> None:
    """What a tokenizer changes is said in words, and only that."""
    assert {"upper case", "letters with accents", "line breaks", "several blanks"} <= {*ours["word_piece"].losses}
    assert "upper case" in ours["words"].losses and "letters with accents" not in ours["unigram"].losses
    tokenizer = byte_level()
    tokenizer.pre_tokenizer.add_prefix_space = True
    blank = HFTokenizer("hf", json.loads(tokenizer.to_str()))
    assert blank.losses == ("the start of a text: it begins with a blank",)


@pytest.mark.parametrize("name", MAKES)
def test_saved(name: str, ours: dict[str, HFTokenizer]) -> None:
    """A run's file holds all of it; what is changed there is noticed."""
    tokenizer = ours[name]
    again = from_json(tokenizer.to_json(), "here")
    assert isinstance(again, HFTokenizer) and again.sha256 == tokenizer.sha256
    assert (again.tokens, again.bos, again.eos) == (tokenizer.tokens, tokenizer.bos, tokenizer.eos)
    assert [again.encode(text) for text in STRINGS] == [tokenizer.encode(text) for text in STRINGS]
    with pytest.raises(UsageError, match="here is damaged"):
        from_json(json.dumps(json.loads(tokenizer.to_json()) | {"bos": [3]}), "here")
    with pytest.raises(UsageError, match="here is not a tokenizer that attnlab wrote"):
        from_json(json.dumps(json.loads(tokenizer.to_json()) | {"n_vocab": 10**12}), "here")


def test_padded(folders: dict[str, Path], ours: dict[str, HFTokenizer]) -> None:
    """An embedding may have more rows than there are ids: those stand for nothing; it may not have fewer."""
    padded, tokenizer = load_hf_tokenizer(folders["llama_3"], 320), ours["llama_3"]
    assert padded.n_vocab == 320 and padded.token_bytes(319) == b"" and padded.labels([319]) == ["(none)"]
    assert padded.encode(TEXT) == tokenizer.encode(TEXT) and padded.sha256 != tokenizer.sha256
    assert load_hf_tokenizer(folders["llama_3"], 301).encode(TEXT) == padded.encode(TEXT)  # a special one is left out
    with pytest.raises(UsageError, match=r"^hf \(.*\): its tokenizer\.json cannot be used .* up to 299, .* has 299\)$"):
        load_hf_tokenizer(folders["llama_3"], 299, key="hf")


END = {"eos_token_id": 7}


@pytest.mark.parametrize(
    ("settings", "files", "bos", "eos"),
    [
        ({}, {}, (300,), ()),
        ({"add_bos_token": False, "bos_token": "<|begin_of_text|>"}, {}, (), ()),
        ({"add_bos_token": True, "bos_token": {"content": "<|eot_id|>"}}, {}, (301,), ()),
        ({"add_bos_token": True}, {"config": {"bos_token_id": 9}}, (9,), ()),
        ({"eos_token": "<|eot_id|>"}, {}, (300,), (301,)),
        ({"eos_token": "<|eot_id|>"}, {"config": END}, (300,), (7,)),
        ({}, {"config": END, "generation_config": {"eos_token_id": [0, 301, 9999]}}, (300,), (0, 301)),
    ],
)
def test_around_a_text(
    settings: dict[str, Any], files: dict[str, Any], bos: tuple[int, ...], eos: tuple[int, ...], tmp_path: Path
) -> None:
    """What stands before a prompt and what ends a text, by the files that say so, the nearest first."""
    tokenizer = load_hf_tokenizer(write_folder(tmp_path, llama_3(), settings, **files))
    assert (tokenizer.bos, tokenizer.eos) == (bos, eos)
    assert tokenizer.encode_prompt("a") == [*bos, *tokenizer.encode("a")]


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_vocabulary_and_merges(name: str, tmp_path: Path) -> None:
    """The older pair of files gives the ids of the class that they belong to."""
    import transformers

    model = json.loads(byte_level().to_str())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    added = {"300": {"content": "<|im_end|>", "special": True}}
    settings = {"tokenizer_class": name, "eos_token": "<|endoftext|>", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_hf_tokenizer(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    for text in (*STRINGS, "I'LL 12345", "a\u0301"):
        assert tokenizer.encode(text) == theirs(text, split_special_tokens=True).input_ids
    assert tokenizer.n_vocab == 301 and tokenizer.eos == (0,) and tokenizer.decode([300]) == "<|im_end|>"
    assert (name == "Qwen2Tokenizer") == bool(tokenizer.losses)  # which puts accents and letters together


def definition(**changes: Any) -> str:
    return json.dumps(json.loads(byte_level().to_str()) | changes)


REGEX = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
HOSTILE = {
    "not JSON": ("{", "its tokenizer.json cannot be read"),
    "a list": ("[]", "must hold settings by name"),
    "deep": ('{"model":' + "[" * 100_000 + "]" * 100_000 + "}", "cannot be read"),
    "deep enough for Rust": ('{"model":' + "[" * 300 + "]" * 300 + "}", "cannot be used"),
    "no model": (definition(model={}), "cannot be used"),
    "a model that is none": (definition(model=[3]), "cannot be used"),
    "an id beyond reason": (definition(model={"type": "WordLevel", "vocab": {"a": MOST_IDS}, "unk_token": "a"}), "ids"),
    "no ids": (definition(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]), "cannot be used"),
    "merges at random": (definition(model={"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []}), "random"),
    "a pattern without end": (definition(pre_tokenizer=REGEX), "cannot be used"),
    "a pattern that is none": (definition(pre_tokenizer=REGEX | {"pattern": {"Regex": "("}}), "cannot be used"),
    "a map that makes Rust panic": (
        definition(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "cannot be used",
    ),
    "a decoder of sounds": (definition(decoder={"type": "CTC", "pad_token": "<pad>", "cleanup": True}), "(CTC)"),
    "a template of nothing": (
        definition(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q"}}]}),
        "cannot be used",
    ),
    "an attnlab run": (json.dumps({"kind": "bytes"}), "is a run of attnlab"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no tokenizer, or would do harm as one, is refused in one line, and Rust says nothing besides."""
    text, reason = HOSTILE[name]
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UsageError) as error:
        load_hf_tokenizer(tmp_path)
    message = str(error.value)
    assert message.startswith(f"tokenizer.path ({tmp_path})") and reason in message and "\n" not in message
    assert capfd.readouterr().err == ""


STRIP = {"type": "Strip", "content": " ", "start": 10**12, "stop": 0}
NO_RUNS = (
    *({"n_vocab": n} for n in (-1, "7", True, None, 2.5, 10**12)),
    *({"bos": bos} for bos in (["x"], 3, None, [-1], [10**30])),
    *({"definition": content} for content in (None, [], {}, {"model": 3})),
    *({"definition": json.loads(definition(decoder=decoder))} for decoder in (3, {"type": ["x"]}, STRIP)),
    *({"tokens": []}, {"more": 1}),
)


@pytest.mark.parametrize("changes", NO_RUNS, ids=range(len(NO_RUNS)))
def test_file_of_a_stranger(changes: dict[str, Any], ours: dict[str, HFTokenizer]) -> None:
    """A run's file that was changed anyhow is refused in one line."""
    content = {**json.loads(ours["llama_3"].to_json()), **changes}
    with pytest.raises(UsageError, match=r"^here is (not a tokenizer that attnlab wrote|damaged)") as error:
        from_json(json.dumps(content), "here")
    assert "\n" not in str(error.value)


def test_no_tokenizer(tmp_path: Path) -> None:
    """A folder without one is refused with what to do, and so is a file that is too large."""
    with pytest.raises(UsageError, match=r"^tokenizer\.path \(.*\) has no tokenizer\.json, nor vocab\.json and merges"):
        load_hf_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(UsageError, match=r"has tokenizer\.model, but no tokenizer\.json: AutoTokenizer"):
        load_hf_tokenizer(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        load_hf_tokenizer(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"^tokenizer=hf needs a folder"):
        HuggingFace()
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(100 << 20)
    with pytest.raises(UsageError, match=r"its tokenizer\.json cannot be read \(larger than 67,108,864 bytes\)$"):
        load_hf_tokenizer(tmp_path)


@pytest.mark.parametrize("make", [metaspace, word_piece])
def test_bits_per_byte(make: Any, tmp_path: Path) -> None:
    """They are of all bytes of the text, and there are none where the ids do not spell it."""
    corpus = Corpus("mine", TEXT.encode(), b"Your journey starts.", "0" * 64)
    tokenizer = HuggingFace(str(write_folder(tmp_path, make()))).build(corpus, tmp_path)
    splits = load_splits(corpus, tokenizer, tmp_path)
    assert splits.scored_bytes == (len(" journey starts.") if make is metaspace else None)
    assert np.array_equal(splits.val, tokenizer.encode("Your journey starts."))


def test_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Writing begins after the token that begins texts, and ends where the model ends its own."""
    tokenizer = HFTokenizer("hf", json.loads(llama_3().to_str()), bos=[300], eos=[301])
    prompts: list[list[int]] = []

    def written(model: Any, rows: torch.Tensor, **settings: Any) -> Iterator[list[int]]:
        prompts.extend(rows.tolist())
        yield from ([token] for token in (*tokenizer.encode(" one step"), 301, *tokenizer.encode(" more")))

    (tmp_path / "config.yaml").touch()
    monkeypatch.setattr(attnlab.runs, "load", lambda run, **_: (None, tokenizer))
    monkeypatch.setattr(attnlab.generation, "generate_batch", written)
    monkeypatch.setattr(sys, "argv", ["attnlab", "generate", f"run={tmp_path}", "prompt=Your"])
    main()
    assert capsys.readouterr().out == "Your one step\n" and prompts == [tokenizer.encode_prompt("Your")]
    ids, labels = check_prompt("Your", tokenizer, 8)
    assert ids[0] == 300 and labels[0].startswith("<|begin")


def test_reader() -> None:
    """Pieces become bytes by the decoder: bytes by their signs or numbers, blanks where words begin."""
    assert len(byte_of_sign()) == 256 and byte_of_sign()["Ġ"] == 0x20
    cases = [
        ({"type": "ByteLevel"}, "Ġa", b" a"),
        ({"type": "ByteLevel"}, "two words", b"two words"),  # an added token
        ({"type": "ByteFallback"}, "<0x0A>", b"\n"),
        ({"type": "ByteFallback"}, "<0x0A>a", b"<0x0A>a"),
        ({"type": "Metaspace", "replacement": "▁"}, "▁a", b" a"),
        ({"type": "WordPiece", "prefix": "##"}, "##ing", b"ing"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "a</w>", b"a "),
        (None, "a", b" a"),
    ]
    for decoder, piece, expected in cases:
        assert reader(decoder).bytes_of(piece) == expected
    nested: dict[str, Any] = {"type": "Fuse"}
    for _ in range(20):
        nested = {"type": "Sequence", "decoders": [nested]}
    with pytest.raises(ValueError, match="Sequence"):
        reader(nested)
