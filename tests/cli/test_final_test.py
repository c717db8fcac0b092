"""The test part of a text or a task: nothing but one command sees it, and a second touch is named as such."""

import codecs
import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F

from attnlab.build import build_model
from attnlab.cli._arguments import run
from attnlab.config.compose import compose_config
from attnlab.config.keys import settings_of
from attnlab.data.batches import TokenSplits
from attnlab.data.corpus import Corpus, Source
from attnlab.data.dataset import IGNORED
from attnlab.data.load import load_dataset, reload_dataset
from attnlab.data.tasks.mqar import MQAR
from attnlab.data.text_files import File
from attnlab.data.token_files import Tokens
from attnlab.data.vocabularies import Bytes, Characters
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.manifest import Manifest
from attnlab.training.test_part import score_test

JUDGED = r"(?m)^\S+/seed_\d+: test/loss "
TEXT = b"".join(b"%04d " % i for i in range(200))


def test_text_parts() -> None:
    """The test part is the end of the text, and neither training nor validation holds any of it."""
    corpus = Corpus.from_bytes("t", TEXT, 0.25, source="t", test_fraction=0.2)
    assert corpus.train + corpus.val + corpus.test == TEXT
    assert (len(corpus.train), len(corpus.val), len(corpus.test)) == (600, 200, 200)
    tested = corpus.tested()
    assert (tested.train, tested.val) == (corpus.train, corpus.test) and tested.key != corpus.key
    assert tested.sha256 == corpus.sha256
    with pytest.raises(UsageError, match=r"have no test part: train them with data\.test_fraction"):
        Corpus.from_bytes("t", TEXT, 0.25, source="t").tested()


def judged(source: Source, tmp_path: Path) -> tuple[TokenSplits, TokenSplits]:
    """The ids of a text as it is trained on, and as it is tested."""
    tokenizer, usual = load_dataset(source, Bytes(), tmp_path)
    tested = reload_dataset(source, tokenizer, tmp_path, tested=True)
    assert isinstance(usual, TokenSplits) and isinstance(tested, TokenSplits)
    assert np.array_equal(tested.train, usual.train) and tested.sha256 == usual.sha256
    assert tested.val_sha256 != usual.val_sha256
    return usual, tested


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "marked.txt"])
def test_one_file(name: str, tmp_path: Path) -> None:
    """Of one file the end is held back, whatever compresses it, and cut as a text in memory is."""
    data = "".join(f"{i:04} caf\u00e9 " for i in range(200)).encode()
    corpus = Corpus.from_bytes("t", data, 0.25, source="t", test_fraction=0.2)
    written = {"a.txt": data, "a.txt.gz": gzip.compress(data), "marked.txt": codecs.BOM_UTF8 + data}
    (tmp_path / name).write_bytes(written[name])
    usual, tested = judged(File(str(tmp_path / name), 0.25, test_fraction=0.2), tmp_path)
    parts = [bytes(part.astype("u1")) for part in (usual.train, usual.val, tested.val)]
    assert parts == [corpus.train, corpus.val, corpus.test]
    assert (usual.val_sha256, tested.val_sha256) == (corpus.val_sha256, corpus.tested().val_sha256)
    assert usual.scored_bytes == len(corpus.val) - 1 and tested.scored_bytes == len(corpus.test) - 1


def test_files(tmp_path: Path) -> None:
    """Of several documents each is in one part, validation is what it is without a test part, and so with data.val."""
    folder = tmp_path / "texts"
    folder.mkdir()
    documents = [f"Document {i}.\n" for i in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents[:50]))
    for i in range(50, 60):
        (folder / f"{i}.txt").write_text(documents[i])
    (tmp_path / "val.txt").write_text("Elsewhere.")

    def lines_of(ids: np.ndarray) -> list[str]:
        return sorted(re.findall(r".*\n", bytes(ids.astype("u1")).decode()))

    plain = load_dataset(File(str(folder), 0.2), Bytes(), tmp_path)[1]
    usual, tested = judged(File(str(folder), 0.2, test_fraction=0.2), tmp_path)
    assert isinstance(plain, TokenSplits)
    parts = [lines_of(part) for part in (usual.train, usual.val, tested.val)]
    assert sorted(itertools.chain(*parts)) == sorted(documents) and 4 < len(parts[2]) < 24
    assert parts[1] == lines_of(plain.val) and plain.sha256 == usual.sha256
    text = File(str(folder), 0.2, test_fraction=0.2).load()
    assert text.n_train_bytes == sum(map(len, parts[0]))
    named, its_test = judged(File(str(folder), 0.2, str(tmp_path / "val.txt"), test_fraction=0.2), tmp_path)
    assert bytes(named.val.astype("u1")) == b"Elsewhere." and lines_of(its_test.val) == parts[2]
    assert lines_of(named.train) == sorted(parts[0] + parts[1])


def test_tokens(tmp_path: Path) -> None:
    """The last ids, from the end of a document on where that is known."""
    ids = np.random.default_rng(0).integers(0, 200, 5000).astype("<u2")
    ids.tofile(tmp_path / "all.bin")
    usual, tested = judged(Tokens(str(tmp_path / "all.bin"), test_fraction=0.1), tmp_path)
    assert [len(part) for part in (usual.train, usual.val, tested.val)] == [4050, 450, 500]
    assert np.array_equal(np.concatenate([usual.train, usual.val, tested.val]), ids)
    usual, tested = judged(Tokens(str(tmp_path / "all.bin"), eot=7, test_fraction=0.1), tmp_path)
    assert usual.train[-1] == usual.val[-1] == 7 and tested.val_ends is not None and len(tested.val) <= 500
    with pytest.raises(UsageError, match=r"leaves too little: of 5000 tokens .* 1 for test"):
        Tokens(str(tmp_path / "all.bin"), test_fraction=0.0001).load()


