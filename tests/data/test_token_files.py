"""Token ids that others have made, and data sets saved by Hugging Face's `datasets`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.data.hub_text import HubText
from attnlab.data.load import load_dataset, reload_dataset
from attnlab.data.text_files import File
from attnlab.data.token_files import Tokens
from attnlab.data.vocabularies import BPE, Bytes, Characters, TokenIds, Vocabulary
from attnlab.errors import UsageError

IDS = np.random.default_rng(0).integers(0, 200, 5000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same ids as one .bin, and as two shards."""
    (tmp_path / "shards").mkdir()
    IDS.astype("<u2").tofile(tmp_path / "all.bin")
    np.save(tmp_path / "shards" / "0.npy", IDS[:2000].astype(np.int64))
    IDS[2000:].astype("<u2").tofile(tmp_path / "shards" / "1.bin")
    return tmp_path


def refusal(source: Any, vocabulary: Vocabulary, cache: Path) -> str:
    with pytest.raises(UsageError) as error:
        load_dataset(source(), vocabulary, cache)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["all.bin", "shards"])
def test_ids_are_read(name: str, folder: Path) -> None:
    """One file or several; the last are for validation, from the end of a document on where that is known."""
    tokenizer, splits = load_dataset(Tokens(str(folder / name)), TokenIds(), folder)
    assert np.array_equal(np.concatenate([splits.train, splits.val]), IDS) and len(splits.val) == 500
    assert splits.n_vocab == IDS.max() + 1 and splits.scored_bytes is None and splits.order == "epoch"
    assert tokenizer.decode(splits.val[:2]) == f"{IDS[4500]} {IDS[4501]} " and "no bits per byte" in splits.describe(8)
    again = reload_dataset(Tokens(str(folder / name)), tokenizer, folder / "nowhere")
    assert np.array_equal(again.train, splits.train) and not (folder / "nowhere").exists()
    _, splits = load_dataset(Tokens(str(folder / name), eot=7), TokenIds(), folder)
    assert splits.train[-1] == 7 and splits.train_ends[-1] == len(splits.train)
    assert np.array_equal(splits.train_ends - 1, np.flatnonzero(splits.train == 7))
    assert splits.val_ends[-1] == len(splits.val)


def test_named_tokenizer(folder: Path) -> None:
    """It says which text ids stand for, and must have them all."""
    _, splits = load_dataset(Tokens(str(folder / "all.bin"), val=str(folder / "shards")), Bytes(), folder)
    assert len(splits.train) == len(splits.val) == 5000 and splits.scored_bytes == 4999 and not splits.remarks
    assert "holds token id 199, and the vocabulary of tokenizer ids ends at 99" in refusal(
        lambda: Tokens(str(folder / "all.bin")), TokenIds(100), folder
    )
    for vocabulary in (BPE(), Characters()):
        assert "holds no text to learn" in refusal(lambda: Tokens(str(folder / "all.bin")), vocabulary, folder)
    (folder / "a.txt").write_text("Some text, some more.")
    assert "tokenizer=ids names the ids" in refusal(lambda: File(str(folder / "a.txt")), TokenIds(), folder)


def test_no_ids(folder: Path) -> None:
    """What is no array of integers is refused by name."""
    np.save(folder / "floats.npy", np.ones(4))
    (folder / "odd.bin").write_bytes(b"abc")
    (folder / "no.npy").write_bytes(b"abc")
    for name, why in (("floats.npy", "must hold integers"), ("odd.bin", "no token ids"), ("no.npy", "no token ids")):
        message = refusal(lambda name=name: Tokens(str(folder / name)), TokenIds(), folder)
        assert f"({folder / name})" in message and why in message
    assert "data=tokens needs token ids" in refusal(Tokens, TokenIds(), folder)


def header(sign: int, version: int, count: int) -> bytes:
    """That of llm.c."""
    return np.array([sign, version, count, *[0] * 253], "<i4").tobytes()


def test_header_of_llm_c(folder: Path) -> None:
    """It is no text, says how wide the ids are, and how many there should be."""
    wide = IDS + 70_000
    (folder / "gpt2.bin").write_bytes(header(20240520, 1, len(IDS)) + IDS.astype("<u2").tobytes())
    (folder / "llama.bin").write_bytes(header(20240801, 7, len(IDS)) + wide.astype("<u4").tobytes())
    for name, ids in (("gpt2.bin", IDS), ("llama.bin", wide)):
        _, splits = load_dataset(Tokens(str(folder / name)), TokenIds(), folder)
        assert np.array_equal(np.concatenate([splits.train, splits.val]), ids)
    (folder / "cut.bin").write_bytes(header(20240520, 1, len(IDS)) + IDS[:-100].astype("<u2").tobytes())
    message = refusal(lambda: Tokens(str(folder / "cut.bin")), TokenIds(), folder)
    assert f"({folder / 'cut.bin'}) holds no token ids: its header counts 5,000 of them, and 4,900 are there" in message


def test_wrong_width(folder: Path) -> None:
    """Ids of 32 bits read as 16, or the other way, are noticed before anything is built for them."""
    (IDS * 9).astype("<u4").tofile(folder / "wide.bin")
    assert "set data.dtype=uint32" in refusal(lambda: Tokens(str(folder / "wide.bin")), TokenIds(), folder)
    _, splits = load_dataset(Tokens(str(folder / "wide.bin"), dtype="uint32"), TokenIds(), folder)
    assert np.array_equal(splits.train, (IDS * 9)[: len(splits.train)])
    message = refusal(lambda: Tokens(str(folder / "all.bin"), dtype="uint32"), TokenIds(), folder)
    assert "which is no token id: a .bin is read as data.dtype=uint32" in message


