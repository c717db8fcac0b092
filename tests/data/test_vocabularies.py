"""How a run gets its tokenizer: learnt from its training text, counted, or fetched."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import regex  # comes with tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.data import vocabularies
from attnlab.data.corpus import Corpus
from attnlab.data.tokenizers import RankTokenizer
from attnlab.data.vocabularies import (
    BPE,
    MAX_TOKEN_CHARACTERS,
    PATTERN,
    REMOTE_FILES,
    Bytes,
    Characters,
    Remote,
    Tiktoken,
    sized_to,
    train_bpe,
)
from attnlab.errors import FileFailure, UsageError

STORY = "The journey starts with one step, and one more step; don't count the 1234 steps of the journey.\n" * 30
OTHER = "Quick zebras jump over lazy quilts while quiet quails quarrel about quartz.\n" * 30
steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow


def corpus(train: str = STORY, val: str = OTHER) -> Corpus:
    return Corpus("mine", train.encode(), val.encode(), "0" * 64)


def cached_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


# BPE: what is learnt


def test_merges() -> None:
    """The first 256 ids are the bytes and every other joins two before it."""
    tokens = train_bpe(STORY, 400)
    assert tokens[:256] == [bytes([i]) for i in range(256)]
    assert 256 < len(tokens) <= 400 and len(set(tokens)) == len(tokens)
    for i, token in enumerate(tokens[256:], start=256):
        earlier = set(tokens[:i])
        assert any(token[:cut] in earlier and token[cut:] in earlier for cut in range(1, len(token)))


def test_the_most_frequent_pair_comes_first() -> None:
    # z and q stand together 12 times, a blank before z 8 times, the rest less often.
    assert train_bpe("zq\nzq\nzq\nzq zq zq zq zq zq zq zq zq xy xy", 258)[256:] == [b"zq", b" zq"]


def test_pair_that_occurs_once() -> None:
    """A pair that occurs once is not worth an id."""
    assert train_bpe("abcdefg hijklm", 1000) == [bytes([i]) for i in range(256)]


def test_tokens_are_fewer_than_bytes() -> None:
    """The text of tokens is shorter than its bytes."""
    tokenizer = RankTokenizer("bpe", train_bpe(STORY, 400), pattern=PATTERN)
    assert len(tokenizer.encode(STORY)) < len(STORY) / 3
    assert tokenizer.decode(tokenizer.encode(STORY)) == STORY


def test_tokens_stay_within_pieces() -> None:
    """No token crosses a piece or grows without end."""
    text = "*" * 500 + "word" * 100 + "\n" * 50 + "12345678" * 20 + " one two" * 50
    for token in train_bpe(text * 3, 600)[256:]:
        assert len(token) <= MAX_TOKEN_CHARACTERS
        assert regex.fullmatch(PATTERN, token.decode()), token  # one piece, never two


@steady
@given(text=st.text())
def test_the_pieces_leave_no_character_out(text: str) -> None:
    assert "".join(regex.findall(PATTERN, text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one two", ["one", " two"]),
        ("don't can\u2019t", ["don't", " can\u2019t"]),
        ("12345 67", ["123", "45", " 67"]),
        ("a, b!?\r\n\n c", ["a", ",", " b", "!?", "\r\n\n", " c"]),
        ("  x\t\ty", ["  ", "x", "\t\t", "y"]),
        ("e\u0301a 日本", ["e\u0301a", " 日本"]),
        ("'tis O'", ["'", "tis", " O", "'"]),
    ],
)
def test_pieces(text: str, pieces: list[str]) -> None:
    """Pieces are words numbers signs and blanks."""
    assert regex.findall(PATTERN, text) == pieces


@pytest.mark.parametrize(
    ("n_bytes", "ids"),
    [
        (0, 512),
        (1000, 512),
        (256 * 1023, 512),
        (256 * 1024, 1024),
        (256 * 1500, 1024),
        (1_000_000, 2048),
        (256 * 8192, 8192),
        (10**9, 8192),
    ],
)
def test_a_vocabulary_is_sized_to_its_text(n_bytes: int, ids: int) -> None:
    assert sized_to(n_bytes) == ids


# BPE: from which text, and where it is kept


def test_only_the_training_part_is_learnt_from(tmp_path: Path) -> None:
    tokenizer = BPE(290).build(corpus(), tmp_path)
    assert tokenizer.tokens == BPE(290).build(corpus(val="something else entirely"), tmp_path / "other").tokens
    assert b" journey" in tokenizer.tokens
    assert not [t for t in tokenizer.tokens[256:] if b"q" in t.lower()]  # which only the validation part holds
    assert tokenizer.tokens != BPE(290).build(corpus(train=OTHER), tmp_path).tokens


def test_learning_twice_gives_the_same(tmp_path: Path) -> None:
    first, second = (BPE(290).build(corpus(), tmp_path / name) for name in "ab")
    assert first.sha256 == second.sha256 and first.encode(STORY) == second.encode(STORY)
    assert cached_files(tmp_path / "a") == cached_files(tmp_path / "b")


def test_training_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Learning disturbs neither the environment nor the output."""
    for before in (None, "true"):
        if before is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
        train_bpe(STORY, 300)
        assert os.environ.get("TOKENIZERS_PARALLELISM") == before
    assert capfd.readouterr() == ("", "")


