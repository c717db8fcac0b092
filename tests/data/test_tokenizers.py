"""Text to ids and back, for every kind of tokenizer and every kind of text."""

import base64
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attnlab.data.stored_tokenizers import KINDS, from_json, load_tokenizer
from attnlab.data.token_labels import LABEL_CHARACTERS, label
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer, Tokenizer
from attnlab.data.vocabularies import PATTERN, train_bpe
from attnlab.errors import UsageError

steady = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow

STORY = "Your journey starts with one step. It's 1234 steps, don't stop!\n\n  The café is  open…\r\n" * 5
HOSTILE = (
    "",
    " ",
    "\0\x01\x7f",
    "<|endoftext|><|fim_prefix|> <|endofprompt|>",
    "\r\n\r \n\n\t \u00a0\u2028\u3000",
    "don't can\u2019t 'tis O'''x ''",
    "e\u0301 \u0301 a\u0300\u0301\u0302",
    "👩\u200d👩\u200d👧 🇩🇪 ﷽ \U0010ffff \ufeff\ufffe",
    "שלום عليكم 日本語 ไทย \u202eabc",
    "١٢٣٤ 12345678 Ⅷ ²³",
    "a" * 3000,
    "aA" * 100 + "!?" * 100,
)


def ranks() -> RankTokenizer:
    return RankTokenizer("bpe", train_bpe(STORY, 300), pattern=PATTERN)


def characters(text: str) -> CharTokenizer:
    return CharTokenizer("char", [c.encode() for c in set(text)])


RANKS, BYTES = ranks(), ByteTokenizer()
ALL: dict[str, Tokenizer] = {"ranks": RANKS, "characters": characters(STORY), "bytes": BYTES}


def all_examples(test: Callable[..., None]) -> Callable[..., None]:
    for text in HOSTILE:
        test = example(text=text)(test)
    return test


# Round trips


@pytest.mark.parametrize("tokenizer", [RANKS, BYTES], ids=["ranks", "bytes"])
@steady
@given(text=st.text())
@all_examples
def test_decoding_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()
    assert all(0 <= i < tokenizer.n_vocab for i in ids)
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()
    array = tokenizer.encode_array(text)
    assert array.dtype == np.int32 and array.tolist() == ids