def test_the_shard_is_named(folder: Path) -> None:
    """Of many files the one that is at fault, under the key that names it."""
    shards, ids = folder / "shards", IDS.copy()
    ids[77] = 4000
    np.save(shards / "beyond.npy", ids)
    message = refusal(lambda: Tokens(str(shards)), TokenIds(300), folder)
    assert message.startswith(f"data.path ({shards / 'beyond.npy'}) holds token id 4000, ")
    ids[77] = -5
    np.save(folder / "negative.npy", ids)
    message = refusal(lambda: Tokens(str(folder / "all.bin"), val=str(folder / "negative.npy")), TokenIds(), folder)
    assert message == f"data.val ({folder / 'negative.npy'}) holds the number -5: no token id is below 0"
    (folder / "a.txt").write_text("Some text.")
    assert "must end in .bin or .npy" in refusal(lambda: Tokens(str(folder / "a.txt")), TokenIds(), folder)


# Tables


def test_tables(tmp_path: Path) -> None:
    """Rows of a .parquet, in groups; rows without text are named by their number."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [f"Row {i} of many, many rows." for i in range(10)]
    pq.write_table(pa.table({"text": texts, "n": list(range(10))}), tmp_path / "a.parquet", row_group_size=3)
    _, splits = load_dataset(File(str(tmp_path)), Bytes(), tmp_path / "cache")
    assert len(splits.train) + len(splits.val) == len("".join(texts)) and len(splits.train_ends) < 10
    with pytest.raises(UsageError, match=r"has no field 'body': it has text, n"):
        File(str(tmp_path), field="body").load()
    pq.write_table(pa.table({"text": [*texts[:7], None, *texts[8:]]}), tmp_path / "a.parquet", row_group_size=3)
    with pytest.raises(UsageError, match=r"a\.parquet\) row 8 holds no text in its field, but NoneType"):
        File(str(tmp_path)).load()
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(UsageError, match=r"a\.parquet\) is damaged: "):
        File(str(tmp_path)).load()


def test_zstandard(tmp_path: Path) -> None:
    """Frames one after the other; one that is cut off is named."""
    zstandard = pytest.importorskip("zstandard")
    data = b"One frame. " * 500
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(data) + zstandard.compress(data))
    _, splits = load_dataset(File(str(tmp_path / "a.txt.zst")), Bytes(), tmp_path)
    assert len(splits.train) + len(splits.val) == 2 * len(data)
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(data)[:-5])
    with pytest.raises(UsageError, match=r"a\.txt\.zst\) line 1 is cut off: "):
        File(str(tmp_path / "a.txt.zst")).load()


@pytest.mark.parametrize(("suffix", "package"), [("txt.zst", "zstandard"), ("parquet", "pyarrow")])
def test_extra_is_missing(suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / f"a.{suffix}").write_bytes(b"x")
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'attnlab\[text\]'"):
        File(str(tmp_path)).load()


def saved(folder: Path, splits: dict[str, list[str]]) -> None:
    """As `DatasetDict.save_to_disk` lays it out: a folder for each split, rows in streams of .arrow."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for name, texts in splits.items():
        (folder / name).mkdir()
        table = pa.table({"text": texts})
        with pa.ipc.new_stream(str(folder / name / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
        files = [{"filename": "data-00000-of-00001.arrow"}]
        (folder / name / "state.json").write_text(json.dumps({"_data_files": files, "_split": name}))


def test_saved_data_set(tmp_path: Path) -> None:
    """A split for training and one for validation, or rows that are split off."""
    texts = [f"Row {i} of many." for i in range(150)]
    saved(tmp_path / "it", {"train": texts, "test": texts[:3]})
    _, splits = load_dataset(HubText(str(tmp_path / "it"), val="test"), Bytes(), tmp_path)
    assert bytes(splits.val.astype(np.uint8)).decode() == "".join(texts[:3]) and len(splits.train_ends) == 150
    _, splits = load_dataset(HubText(str(tmp_path / "it" / "train")), Bytes(), tmp_path)
    assert 5 < len(splits.val_ends) < 30 and len(splits.train_ends) + len(splits.val_ends) == 150
    with pytest.raises(UsageError, match=r"has no split 'dev': it has train, test"):
        HubText(str(tmp_path / "it"), split="dev").load()
    for settings, key in (({"val": "test"}, "val"), ({"split": "test"}, "split")):  # which would be the same rows
        with pytest.raises(UsageError, match=rf"has no splits, and data\.{key} \(test\) names one: leave it out"):
            HubText(str(tmp_path / "it" / "train"), **settings).load()
    with pytest.raises(UsageError, match=r"is not a data set that save_to_disk wrote"):
        HubText(str(tmp_path)).load()


def test_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name needs a revision, and `datasets`; what the library says of a network comes as one line."""
    with pytest.raises(UsageError, match=r"^data\.path \(a/b\) is no folder here; .* set data\.revision"):
        HubText("a/b")
    modules: dict[str, Any] = __import__("sys").modules
    monkeypatch.setitem(modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'attnlab\[hf\]'$"):
        HubText("a/b", revision="1").load()

    class Library:
        DownloadConfig = dict

        @staticmethod
        def load_dataset(*args: Any, **kwargs: Any) -> None:
            raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setitem(modules, "datasets", Library)
    with pytest.raises(
        UsageError, match=r"from the Hub \(Couldn't reach the Hub\); offline, set data\.path to a folder"
    ):
        HubText("a/b", revision="1").load()