def never(*args: Any) -> list[bytes]:
    raise AssertionError("this was learnt before")


def test_tokenizer_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was learnt is kept under the hash of its text and settings."""
    first = BPE(290).build(corpus(), tmp_path)
    names = cached_files(tmp_path)
    assert len(names) == 1 and names[0].startswith("bpe-")
    BPE(291).build(corpus(), tmp_path)
    BPE(290).build(corpus(train=STORY + "!"), tmp_path)
    assert len(cached_files(tmp_path)) == 3
    monkeypatch.setattr(vocabularies, "train_bpe", never)
    again = BPE(290).build(corpus(val="another validation text"), tmp_path)
    assert again.sha256 == first.sha256


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "other", "binary"])
def test_a_damaged_file_is_made_again(damage: str, tmp_path: Path) -> None:
    first = BPE(290).build(corpus(), tmp_path)
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    good = path.read_bytes()
    content = json.loads(good)
    content["tokens"][280], content["tokens"][281] = content["tokens"][281], content["tokens"][280]
    bad = {
        "empty": b"",
        "cut": good[: len(good) // 2],
        "bit": good.replace(b'"n_vocab": 290', b'"n_vocab": 291'),
        "other": json.dumps(content).encode(),
        "binary": b"\xff\xfe\0",
    }[damage]
    assert bad != good
    path.write_bytes(bad)
    assert BPE(290).build(corpus(), tmp_path).sha256 == first.sha256
    assert path.read_bytes() == good


def test_unwritable_cache(tmp_path: Path) -> None:
    """A cache that cannot be written is refused."""
    (tmp_path / "cache").write_bytes(b"not a folder")
    with pytest.raises(FileFailure, match=r"^cannot write .*\.json \(.*\); paths\.cache says where it goes;"):
        BPE(290).build(corpus(), tmp_path / "cache")


def test_open_size(tmp_path: Path) -> None:
    """A size left open takes what the text gives."""
    assert BPE().build(corpus(), tmp_path).n_vocab < 512  # asked for 512, but no pair occurs twice any more
    rich = " ".join(f"w{i % 800}" for i in range(60_000))
    assert BPE().build(corpus(train=rich), tmp_path).n_vocab == sized_to(len(rich)) == 1024


def test_size_too_large(tmp_path: Path) -> None:
    """A size that the text cannot fill is refused with the most it can."""
    most = BPE().build(corpus(), tmp_path).n_vocab
    assert BPE(most).build(corpus(), tmp_path).n_vocab == most
    for _ in range(2):  # also when the tokenizer comes out of the cache
        with pytest.raises(UsageError) as error:
            BPE(5000).build(corpus(), tmp_path)
        assert str(error.value) == (
            f"tokenizer.n_vocab (5000) is more than the training text of mine ({len(STORY)} bytes) can fill: "
            f"it must be at most {most}, or null"
        )


@pytest.mark.parametrize("n_vocab", [256, 0, -1, True])
def test_size_without_merges(n_vocab: int) -> None:
    """A size without room for a merge is refused."""
    with pytest.raises(UsageError) as error:
        BPE(n_vocab)
    assert str(error.value) == f"n_vocab ({str(n_vocab).lower()}) must be null or an integer of at least 257"


# Characters and bytes


def test_characters_are_those_of_both_parts(tmp_path: Path) -> None:
    tokenizer = Characters().build(corpus("abé", "b\n日"), tmp_path)
    assert [t.decode() for t in tokenizer.tokens] == ["\n", "a", "b", "é", "日"]
    assert tokenizer.decode(tokenizer.encode("éa日")) == "éa日"
    assert not cached_files(tmp_path)


def test_bytes_need_no_corpus(tmp_path: Path) -> None:
    assert Bytes().build(corpus("x", "y"), tmp_path).n_vocab == 256
    assert not cached_files(tmp_path)


# tiktoken


def test_an_encoding_we_do_not_know_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^tokenizer\.name \(p50k\) must be gpt2 \| cl100k_base \| o200k_base$"):
        Tiktoken("p50k")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Remote, bytes]]:
    """Two small files in place of those of GPT-2, at an address that nobody has."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    contents = [b"one", b"two"]
    files = [Remote(f"http://127.0.0.1:1/{c.decode()}", vocabularies.sha256_of(c)) for c in contents]
    monkeypatch.setitem(REMOTE_FILES, "gpt2", tuple(files))
    return list(zip(files, contents, strict=True))


