"""A text in many files: what is read, what is refused, how it is split, and that it is tokenised once."""

import errno
import glob
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnlab.data import file_streams, planning, stretches, tokenising
from attnlab.data.batches import load_splits
from attnlab.data.checking import check_files
from attnlab.data.corpus import Corpus
from attnlab.data.listing import list_files
from attnlab.data.load import load_dataset, reload_dataset
from attnlab.data.parallel import each
from attnlab.data.stretches import Split, cut_in
from attnlab.data.text import Text
from attnlab.data.text_files import File
from attnlab.data.tokenising import tokenise
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer
from attnlab.data.unigram import unigram_entropy
from attnlab.data.vocabularies import BPE, PATTERN, Characters, train_bpe
from attnlab.errors import UsageError

BYTES = ByteTokenizer()
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def document(i: int) -> str:
    return f"Document {i}: the café opens {i * i} times.\n\n" + "One step, one more (\u201cstep\u201d)...\n" * (i % 7)


def lines(numbers: range) -> bytes:
    return b"".join(json.dumps({"text": document(i), "id": i}).encode() + b"\n" for i in numbers)


def write(folder: Path, n: int = 40) -> Path:
    """So many files of three kinds: 14 documents in every three."""
    folder.mkdir(parents=True)
    for i in range(n):
        content = [
            document(i * 7).encode(),
            lines(range(i * 7, i * 7 + 6)),
            gzip.compress(lines(range(i * 7, i * 7 + 7))),
        ]
        (folder / f"{i:02}{('.txt', '.jsonl', '.jsonl.gz')[i % 3]}").write_bytes(content[i % 3])
    return folder


