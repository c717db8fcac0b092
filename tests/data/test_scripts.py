"""Texts in the scripts of the world, with every tokenizer: read, cut, tokenised, trained on and written again."""

import codecs
from pathlib import Path

import numpy as np
import pytest
from tests.training.launch import TINY, folder_of

from attnlab.cli import main
from attnlab.config.compose import compose_config
from attnlab.data.corpus import CHAPTER_SENTENCE, Corpus
from attnlab.data.dataset import Dataset
from attnlab.data.load import load_dataset
from attnlab.data.text_files import File
from attnlab.data.tokenizers import RankTokenizer, Tokenizer
from attnlab.data.vocabularies import BPE, PATTERN, Bytes, Characters, Vocabulary, train_bpe
from attnlab.errors import UsageError
from attnlab.inspection.maps import check_probe
from attnlab.inspection.records import load_maps
from attnlab.training.run import run

TOKENIZERS: dict[str, Vocabulary] = {"char": Characters(), "byte": Bytes(), "bpe": BPE()}
LINES = {
    "arabic": "السطر {i}: تمشي القافلة {j} خطوة كل يوم.\n",
    "thai": "บรรทัด{i}เด็กเดินไปตลาด{j}ก้าวแล้วกลับบ้าน\n",
    "chinese": "第{i}行孩子走了{j}步然后回家吃饭。",
    "devanagari": "पंक्ति {i}: बच्चा {j} कदम चलता है।\n",
    "hebrew": "שורה {i}: הילד הולך {j} צעדים.\n",
    "emoji": "{i} 👩\u200d👩\u200d👧 👍🏽 🇩🇪🇫🇷 ❤️\u200d🔥 {j}\n",
    "marks": "{i} e\u0301a\u0300\u0302 o\u0308\u0304 n\u0303 {j} \u0301\n",
    "crlf": "Line {i} goes on for {j} steps.\r\n",
    "bom": "Line {i} goes on for {j} steps.\n",
    "long_lines": "one after another they walk {i} and {j} steps without a stop " * 40 + "\n",
    "one_line": "step {i} of {j}; ",
    "code": "def f_{i}(x):\n\treturn {{'k': [x ** {j}, -x]}}  # {i}\n\n",
}


def write_script(folder: Path, name: str) -> Path:
    """A text of a few kilobytes in one script."""
    text = "".join(LINES[name].format(i=i, j=(i * 37) % 101) for i in range(8 if name == "long_lines" else 120))
    path = folder / "text.txt"
    path.write_bytes(codecs.BOM_UTF8 * (name == "bom") + text.encode())
    return path


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("script", LINES)
def test_script_round_trip(script: str, kind: str, tmp_path: Path) -> None:
    """Token ids give back the text to the byte, and the default probe consists of the text's own words."""
    path = write_script(tmp_path, script)
    tokenizer, dataset = load_dataset(File(str(path)), TOKENIZERS[kind], tmp_path)
    text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    assert tokenizer.decode_bytes(dataset.train) + tokenizer.decode_bytes(dataset.val) == text  # type: ignore[attr-defined]
    again, _ = load_dataset(File(str(path)), TOKENIZERS[kind], tmp_path)  # from the cache
    assert again.sha256 == tokenizer.sha256
    probe = dataset.probe(tokenizer, 32)
    assert probe in text.decode() and 1 <= len(check_probe("probe", probe, tokenizer, 32).ids) <= 32
    assert all(label.isprintable() for label in tokenizer.labels(tokenizer.encode(probe)))


def _check_run(folder: Path, script: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_script(folder, script)
    words = [*TINY, f"tokenizer={kind}", "trainer.max_steps=4", f"data.path={path}"]
    places = [f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    summary = run(compose_config([*words, *places]), variant="multi_head")
    assert summary["status"] == "finished"
    done = folder_of(folder)
    (sentence,) = load_maps(done / "maps" / "last.safetensors").sentences
    assert sentence.text in path.read_bytes().decode() and sentence.layers[0].weights is not None
    capsys.readouterr()
    prompt = sentence.text[:3]
    main(["generate", f"run={done}", f"prompt={prompt}", "tokens=8"])
    assert capsys.readouterr().out.startswith(prompt)


@pytest.mark.parametrize(("script", "kind"), [("thai", "char"), ("emoji", "byte"), ("chinese", "bpe")])
def test_script_run(script: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run on the text trains, takes maps of the text's own words, and writes on from them."""
    _check_run(tmp_path, script, kind, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("script", LINES)
def test_script_run_all(script: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every script with every tokenizer."""
    _check_run(tmp_path, script, kind, capsys)


def test_bom_is_no_text() -> None:
    """With a byte-order mark or without, a text is the same corpus; UTF-16 is refused by its name."""
    plain = Corpus.from_bytes("x", b"some text of some length", 0.2, source="X")
    assert Corpus.from_bytes("x", codecs.BOM_UTF8 + b"some text of some length", 0.2, source="X") == plain
    with pytest.raises(UsageError, match=r"^X is UTF-16 or UTF-32 by its byte-order mark: convert the file to UTF-8$"):
        Corpus.from_bytes("x", "a text".encode("utf-16"), 0.2, source="X")


def _dataset(text: str, folder: Path, probe: str | None) -> tuple[Tokenizer, Dataset]:
    from attnlab.data.batches import load_splits

    corpus = Corpus.from_bytes("x", text.encode(), 0.5, source="X", probe=probe)
    tokenizer = Characters().build(corpus, folder)
    return tokenizer, load_splits(corpus, tokenizer, folder)


def test_probe_of_corpus(tmp_path: Path) -> None:
    """A corpus may bring a sentence; where the tokenizer cannot write it, the validation text is looked at."""
    tokenizer, dataset = _dataset("Your journey starts with one step. " * 20, tmp_path, CHAPTER_SENTENCE)
    assert dataset.probe(tokenizer, 256) == CHAPTER_SENTENCE
    tokenizer, dataset = _dataset("אבגד הוזח " * 40, tmp_path, CHAPTER_SENTENCE)
    assert set(dataset.probe(tokenizer, 256)) <= set("אבגדהוזח ") and len(dataset.probe(tokenizer, 256)) == 32


@pytest.mark.parametrize("unit", ["字", "a", "!", " ", "\n", "\u0301", "👩"])
def test_bpe_pieces_bounded(unit: str) -> None:
    """No piece of a text grows with it, so the time to learn merges grows with the text and not with its square."""
    import re

    import regex  # type: ignore[import-untyped]

    pieces = regex.findall(PATTERN, unit * 5000)
    assert "".join(pieces) == unit * 5000 and max(map(len, pieces)) <= 60
    unbounded = re.sub(r"\{1,24\}", "+", PATTERN)
    assert max(map(len, regex.findall(unbounded, unit * 5000))) >= 5000  # what this test would catch
    tokens = train_bpe(unit * 5000, 300)
    tokenizer = RankTokenizer("bpe", tokens, pattern=PATTERN)
    assert tokenizer.decode(tokenizer.encode(unit * 5000)) == unit * 5000


def test_decode_many_ids() -> None:
    """Many ids are gathered at once, to the same bytes as one by one; tokens may be empty or long."""
    tokenizer = RankTokenizer("bpe", train_bpe("some words, some more words, some signs. " * 50, 320), pattern=PATTERN)
    ids = np.random.default_rng(0).integers(tokenizer.n_vocab, size=5000)
    assert tokenizer.decode_bytes(ids) == b"".join(tokenizer.tokens[i] for i in ids)