def put(files: list[tuple[Remote, bytes]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files:
        (folder / file.cache_name).write_bytes(content)


def test_tiktoken_cache(remote: list[tuple[Remote, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked for where tiktoken looks."""
    monkeypatch.setattr(vocabularies.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    ours, usual, chosen = tmp_path / "cache", tmp_path / "tmp" / "data-gym-cache", tmp_path / "chosen"
    vocabulary = Tiktoken("gpt2")
    assert vocabulary.folder(ours) == ours / "tiktoken"
    put(remote[:1], usual)
    assert vocabulary.folder(ours) == ours / "tiktoken"  # half of it is not enough
    put(remote, usual)
    assert vocabulary.folder(ours) == usual
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path / "older"))
    assert vocabulary.folder(ours) == tmp_path / "older"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(chosen))
    assert vocabulary.folder(ours) == chosen
    put(remote, chosen)
    vocabulary.prepare(ours)  # and nothing is fetched
    assert not ours.exists()


def test_no_network(remote: list[tuple[Remote, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the message says where to put the file."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    put(remote[:1], tmp_path)
    file = remote[1][0]
    with pytest.raises(UsageError) as error:
        Tiktoken("gpt2").prepare(tmp_path / "cache")
    message = str(error.value)
    assert message.startswith(f"tokenizer=gpt2: could not fetch {file.url} (")
    assert message.endswith(
        f"put the file at {tmp_path / file.cache_name} (sha256 {file.sha256}) or "
        "set TIKTOKEN_CACHE_DIR to a folder that holds it under that name"
    )


def test_tiktoken_hashes() -> None:
    """The names and hashes are those that tiktoken itself uses."""
    import tiktoken_ext.openai_public as theirs

    source = Path(theirs.__file__).read_text(encoding="utf-8")
    for files in REMOTE_FILES.values():
        for file in files:
            assert f'"{file.url}"' in source and file.sha256 in source
    # The name under which tiktoken keeps a file is documented by its value for GPT-4's.
    assert REMOTE_FILES["cl100k_base"][0].cache_name == "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def test_tiktoken_reads_the_files_from_our_folder(
    remote: list[tuple[Remote, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiktoken

    put(remote, tmp_path / "tiktoken")
    seen: list[str | None] = []

    def encoding(name: str) -> tiktoken.Encoding:
        seen.append(os.environ.get("TIKTOKEN_CACHE_DIR"))
        ranks = {bytes([i]): i for i in range(256)}
        return tiktoken.Encoding(name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256})

    monkeypatch.setattr(tiktoken, "get_encoding", encoding)
    monkeypatch.setattr(vocabularies.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    tokenizer = Tiktoken("gpt2").build(corpus(), tmp_path)
    assert seen == [str(tmp_path / "tiktoken")] and "TIKTOKEN_CACHE_DIR" not in os.environ
    assert tokenizer.n_vocab == 257 and tokenizer.decode(tokenizer.encode("<|endoftext|>")) == "<|endoftext|>"