@pytest.mark.parametrize("tokenizer", [RANKS, BYTES], ids=["ranks", "bytes"])
@steady
@given(texts=st.lists(st.text(st.characters(codec="utf-8")) | st.sampled_from(["", " ", "step", "\0", "a\0b", "\n"])))
def test_documents_at_once(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Texts that are encoded together get the ids that each gets alone, whatever they hold."""
    several = tokenizer.encode_documents(texts)
    assert [ids.tolist() for ids in several] == [tokenizer.encode(text) for text in texts]


@steady
@given(text=st.text(min_size=1))
@all_examples
def test_characters_round_trip(text: str) -> None:
    """Characters give back any text of theirs one id each."""
    tokenizer = characters(text or "x")
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and len(ids) == len(text)
    assert [tokenizer.token_bytes(i).decode() for i in ids] == list(text)
    assert tokenizer.n_vocab == len(set(text or "x"))


@steady
@given(data=st.binary())
def test_bytes_that_are_no_text(data: bytes) -> None:
    """Bytes that are no text decode to something."""
    assert BYTES.decode_bytes(list(data)) == data
    assert BYTES.decode(list(data)) == data.decode(errors="replace")


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
def test_kinds_of_ids(tokenizer: Tokenizer) -> None:
    """Ids may come as list array tensor or stream."""
    ids = tokenizer.encode("Your step")
    for form in (ids, tuple(ids), iter(ids), np.array(ids, dtype=np.uint16), torch.tensor(ids)):
        assert tokenizer.decode(form) == "Your step"
    for nothing in ([], iter([]), np.array([], dtype=np.int32)):
        assert tokenizer.decode(nothing) == ""


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer) -> None:
    for wrong in (-1, tokenizer.n_vocab, 10**9):
        with pytest.raises(UsageError) as error:
            tokenizer.decode([0, wrong])
        n = tokenizer.n_vocab
        assert str(error.value) == f"token id {wrong} is not in the vocabulary of {tokenizer.name} (0 .. {n - 1})"


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
@pytest.mark.parametrize(("text", "point", "place"), [("\udc80", "DC80", 0), ("ab\ud800c", "D800", 2)])
def test_half_a_character(tokenizer: Tokenizer, text: str, point: str, place: int) -> None:
    """Half a character is refused with its place."""
    with pytest.raises(UsageError) as error:
        tokenizer.encode(text)
    assert str(error.value) == (
        f"the text holds U+{point} at character {place}, which is not a character: it was not UTF-8 where it came from"
    )


# Each kind


def test_special_tokens_are_ordinary_text() -> None:
    text = "<|endoftext|>"
    encoding = tiktoken.Encoding(
        "special",
        pat_str=PATTERN,
        mergeable_ranks={bytes([i]): i for i in range(256)},
        special_tokens={text: 256, "<|later|>": 300},
    )
    tokenizer = RankTokenizer.from_encoding(encoding)
    assert tokenizer.encode(text) == list(text.encode()) == encoding.encode(text, disallowed_special=())
    assert tokenizer.n_vocab == encoding.n_vocab == 301 and tokenizer.n_ranks == 256
    assert tokenizer.decode([256]) == text and tokenizer.decode([300]) == "<|later|>"
    assert tokenizer.decode([299]) == ""  # an id that the encoding leaves unused
    again = from_json(tokenizer.to_json(), "here")
    assert again.encode(text) == list(text.encode()) and again.decode([256]) == text


def test_gap_in_ranks() -> None:
    """An encoding with a gap in its ranks is refused."""
    holes = {bytes([i]): i + (i > 9) for i in range(256)}
    encoding = tiktoken.Encoding("holes", pat_str=PATTERN, mergeable_ranks=holes, special_tokens={})
    with pytest.raises(UsageError, match=r"^the ranks of holes are not 0 \.\. 255$"):
        RankTokenizer.from_encoding(encoding)


@steady
@given(text=st.text(alphabet=st.sampled_from("Yourney stp.'1\n é"), max_size=60))
def test_merges_by_rank(text: str) -> None:
    """The definition of byte-pair encoding, on the pieces that the pattern cuts."""
    import regex  # comes with tiktoken

    order = {token: rank for rank, token in enumerate(RANKS.tokens)}
    expected: list[int] = []
    for piece in regex.findall(PATTERN, text):
        parts = [bytes([byte]) for byte in piece.encode()]
        while True:
            pairs = [(order[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in order]
            if not pairs:
                break
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        expected += [order[part] for part in parts]
    assert RANKS.encode(text) == expected


def test_characters_are_numbered_by_code_point() -> None:
    tokenizer = characters("b\n𝄞aé日a")
    assert [t.decode() for t in tokenizer.tokens] == ["\n", "a", "b", "é", "日", "𝄞"]
    assert tokenizer.encode("abba") == [1, 2, 2, 1]
    assert CharTokenizer("char", tokenizer.tokens[::-1]).tokens == tokenizer.tokens


@pytest.mark.parametrize(("text", "named"), [("abz", "'z' (U+007A)"), ("\n", "'\\n' (U+000A)"), ("aé", "'é' (U+00E9)")])
def test_unknown_character(text: str, named: str) -> None:
    """A character that is not known is refused by name."""
    with pytest.raises(UsageError) as error:
        characters("abc").encode(text)
    assert str(error.value) == (
        f"the text holds {named}, which is not among the 3 characters of the corpus that tokenizer=char knows; "
        "leave it out, or use tokenizer=bpe or byte"
    )


def test_a_byte_is_its_own_id() -> None:
    assert BYTES.encode("aé") == [0x61, 0xC3, 0xA9] and BYTES.n_vocab == 256
    assert [BYTES.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]


# Files


@pytest.mark.parametrize("tokenizer", ALL.values(), ids=ALL)
def test_tokenizer_without_corpus(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A folder holds a tokenizer without its corpus."""
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    again = load_tokenizer(tmp_path / "run" / "tokenizer.json")
    assert type(again) is type(tokenizer) and again.sha256 == tokenizer.sha256
    assert (again.name, again.tokens, again.n_vocab) == (tokenizer.name, tokenizer.tokens, tokenizer.n_vocab)
    assert again.encode("Your step\n") == tokenizer.encode("Your step\n")
    assert again.to_json() == tokenizer.to_json()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["tokenizer.json"]


def test_kinds_are_known_by_their_names() -> None:
    assert set(KINDS) == {"ranks", "characters", "bytes", "task", "hf"}
    assert all(cls.kind == kind for kind, cls in KINDS.items())


def test_equal_hashes_mean_equal_ids() -> None:
    tokens = list(RANKS.tokens)
    same = RankTokenizer("another name", tokens, pattern=PATTERN)
    swapped = RankTokenizer("bpe", [*tokens[:256], tokens[257], tokens[256], *tokens[258:]], pattern=PATTERN)
    others = [swapped, RankTokenizer("bpe", tokens, pattern=r"\S+|\s+"), BYTES, characters("ab"), characters("abc")]
    others.append(RankTokenizer("bpe", tokens, pattern=PATTERN, n_ranks=280))
    assert same.sha256 == RANKS.sha256
    assert len({t.sha256 for t in [RANKS, *others]}) == 7


def changed(**keys: Any) -> str:
    content = json.loads(RANKS.to_json())
    for key, value in keys.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[1, 2]",
        '"text"',
        "null",
        "{}",
        RANKS.to_json()[:-40],
        changed(kind="words"),
        changed(kind=None),
        changed(tokens=None),
        changed(tokens=["!"]),
        changed(tokens=7),
        changed(pattern="("),
        changed(pattern=None),
        changed(colour="blue"),
        changed(n_ranks="all"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^here is not a tokenizer that attnlab wrote \(\w+: "):
        from_json(text, "here")


@pytest.mark.parametrize(
    "text",
    [
        changed(tokens=[base64.b64encode(t).decode() for t in (*RANKS.tokens[:-1], b"other")]),
        changed(tokens=[base64.b64encode(t).decode() for t in RANKS.tokens[:-1]]),
        changed(sha256="0" * 64),
        changed(n_vocab=7),
        changed(pattern=r"\S+|\s+"),
    ],
)
def test_changed_tokenizer(text: str) -> None:
    """A tokenizer whose tokens changed is refused."""
    with pytest.raises(UsageError, match=r"^here is damaged: its tokens do not have the sha256 it states$"):
        from_json(text, "here")


def test_a_folder_without_a_tokenizer_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_tokenizer(tmp_path / "tokenizer.json")
    assert str(error.value) == f"{tmp_path / 'tokenizer.json'} does not exist: {tmp_path} is not the folder of a run"


def test_unreadable_tokenizer(tmp_path: Path) -> None:
    """A tokenizer that cannot be read is refused."""
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read: "):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(UsageError, match=r"tokenizer\.json cannot be read: Is a directory$"):
        load_tokenizer(tmp_path / "tokenizer.json")


# Labels


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (b" the", "·the"),
        (b"  ", "··"),
        (b"\n", "\\n"),
        (b"\r\n\t", "\\r\\n\\t"),
        (b"\0\x7f", "\\x00\\x7f"),
        (b"\xc3", "\\xc3"),
        ("é".encode(), "é"),
        ("\u2018\u2019\u201c\u201d\u2013\u2014".encode(), "''\"\"---"),
        ("…".encode(), "..."),
        ("日".encode(), "日"),
        ("👩".encode(), "👩"),
        ("\u0301x".encode(), "\u25cc\u0301x"),
        ("\u202e".encode(), "\\u202e"),
        ("\u00a0".encode(), "\\xa0"),
        (b"", "(none)"),
        (b"twelve signs", "twelve·signs"),
        (b"thirteen sign", "thirteen·s.."),
    ],
)
def test_label(token: bytes, shown: str) -> None:
    assert label(token) == shown


@steady
@given(token=st.one_of(st.binary(), st.text().map(str.encode)))
def test_label_short_and_printable(token: bytes) -> None:
    shown = label(token)
    assert 1 <= len(shown) <= LABEL_CHARACTERS
    assert shown.isprintable() and not any(map(str.isspace, shown))


def test_labels_stand_for_ids() -> None:
    assert BYTES.labels(b"a \n") == BYTES.labels(torch.tensor([97, 32, 10])) == ["a", "·", "\\n"]
