"""Where a text comes from, what is refused, and where it is cut."""

import hashlib
import os
import pydoc_data.topics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data.corpus import Corpus, Download, PythonDocs, Stories, check_text, cut_at
from attnlab.data.stretches import read
from attnlab.data.text_files import File
from attnlab.errors import UsageError

steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow

TEXT = b"Your journey starts with one step. " * 20
SHA256 = hashlib.sha256(TEXT).hexdigest()


def refusal(source: File | Stories | Download) -> str:
    with pytest.raises(UsageError) as error:
        source.load()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "steps.txt"
    path.write_bytes(TEXT)
    return path


# The cut


@steady
@given(
    text=st.text(alphabet=st.sampled_from("aé日𝄞\U0010ffff \n"), min_size=1, max_size=40),
    fraction=st.floats(0.001, 0.999),
)
def test_the_cut_goes_through_no_character(text: str, fraction: float) -> None:
    data = text.encode()
    cut = cut_at(data, fraction)
    assert data[:cut].decode() + data[cut:].decode() == text
    # At most the three bytes before the place that was asked for go to the other side.
    assert int(len(data) * (1 - fraction)) - 3 <= cut <= len(data) * (1 - fraction)


@pytest.mark.parametrize(
    ("text", "fraction", "train"),
    [
        ("abcdefghij", 0.1, "abcdefghi"),
        ("abcdefghij", 0.5, "abcde"),
        ("aaa日bbb", 0.5, "aaa"),  # byte 4 of 9 is inside the character, which goes to validation
        ("𝄞𝄞", 0.4, "𝄞"),
    ],
)
def test_the_last_bytes_are_for_validation(text: str, fraction: float, train: str) -> None:
    assert text.encode()[: cut_at(text.encode(), fraction)].decode() == train


def test_corpus_parts() -> None:
    """A corpus is its two parts and the hash of the whole."""
    corpus = Corpus.from_bytes("steps", TEXT, 0.25, source="here")
    assert corpus.train + corpus.val == TEXT and corpus.sha256 == SHA256
    assert len(corpus.val) == len(TEXT) // 4
    assert (corpus.train + corpus.val).decode() == TEXT.decode()
    assert Corpus.from_bytes("steps", TEXT, 0.5, source="here").sha256 == SHA256


@pytest.mark.parametrize(
    ("data", "fraction", "train", "val"), [(b"abc", 0.1, 2, 1), (b"ab", 0.5, 1, 1), (b"x" * 100, 0.99, 1, 99)]
)
def test_text_too_small(data: bytes, fraction: float, train: int, val: int) -> None:
    """A text without two bytes for each part is too small."""
    with pytest.raises(UsageError) as error:
        Corpus.from_bytes("tiny", data, fraction, source="data.path (tiny.txt)")
    assert str(error.value) == (
        f"data.path (tiny.txt) is too small: of its {len(data)} bytes, data.val_fraction ({fraction:g}) leaves {train} "
        f"for training and {val} for validation, and each needs at least 2"
    )


def test_one_long_character() -> None:
    """A text of one long character cannot be cut."""
    with pytest.raises(UsageError, match=r"leaves 0 for training and 4 for validation"):
        Corpus.from_bytes("tiny", "𝄞".encode(), 0.5, source="here")
    assert Corpus.from_bytes("least", b"abcd", 0.5, source="here").val == b"cd"


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), True])
def test_empty_part_refused(fraction: float, file: Path) -> None:
    """A fraction that leaves a part empty is refused."""
    with pytest.raises(UsageError) as error:
        File(str(file), val_fraction=fraction)
    assert str(error.value) == f"val_fraction ({str(fraction).lower()}) must be a number above 0, below 1"


# What is text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "X is empty: it must hold text"),
        (b" \n\t\r\n ", "X is empty: it must hold text"),
        (b"ab\0c", "X line 1 is not text: byte 2 is NUL, as in a binary or UTF-16 file; save it as plain UTF-8 text"),
        (
            "hé".encode("utf-16-le"),
            "X line 1 is not text: byte 1 is NUL, as in a binary or UTF-16 file; save it as plain UTF-8 text",
        ),
        ("日本".encode("utf-16"), "X is UTF-16 or UTF-32 by its byte-order mark: convert the file to UTF-8"),
        ("café".encode("latin-1"), "X line 1 is not UTF-8 text: byte 3 (0xE9) does not fit; convert the file to UTF-8"),
        (b"ab\xed\xa0\x80", "X line 1 is not UTF-8 text: byte 2 (0xED) does not fit; convert the file to UTF-8"),
        ("日".encode()[:2], "X line 1 is not UTF-8 text: byte 0 (0xE6) does not fit; convert the file to UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "X line 1 is not UTF-8 text: byte 0 (0x89) does not fit; convert the file to UTF-8"),
    ],
)
def test_not_text(data: bytes, message: str) -> None:
    """What is not text is refused with the place where it stops being it."""
    with pytest.raises(UsageError) as error:
        check_text(data, "X")
    assert str(error.value) == message


def test_strange_text() -> None:
    """A byte order mark and strange characters are text."""
    check_text("\ufeffa\u202e\x01\U0010ffff\ufffe".encode(), "X")


# Files


def test_a_file_of_yours_is_read_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "my text.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n" * 4)
    text = File(str(path), 0.25).load()
    pieces = [piece for unit in text.units() for stretch in unit for piece in read(stretch, text.field, text.split)]
    assert "".join(piece.text for piece in pieces) == "one\r\ntwo\rthree\n" * 4  # no line end is changed
    assert text.name == "my text"