def refusal(path: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as error:
        File(path if isinstance(path, list) else str(path), **options).load()
    assert "\n" not in str(error.value)
    return str(error.value)


def texts(text: Text) -> list[str]:
    """The documents of both parts, each joined."""
    parts: dict[str, list[str]] = {"train": [""], "val": [""]}
    for piece in (piece for unit in text.units() for piece in text._pieces(unit)):
        parts[piece.part][-1] += piece.text
        if piece.ends:
            parts[piece.part].append("")
    return parts["train"][:-1] + parts["val"][:-1]


# Files


def test_files_are_sorted_by_name(tmp_path: Path) -> None:
    """Of a folder, a glob or a list; hidden, empty and other files are left out, and none comes twice."""
    for name in ("b.txt", "a.jsonl", "sub/c.txt.gz", ".hidden.txt", "sub/.d/e.txt", "notes.md", "empty.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"x")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")

    def names(*path: str) -> list[str]:
        return [Path(file.path).name for file in list_files([str(tmp_path / p) for p in path])]

    assert names("") == ["a.jsonl", "b.txt", "c.txt.gz"] == names("**/*")
    assert names("*.txt", "a.jsonl", "b.txt", "notes.md") == ["b.txt", "a.jsonl", "notes.md"]
    assert [file.kind for file in list_files(str(tmp_path))] == [".jsonl", ".txt", ".txt.gz"]


def test_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link to a file that is gone is damage, not left out in silence; a folder that cannot be read is refused."""
    folder = write(tmp_path / "a", 3)
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    assert refusal(folder).startswith(f"data.path ({folder / 'gone.txt'}) cannot be read: No such file")
    assert File(str(folder), on_error="skip").load().skipped["files"] == 1
    (folder / "closed").mkdir()
    scan = os.scandir

    def closed(path: str) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert refusal(folder) == f"the folder {folder / 'closed'} cannot be read: Permission denied"


def broken(name: str, data: bytes, why: str, *, line: str = "", documents: int = 0) -> Any:
    return pytest.param(name, data, why, line, documents, id=name)


@pytest.mark.parametrize(
    ("name", "data", "why", "line", "documents"),
    [
        broken(
            "nul.txt",
            b"a\nb\0c",
            "is not text: byte 3 is NUL, as in a binary or UTF-16 file; save it as plain UTF-8",
            line="line 2 ",
        ),
        broken(
            "latin.txt",
            b"one\r\ncaf\xe9",
            "is not UTF-8 text: byte 8 (0xE9) does not fit; convert the file to UTF-8",
            line="line 2 ",
        ),
        broken("latin.txt.gz", gzip.compress(b"a\n\ncaf\xe9"), "is not UTF-8 text: byte 6 (0xE9)", line="line 3 "),
        broken("utf16.txt", "a".encode("utf-16"), "is UTF-16 or UTF-32 by its byte-order mark"),
        broken("utf16.jsonl", "a".encode("utf-16"), "is UTF-16 or UTF-32 by its byte-order mark"),
        broken("cut.jsonl.gz", gzip.compress(lines(range(90)))[:-60], "is cut off: ", line="line 85 "),
        broken("cut.txt.gz", gzip.compress(b"one\ntwo\nthree\n")[:-8], "is cut off: ", line="line 4 "),
        broken("no.txt.gz", b"no gzip", "is damaged: Not a gzipped file", line="line 1 "),
        broken(
            "json.jsonl",
            lines(range(3)) + b'{"text": "a\n',
            "is not JSON (Invalid control character at character 12)",
            line="line 4 ",
            documents=1,
        ),
        broken("field.jsonl", b'\n{"txt": "a"}\n', "has no field 'text'", line="line 2 ", documents=1),
        broken("number.jsonl", b'{"text": 3}\n', "holds no text in its field, but int", line="line 1 ", documents=1),
        broken("list.jsonl", b"[1]\n", "has no field 'text'", line="line 1 ", documents=1),
        broken(
            "bytes.jsonl",
            b'{"text": "\xff"}\n',
            "is not UTF-8: byte 10 (0xFF) does not fit",
            line="line 1 ",
            documents=1,
        ),
        broken("half.jsonl", b'{"text": "\\ud800"}\n', "holds half a character (U+D800)", line="line 1 ", documents=1),
    ],
)
def test_what_is_damaged(name: str, data: bytes, why: str, line: str, documents: int, tmp_path: Path) -> None:
    """Named with file and line, or left out and counted, as a file or as `documents`; what is whole is used."""
    folder = write(tmp_path / "good", 3)
    good = texts(File(str(folder)).load())
    (folder / name).write_bytes(data)
    message = refusal(folder)
    assert message.startswith(f"data.path ({folder / name}) {line}{why}")
    assert message.endswith("; data.on_error=skip leaves such out")
    text = File(str(folder), on_error="skip").load()
    assert text.skipped["documents"] == documents and text.skipped["files"] == (not documents)
    assert text.skipped["examples"][0].startswith(f"({folder / name}) {line}{why}")
    more = [document(i) for i in range(3)] if name == "json.jsonl" else []
    assert sorted(texts(text)) == sorted([*good, *more])


def test_cut_zstandard(tmp_path: Path) -> None:
    """What comes before the cut, and how many lines that are, is read although what follows cannot be."""
    zstandard = pytest.importorskip("zstandard")
    whole, rng = zstandard.compress(lines(range(90))), np.random.default_rng(0)
    folder = write(tmp_path / "good", 3)
    (folder / "cut.jsonl.zst").write_bytes(whole[: len(whole) * 3 // 4])
    message = refusal(folder)
    assert message.startswith(f"data.path ({folder / 'cut.jsonl.zst'}) line ") and "is cut off: the last" in message
    assert File(str(folder), on_error="skip").load().skipped["files"] == 1
    letters = rng.choice(np.frombuffer(b"abcdef \n", np.uint8), 2**20).tobytes()
    (one := tmp_path / "one.txt.zst").write_bytes(zstandard.compress(letters))
    text = File(str(one)).load()  # its cut lies within a frame
    assert text.n_train_bytes == int(len(letters) * 0.9)
    assert text.val_sha256 == hashlib.sha256(letters[text.n_train_bytes :]).hexdigest()


def test_field_within_a_field(tmp_path: Path) -> None:
    """data.field=meta.text, where no field has that name itself: of a line as of a row."""
    pyarrow = pytest.importorskip("pyarrow")
    folder = tmp_path / "nested"
    folder.mkdir()
    records = [{"meta": {"text": document(i)}, "x.y": f"other {i}"} for i in range(9)]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(records), folder / "b.parquet")
    assert sorted(texts(File(str(folder), field="meta.text").load())) == sorted(2 * [document(i) for i in range(9)])
    assert sorted(texts(File(str(folder), field="x.y").load())) == sorted(2 * [f"other {i}" for i in range(9)])
    for field in ("meta.other", "meta.text.more", "meta"):
        with pytest.raises(UsageError, match=r"a\.jsonl\) line 1 .*b\.parquet\) row 1 holds no text"):
            File(str(folder), field=field).load()


def test_no_file_hides_another(tmp_path: Path) -> None:
    """What is wrong with each file is named before more of one that is bad throughout."""
    folder = write(tmp_path / "a", 3)
    (folder / "a.jsonl").write_bytes(b"bad\n" * 9)
    (folder / "b.txt").write_bytes(b"caf\xe9")
    assert f"; ({folder / 'b.txt'}) line 1 is not UTF-8" in (message := refusal(folder)) and "(and 8 more)" in message
    examples = File(str(folder), on_error="skip").load().skipped["examples"]
    assert [example.split(")")[0][1:] for example in examples] == [str(folder / n) for n in ("a.jsonl", "b.txt")] + [
        str(folder / "a.jsonl")
    ] * 3


def test_forty_files_two_broken(tmp_path: Path) -> None:
    """Both are named or counted, and what is left is what a folder without them holds."""
    folder, whole = write(tmp_path / "a"), write(tmp_path / "b")
    for name in ("08.jsonl.gz", "30.txt"):
        (whole / name).unlink()
        (folder / name).write_bytes((folder / name).read_bytes()[:-30] + b"\xff")
    message = refusal(folder)
    assert "\n" not in message and "more)" not in message
    for name in ("08.jsonl.gz", "30.txt"):
        assert f"({folder / name}) line " in message
    _, splits = load_dataset(File(str(folder), on_error="skip"), BPE(), tmp_path)
    _, others = load_dataset(File(str(whole)), BPE(), tmp_path)
    assert splits.skipped["files"] == 2 and not others.skipped
    assert splits.sha256 == others.sha256 and np.array_equal(splits.train, others.train)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), "holds no file to read"),
        (lambda p: (p.mkdir(), (p / "a.md").write_text("x")), "holds no file to read"),
        (lambda p: (p.mkdir(), (p / "a.txt").write_text(" \n")), "is empty: it must hold text"),
        (lambda p: (p.mkdir(), (p / "a.jsonl").write_text('{"text": "a"}\n' * 3)), "holds one document"),
        (lambda p: os.mkfifo(p), "is not a regular file"),
        (lambda p: p.symlink_to(p), "cannot be read: "),
        (lambda p: None, "does not exist"),
    ],
)
def test_nothing_to_read(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "it")
    assert message in refusal(tmp_path / "it")


def test_links_that_lead_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `**` names what it names elsewhere, but follows no links: two that lead back would name 2^40 files."""
    for name in ("b.txt", "a/c.txt", "a/z/[1]/d.txt", "a/.hidden/e.txt", "a/f.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    monkeypatch.chdir(tmp_path)
    patterns = ("**/*.txt", "a/**/*.txt", "*/**/d.txt", "**", str(tmp_path / "**" / "*.txt"))
    usual = [sorted(n for n in glob.glob(p, recursive=True) if n.endswith(".txt")) for p in patterns]
    for link in ("a/here", "a/again"):
        (tmp_path / link).symlink_to(".", target_is_directory=True)
    assert [[file.path for file in list_files(pattern)] for pattern in patterns] == usual


def test_paths_are_refused(tmp_path: Path) -> None:
    """A glob without matches, what is no path, and a file that is not there in a list."""
    assert "matches nothing" in refusal(tmp_path / "*.txt")
    for path in (3, [3], {"a": 1}):
        with pytest.raises(
            UsageError, match=r"^data\.path \(.*\) must be a file, a folder, a glob, or a list of these$"
        ):
            File(path)
    assert "does not exist" in refusal([str(write(tmp_path / "a", 1)), str(tmp_path / "none")])


def test_line_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line beyond what is held at once is one bad line, and the next one is read."""
    monkeypatch.setattr(stretches, "MOST_LINE", 1000)
    (tmp_path / "a.jsonl").write_bytes(lines(range(3)) + b'{"text": "' + b"x" * 5000 + b'"}\n' + lines(range(2)))
    assert "line 4 is longer than" in refusal(tmp_path / "a.jsonl")
    assert File(str(tmp_path / "a.jsonl"), on_error="skip").load().skipped["documents"] == 1


def test_changed_while_read(tmp_path: Path) -> None:
    """What is not what it was when it was listed is refused, while it is looked through and while it is tokenised."""
    folder = write(tmp_path / "a", 3)
    files = list_files(str(folder))
    text = File(str(folder)).load()
    with (folder / "01.jsonl").open("ab") as file:
        file.write(lines(range(1)))
    message = "01.jsonl was changed while it was read"
    with pytest.raises(UsageError, match=message):
        check_files(files, "text", Split(0, 0), None)
    with pytest.raises(UsageError, match=message):
        tokenise(text, BYTES, tmp_path)


@pytest.mark.parametrize("number", range(1, 5))
def test_unread_is_asked_again(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the machine does not give once is no damaged file: its digest is never empty, and nothing is kept."""
    files = list_files(str(write(tmp_path / "a", 1) / "00.txt"))
    whole, usual, opens = check_files(files, "text", Split(0, 0), None), file_streams.open_regular, iter(range(1, 99))

    def fails_once(path: str) -> Any:
        if next(opens) == number:
            raise OSError(errno.EIO, "Input/output error")
        return usual(path)

    for module in (file_streams, planning):
        monkeypatch.setattr(module, "open_regular", fails_once)
    first = check_files(files, "text", Split(0, 0), tmp_path / "cache")
    assert (first == whole) != (first.counts[0].broken or "").startswith("cannot be read")
    again = check_files(files, "text", Split(0, 0), tmp_path / "cache")
    assert again == whole


def test_line_ends_and_marks(tmp_path: Path) -> None:
    """A byte-order mark is no text, in a .txt, a .jsonl or below a .gz; line ends stay."""
    mark, text = b"\xef\xbb\xbf", b"one\r\ntwo\n"
    (tmp_path / "a.txt").write_bytes(mark + text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(mark + text + b"!"))
    (tmp_path / "c.jsonl").write_bytes(mark + b'{"text": "a\\r\\nb"}\r\n\r\n{"text": "c"}')
    assert sorted(texts(File(str(tmp_path)).load())) == ["a\r\nb", "c", "one\r\ntwo\n", "one\r\ntwo\n!"]


# Parts


def test_split_by_document(tmp_path: Path) -> None:
    """Seeded, and equal documents on one side; a file that comes to them moves none."""
    folder = write(tmp_path / "a")

    def val(**options: Any) -> set[str]:
        text = File(str(folder), **options).load()
        return {p.text for unit in text.units() for p in text._pieces(unit) if p.part == "val"}

    first = val(val_fraction=0.2)
    assert 20 < len(first) < 70 and first == val(val_fraction=0.2) != val(val_fraction=0.2, split_seed=1)
    assert first < val(val_fraction=0.4)
    (folder / "41.jsonl").write_bytes(lines(range(20)) * 2)
    assert first <= val(val_fraction=0.2)


def test_no_part_is_empty(tmp_path: Path) -> None:
    """Two documents are one for each part, whatever the share."""
    (tmp_path / "a.jsonl").write_bytes(lines(range(2)))
    for fraction in (0.001, 0.999):
        text = File(str(tmp_path), fraction).load()
        parts = [p.part for unit in text.units() for p in text._pieces(unit)]
        assert sorted(parts) == ["train", "val"]


def test_validation_text_apart(tmp_path: Path) -> None:
    """Files of data.val are for validation, all of them, and tell that part apart whatever is trained on."""
    folder = write(tmp_path / "a", 6)
    (tmp_path / "val.txt").write_text("Somewhere else.")
    made = [
        load_dataset(File(path, val=str(tmp_path / "val.txt")), BPE(), tmp_path)[1]
        for path in (str(folder), str(folder / "01.jsonl"))
    ]
    assert made[0].val_sha256 == made[1].val_sha256 and made[0].sha256 != made[1].sha256
    tokenizer, splits = load_dataset(File(str(folder), val=str(tmp_path / "val.txt")), BPE(), tmp_path)
    assert tokenizer.decode(splits.val) == "Somewhere else.<|endoftext|>"
    assert refusal(folder, val=str(tmp_path / "none")).startswith("data.val (")


def test_identity_is_of_contents(tmp_path: Path) -> None:
    """Names and compression do not enter it; any byte, the field and the seed of the split do."""
    folder, other = write(tmp_path / "a", 3), write(tmp_path / "b", 3)
    first = File(str(folder)).load().sha256
    (other / "01.jsonl").rename(other / "01b.jsonl")
    (other / "00.txt.gz").write_bytes(gzip.compress((other / "00.txt").read_bytes()))
    (other / "00.txt").unlink()
    assert File(str(other)).load().sha256 == first != File(str(folder), split_seed=1).load().sha256
    for name in ("00.txt", "01.jsonl"):
        good = (folder / name).read_bytes()
        for i in range(10, 30, 4):
            changed = bytearray(good)
            changed[i] ^= 1
            (folder / name).write_bytes(changed)
            assert File(str(folder), on_error="skip").load().sha256 != first
        (folder / name).write_bytes(good)
    assert File(str(folder)).load().sha256 == first


def test_one_text_is_what_it_was(tmp_path: Path) -> None:
    """One .txt, compressed or not, has the parts, the hashes and the ids of a text in memory."""
    data = "".join(map(document, range(40))).encode()
    corpus = Corpus.from_bytes("a", data, 0.13, source="a")
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(data))
    expected = load_splits(corpus, BYTES, tmp_path)
    for name in ("a.txt", "b.txt.gz"):
        tokenizer, splits = load_dataset(File(str(tmp_path / name), 0.13), BPE(), tmp_path)
        assert tokenizer.sha256 == BPE().build(corpus, tmp_path / "other").sha256
        assert (splits.sha256, splits.val_sha256) == (corpus.sha256, corpus.val_sha256)
        assert splits.sha256 == hashlib.sha256(data).hexdigest() and splits.order == "random"
        made = load_splits(File(str(tmp_path / name), 0.13).load(), BYTES, tmp_path)
        assert np.array_equal(made.train, expected.train) and np.array_equal(made.val, expected.val)
        assert made.scored_bytes == expected.scored_bytes and made.train_ends is None


# Ids


@pytest.mark.parametrize("pattern", [PATTERN, GPT2, CL100K], ids=["ours", "gpt2", "cl100k"])
def test_cuts_change_no_token(pattern: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A long text in blocks gets the ids that it gets as one, and cut anywhere it does not."""
    text = "".join(map(document, range(60))) + "日本語\n\n  indented\n\tx = 1  \r\n\r\n'll it's 12345" * 20
    tokenizer = RankTokenizer("bpe", train_bpe(text, 600), pattern=pattern)
    (tmp_path / "a.txt").write_bytes(text.encode())
    monkeypatch.setattr(planning, "UNIT", 2000)
    monkeypatch.setattr(stretches, "BLOCK", 300)
    made = load_splits(File(str(tmp_path / "a.txt"), 0.01).load(), tokenizer, tmp_path)
    cut = len(tokenizer.decode_bytes(made.train))
    assert made.train.tolist() == tokenizer.encode(text.encode()[:cut].decode())
    monkeypatch.setattr(stretches, "CUTS", ())
    other = load_splits(File(str(tmp_path / "a.txt"), 0.01).load(), tokenizer, tmp_path / "other")
    assert other.train.tolist() != made.train.tolist()


def test_cuts_go_through_no_character() -> None:
    data = "日本語𝄞é".encode() * 20
    for at in range(1, len(data) - 70):
        end = cut_in(data, at)
        assert at <= end <= at + 3 and (data[:end].decode() + data[end:].decode()).encode() == data


def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "UNIT", 500)


def test_ends_and_their_token(tmp_path: Path) -> None:
    """Between documents stands the token that ends one; ends are exclusive and count it."""
    tokenizer, splits = load_dataset(File(str(write(tmp_path / "a", 9))), BPE(), tmp_path)
    assert splits.order == "epoch" and splits.train_ends is not None and splits.val_ends is not None
    assert splits.train_ends[-1] == len(splits.train) and splits.val_ends[-1] == len(splits.val)
    assert (splits.train[splits.train_ends - 1] == tokenizer.end_of_text).all()
    assert (splits.train == tokenizer.end_of_text).sum() == len(splits.train_ends)
    first = tokenizer.decode(splits.train[: splits.train_ends[0] - 1])
    assert first in {document(i) for i in range(80)}
    size = sum(len(tokenizer.token_bytes(int(i))) for i in splits.val[1:] if i != tokenizer.end_of_text)
    assert splits.scored_bytes == size
    assert splits.unigram == unigram_entropy(splits.train, splits.val, splits.n_vocab)


def test_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was tokenised is not tokenised again, what was damaged since is, and the files are those of one go."""
    small_units(monkeypatch)
    text = File(str(write(tmp_path / "a", 9))).load()
    expected = tokenise(text, BYTES, tmp_path / "one")[1]
    calls: list[int] = []
    real = tokenising.encode_unit

    def encode(job: tokenising.EncodeTask) -> None:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(job.number)
        real(job)

    monkeypatch.setattr(tokenising, "encode_unit", encode)
    with pytest.raises(KeyboardInterrupt):
        tokenise(text, BYTES, tmp_path / "two")
    (folder,) = (tmp_path / "two" / "tokens").iterdir()
    assert calls == [0, 1, 2, 3] and len(text.units()) > 6 and not (folder / "index.json").exists()
    damaged = folder / "000002" / "train.ids"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    again: list[int] = []
    monkeypatch.setattr(tokenising, "encode_unit", lambda job: (again.append(job.number), real(job))[0])
    arrays = tokenise(text, BYTES, tmp_path / "two")[1]
    assert again == [2, *range(4, len(text.units()))]
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    monkeypatch.setattr(tokenising, "encode_unit", encode)  # which would stop at the first
    assert tokenise(text, BYTES, tmp_path / "two")[0].unigram > 0


@pytest.mark.parametrize("name", ["train.ids", "val.ends", "index.json"])
def test_damage_is_noticed(name: str, tmp_path: Path) -> None:
    """By size or SHA-256; then it is made anew."""
    text = File(str(write(tmp_path / "a", 6))).load()
    expected = tokenise(text, BYTES, tmp_path)[1]["train.ids"].tobytes()
    (path,) = (tmp_path / "tokens").rglob(name)
    good = path.read_bytes()
    for bad in (b"", good[:-1], good + b"\0", bytes([good[0] ^ 1, *good[1:]])):
        path.write_bytes(bad)
        assert tokenise(text, BYTES, tmp_path)[1]["train.ids"].tobytes() == expected
    assert hashlib.sha256((path.parent / "train.ids").read_bytes()).digest() == hashlib.sha256(expected).digest()


def test_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the files look as they did; neither is anything kept for a finished run that is looked at."""
    source = File(str(write(tmp_path / "a", 6)))
    tokenizer, first = load_dataset(source, BPE(), tmp_path / "cache")
    before = sorted((tmp_path / "cache").rglob("*"))

    def never(path: str) -> None:
        raise AssertionError("this was read before")

    with monkeypatch.context() as patch:
        for module in (file_streams, planning):
            patch.setattr(module, "open_regular", never)
        assert np.array_equal(load_dataset(source, BPE(), tmp_path / "cache")[1].train, first.train)
    again = reload_dataset(source, tokenizer, tmp_path / "nowhere")
    assert np.array_equal(again.train, first.train) and not (tmp_path / "nowhere").exists()
    assert sorted((tmp_path / "cache").rglob("*")) == before
    os.utime(tmp_path / "a" / "00.txt")
    monkeypatch.setattr(file_streams, "open_regular", never)
    with pytest.raises(AssertionError, match="read before"):
        source.load(tmp_path / "cache")


def test_sample_of_a_long_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte pairs are learnt from equal shares of all stretches, which the run says."""
    small_units(monkeypatch)
    monkeypatch.setattr("attnlab.data.vocabularies.MILLION", 100)
    text = File(str(write(tmp_path / "a", 30))).load()
    pieces = list(text.training_pieces(3200))
    assert 1600 < sum(map(len, pieces)) < 4800 and len({piece[:12] for piece in pieces}) >= len(text.units()) // 2
    whole = "".join(text.training_pieces(10**9))
    assert all(piece in whole for piece in pieces) and len(whole.encode()) == text.n_train_bytes
    (remark,) = BPE().remarks(text)
    assert remark.startswith("byte pairs were learnt from 32 of ") and not BPE(sample_mb=10**6).remarks(text)


def test_characters_of_all(tmp_path: Path) -> None:
    """Those of both parts and of every kind of file."""
    text = File(str(write(tmp_path / "a", 3))).load()
    tokenizer = Characters().build(text, tmp_path)
    assert isinstance(tokenizer, CharTokenizer)
    assert {t.decode() for t in tokenizer.tokens} == {c for i in range(30) for c in document(i) if i < 21}


# Several processes


def double(number: int) -> int:
    if number < 0:
        raise UsageError("negative")
    return 2 * number


@pytest.mark.slow
def test_processes_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task once, whatever is raised comes back, and any number of processes makes the same files."""
    results = dict(each(hash, list(range(50)), [1] * 50, "", processes=3))
    assert results == {i: hash(i) for i in range(50)}
    with pytest.raises(TypeError):
        list(each(len, [1, 2], [1, 1], "", processes=2))  # type: ignore[list-item]
    small_units(monkeypatch)
    text = File(str(write(tmp_path / "a", 9))).load()
    made = [tokenise(text, BYTES, tmp_path / f"{n}", processes=n)[1] for n in (1, 2, 3)]
    assert all(np.array_equal(one[name], made[0][name]) for one in made for name in one)


KILLED = """
import sys
from pathlib import Path
from attnlab.data import planning
from attnlab.data.text_files import File
from attnlab.data.tokenising import tokenise
from attnlab.data.tokenizers import ByteTokenizer
planning.UNIT = 20_000
tokenise(File(sys.argv[1]).load(Path(sys.argv[2])), ByteTokenizer(), Path(sys.argv[2]), processes=2)
"""


@pytest.mark.slow
def test_kill_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGKILL its processes end, and the same command goes on with the units that are there."""
    (tmp_path / "a.jsonl").write_bytes(lines(range(3000)) * 8)
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "a.jsonl"), str(tmp_path / "cache")]
    process = subprocess.Popen(arguments)
    while process.poll() is None and not list((tmp_path / "cache").glob("tokens/*/000003")):
        pass
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("tokens/*/0*") if not path.suffix}
    assert before and not list((tmp_path / "cache").rglob("index.json"))
    monkeypatch.setattr(planning, "UNIT", 20_000)
    text = File(str(tmp_path / "a.jsonl")).load(tmp_path / "cache")
    calls: list[Path] = []
    real = tokenising.encode_unit
    monkeypatch.setattr(tokenising, "encode_unit", lambda job: (calls.append(job.path), real(job))[0])
    arrays = tokenise(text, BYTES, tmp_path / "cache")[1]
    assert not set(calls) & set(before)
    assert 0 <= len(text.units()) - len(calls) - len(before) <= 2  # each process may end the unit that it was at
    expected = tokenise(text, BYTES, tmp_path / "other")[1]
    assert all(np.array_equal(arrays[name], expected[name]) for name in arrays)


MEASURED = """
import sys, threading, time
from pathlib import Path
from attnlab.data.text_files import File
from attnlab.data.tokenising import tokenise
from attnlab.data.vocabularies import BPE
most = 0
def watch():
    global most
    while True:
        line = next(l for l in open("/proc/self/status") if l.startswith("RssAnon"))
        most = max(most, int(line.split()[1]))
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
text = File(sys.argv[1]).load()
tokenise(text, BPE(1024, sample_mb=1).build(text, sys.argv[2]), Path(sys.argv[2]))
print(most)
"""


@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Four times as much text takes no more: a bound of 24 MiB is a sixth of what is added."""
    most = []
    for size in (8, 32):
        (tmp_path / "a.jsonl").write_bytes(lines(range(2000)) * (size * 5))
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(tmp_path / "a.jsonl"), str(tmp_path / str(size))],
            capture_output=True,
            text=True,
            check=True,
        )
        most.append(int(done.stdout))
    assert most[1] - most[0] < 24 << 10