def test_characters_of_the_test_part(tmp_path: Path) -> None:
    """A sign that stands there alone has an id, as one of the validation part has."""
    (tmp_path / "a.txt").write_text("abc" * 30 + "z" * 10)
    tokenizer, _ = load_dataset(File(str(tmp_path / "a.txt"), test_fraction=0.1), Characters(), tmp_path)
    assert tokenizer.encode("z")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("abc", {"test_fraction": 0.1}, r"too small: of its 3 bytes, .* and data\.test_fraction \(0\.1\) leave"),
        ("some text", {"val_fraction": 0.5, "test_fraction": 0.5}, r"must leave something to train on"),
        ("some text and some more", {}, "have no test part: train them with data.test_fraction"),
    ],
)
def test_no_test_part(content: str, settings: dict[str, float], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        File(str(path), **settings).load().tested()
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    with pytest.raises(UsageError, match=r"holds too few documents \(2\) to hold any back"):
        File(str(tmp_path / "b.jsonl"), test_fraction=0.1).load()
    with pytest.raises(UsageError, match=r"holds too few documents \(1\) to hold any back"):
        File(str(path), val=str(tmp_path / "b.jsonl"), test_fraction=0.1).load()


def test_task_stream() -> None:
    """The rows of the third stream are none of training and none of validation; those of both stay what they were."""
    task = MQAR(n_vocab=64, n_pairs=4, val_rows=256)
    rows = np.arange(256)
    tested, val = (each.val_batch(rows, context=32).ids for each in (task.tested(), task))
    train = task.train_batch(seed=0, step=0, batch_size=4096, context=32).ids
    sets = [{tuple(row) for row in each.tolist()} for each in (tested, val, train)]
    assert not sets[0] & sets[1] and not sets[0] & sets[2] and len(sets[0]) == 256
    assert task.val_batch(rows, context=32).ids.equal(val)
    assert task.tested().sha256 == task.sha256


def test_identity() -> None:
    """A text without a test part is the run that it was before there were any."""
    usual, held_back = compose_config(), compose_config(["data.test_fraction=0.1"])
    assert "data.test_fraction" not in settings_of(usual.as_dict(), besides=())
    assert settings_of(held_back.as_dict(), besides=())["data.test_fraction"] == 0.1


def test_touches(tmp_path: Path) -> None:
    """The same runs are one touch, however often they are asked for; another run is another."""
    manifest = Manifest(tmp_path / "manifest.json")
    assert len(manifest.count_touch(["a/seed_0", "b/seed_0"], "noon")) == 1
    assert len(manifest.count_touch(["b/seed_0"], "one")) == 1
    touches = manifest.count_touch(["a/seed_0", "a/seed_1"], "two")
    assert [touch["at"] for touch in touches] == ["noon", "two"] == [t["at"] for t in manifest.touches()]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metric \(val/loss\) must be test/loss or test/accuracy"):
        run("final_test", [f"experiment={tmp_path}", "metric=val/loss"])
    with pytest.raises(UsageError, match="there is no such folder"):
        run("final_test", [f"experiment={tmp_path / 'none'}"])


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    """Runs are judged by it, a report says how often it was touched, and the second time is a warning."""
    tiny = ["model=tiny", "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.context=16", "batch_size=2"]
    tiny += ["trainer.max_steps=4", "tokenizer=byte", "sample.steps=0", "maps.steps=0", "logger=[]"]
    tiny += [f"paths.cache={tmp_path / 'cache'}", f"paths.runs={tmp_path / 'runs'}", "experiment_name=e"]
    start = [sys.executable, "-c", "from attnlab.cli import main; main()"]
    folder = tmp_path / "runs" / "e"

    def typed(*words: str) -> str:
        done = subprocess.run([*start, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sweep = ["train", "-m", *tiny, "attention=multi_head,linear", "data.test_fraction=0.1"]
    typed(*sweep, "seed=0,1")
    first = typed("final_test", f"experiment={folder}")
    assert len(re.findall(JUDGED, first)) == 4 and "warning" not in first
    assert "exploratory: metric" not in first, "the experiment's own metric, of other rows"
    summaries = [json.loads(path.read_text()) for path in folder.glob("*/seed_*/summary.json")]
    assert len(summaries) == 4 and all(s["test"]["loss"] != s["val_loss"] for s in summaries)
    assert "touched once" in (folder / "report_of_test" / "report.md").read_text()
    assert not re.search(JUDGED, typed("final_test", f"experiment={folder}")), "nothing is judged again"
    typed(*sweep, "seed=2")
    again = typed("final_test", f"experiment={folder}")
    assert "warning: the test part is touched 2 times" in again
    assert "touched 2 times" in (folder / "report_of_test" / "report.md").read_text()


def test_score() -> None:
    """The loss and accuracy of all rows of the third stream, whatever their number in a batch."""
    model = compose_gpt()
    task = MQAR(n_vocab=16, n_pairs=2, val_rows=40).tested()
    score = score_test(model, task, 16, seed=0)
    batch = task.val_batch(np.arange(40), context=16, seed=0)
    asked = batch.targets != IGNORED
    logits = model.eval()(batch.ids).detach()[asked]
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, batch.targets[asked])), rel=1e-5)
    assert score.accuracy == float((logits.argmax(-1) == batch.targets[asked]).double().mean())


def compose_gpt() -> GPT:
    words = ["model=tiny", "model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.context=16"]
    return build_model(compose_config(words), 16)