def test_a_home_folder_is_understood(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert File("~/steps.txt").load().sha256 == SHA256


@pytest.mark.parametrize("path", [None, ""])
def test_a_file_without_a_path_is_refused(path: str | None) -> None:
    with pytest.raises(UsageError) as error:
        File(path)
    assert str(error.value) == ("data=file needs a text: set data.path=FILE, any UTF-8 text file, or a folder of them")


def test_file_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there is refused with the folder it was looked for in."""
    monkeypatch.chdir(tmp_path)
    assert refusal(File("none.txt")) == f"data.path (none.txt) does not exist (looked in {Path.cwd()})"
    assert refusal(Stories("none.txt")) == f"data.path (none.txt) does not exist (looked in {Path.cwd()})"


def test_a_binary_file_is_refused_under_its_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"GIF\0\1\2")
    assert refusal(File(str(path))).startswith(f"data.path ({path}) line 1 is not text: byte 3 is NUL")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(File(str(tmp_path / "pipe"))) == f"data.path ({tmp_path / 'pipe'}) is not a regular file"


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "a/" * 3000])
@pytest.mark.parametrize("source", [File, Stories])
def test_a_name_that_no_file_can_have_is_refused(path: str, source: type[File]) -> None:
    assert refusal(source(path)).startswith(f"data.path ({path.rstrip('/')}) cannot be read: ".replace("\n", " "))


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert refusal(File(str(tmp_path / "one"))).startswith(f"data.path ({tmp_path / 'one'}) cannot be read: ")


# The stories


def test_the_stories_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_home = Stories().load()
    monkeypatch.chdir(tmp_path)
    assert Stories().load() == at_home and at_home.name == "stories"
    shipped = Path(__file__).parents[2] / "data" / "stories.txt"
    assert at_home.train + at_home.val == shipped.read_bytes()


def test_a_text_in_the_current_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stories.txt").write_bytes(TEXT)
    assert Stories().load().sha256 == SHA256
    assert Stories(sha256=SHA256).load().sha256 == SHA256


def test_stories_with_another_hash_are_refused(file: Path) -> None:
    assert refusal(Stories(str(file), sha256="0" * 64)) == (
        f"data.path ({file}) has sha256 {SHA256}, but data.sha256 is {'0' * 64}; "
        "to train on a text of your own, use data=file"
    )


def test_stories_need_a_path() -> None:
    with pytest.raises(UsageError, match=r"^path \(\) must be non-empty text$"):
        Stories("")


# The documentation of Python


def test_python_comes_with_a_corpus() -> None:
    corpus = PythonDocs(0.2).load()
    text = (corpus.train + corpus.val).decode()
    assert corpus.name == "python_docs" and len(text) > 300_000
    topics: dict[str, str] = pydoc_data.topics.topics
    assert text.startswith(topics[min(topics)].strip("\n"))
    assert all(topic.strip("\n") in text for topic in topics.values())
    assert PythonDocs(0.2).load() == corpus
    longest = max(topics.values(), key=len).strip("\n")
    assert text.count(longest) == 1


def test_text_of_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that stands under two names is taken once."""
    monkeypatch.setattr(pydoc_data.topics, "topics", {"b": "\nsame\n", "a": "first", "c": "same", "d": "last\n"})
    corpus = PythonDocs(0.5).load()
    assert (corpus.train + corpus.val).decode() == "first\n\n\nsame\n\n\nlast"


def test_python_without_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python without documentation is told so."""
    monkeypatch.setitem(__import__("sys").modules, "pydoc_data.topics", None)
    with pytest.raises(UsageError) as error:
        PythonDocs().load()
    assert str(error.value) == "data=python_docs: this Python comes without pydoc_data; choose another data="


# Downloads: a copy at hand. What is fetched is in test_cache.py.


def download(tmp_path: Path, **options: str) -> Download:
    settings = {
        "name": "steps",
        "url": "http://127.0.0.1:1/steps.txt",
        "sha256": SHA256,
        "folder": str(tmp_path / "kept"),
    }
    return Download(**{**settings, **options})


def test_own_copy(file: Path, tmp_path: Path) -> None:
    """A copy you have is used instead of the address."""
    corpus = download(tmp_path, path=str(file)).load()
    assert corpus.sha256 == SHA256 and corpus.name == "steps"
    assert not (tmp_path / "kept").exists()


def test_a_copy_with_another_hash_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(TEXT + b"!")
    assert refusal(download(tmp_path, path=str(other))) == (
        f"data.path ({other}) has sha256 {hashlib.sha256(TEXT + b'!').hexdigest()}, but data.sha256 is {SHA256}; "
        "to train on a text of your own, use data=file"
    )


def test_fetched_before(tmp_path: Path) -> None:
    """What was fetched before is used without a network."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "steps.txt").write_bytes(TEXT)
    assert download(tmp_path).load().sha256 == SHA256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sha256": "abc"}, "data.sha256 (abc) must be 64 hexadecimal digits, in small letters"),
        ({"sha256": SHA256.upper()}, f"data.sha256 ({SHA256.upper()}) must be 64 hexadecimal digits, in small letters"),
        ({"url": "file:///etc/hostname"}, "data.url (file:///etc/hostname) must start with https://"),
        ({"url": "ftp://a/b"}, "data.url (ftp://a/b) must start with https://"),
    ],
)
def test_download_refused(options: dict[str, str], message: str, tmp_path: Path) -> None:
    """A download without a hash or a web address is refused."""
    with pytest.raises(UsageError) as error:
        download(tmp_path, **options)
    assert str(error.value) == message
