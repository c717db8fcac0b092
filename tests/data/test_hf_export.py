"""Our tokenizers as Hugging Face's tools open them: the same ids for any text, or a refusal by name."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken_ext.openai_public as encodings
from tests.data.hf_folders import MAKES, TEXT, llama_3, write_folder

from attnlab.config.keys import config_dir
from attnlab.data.hf_export import to_hf
from attnlab.data.hf_files import load_hf_tokenizer
from attnlab.data.tasks.recall import Recall
from attnlab.data.tokenizers import ByteTokenizer, CharTokenizer, RankTokenizer, Tokenizer
from attnlab.data.vocabularies import PATTERN, train_bpe
from attnlab.errors import UsageError

POOLS = (
    *("Your journey starts. It's 1234\n\n  don't STOP!'ll'VE", "abcaba ", "0123456789\u0661²Ⅷ", "e\u0301a\u0300"),
    *("\r\n \t\u00a0\u2028\u3000\x0b\x0c\x1c\x85\u200b", "日本語שלוםไทยéèÅßſﬁﬆǅΣσς", "\u200d👩🇩🇪\U0010ffff\ufeff"),
    *("!?.,;'\u2019\u201c-_/*#<|endoftext|>", "\0\x01\x7f<s></s>[UNK]"),
)


def tiktokens(ranks: dict[bytes, int]) -> dict[str, Tokenizer]:
    """tiktoken's encodings, by their own patterns, of few ranks."""
    tokenizers = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "load_tiktoken_bpe", lambda *_, **__: ranks)
        patch.setattr(encodings, "data_gym_to_mergeable_bpe_ranks", lambda **_: ranks)
        for name in ("gpt2", "cl100k_base", "o200k_base"):
            settings = getattr(encodings, name)()
            first = min(settings["special_tokens"].values())
            special = {text: i - first + len(ranks) for text, i in settings["special_tokens"].items()}
            settings = {**settings, "special_tokens": special, "explicit_n_vocab": None}
            tokenizers[name] = RankTokenizer.from_encoding(tiktoken.Encoding(**settings))
    return tokenizers


def of_ours(text: str, n_vocab: int) -> dict[str, Tokenizer]:
    learnt = train_bpe(text, n_vocab)
    return {
        "bpe": RankTokenizer("bpe", learnt, pattern=PATTERN),
        "byte": ByteTokenizer(),
        "char": CharTokenizer("char", [sign.encode() for sign in {*text, *POOLS[0], *POOLS[1]}]),
        "task": Recall().tokenizer(),
        **tiktokens({token: rank for rank, token in enumerate(learnt)}),
    }


OURS = of_ours(TEXT, 400)


def strings(seed: int, n: int, tokenizer: Tokenizer) -> list[str]:
    """Texts that the tokenizer was made for, and texts that nobody expects."""
    draw = random.Random(seed)
    pools: list[Any] = [*POOLS, POOLS[0], POOLS[1]]
    if tokenizer.kind == "task":
        names = [f"{name} " for name in tokenizer.labels(range(9))]
        pools = [[*9 * names, "\n", "  ", "\x1c", "k"]]
    if tokenizer.kind == "characters":
        pools = pools[:2]
    return ["".join(draw.choice(draw.choice(pools)) for _ in range(draw.randrange(40))) for _ in range(n)]


def or_none(encode: Callable[[str], Any], text: str) -> Any:
    try:
        return encode(text)
    except Exception:
        return None


def check_equal(tokenizer: Tokenizer, folder: Path, n: int) -> int:
    """That AutoTokenizer gives the ids and the texts that ours gives, and none where ours refuses; how many it gave."""
    from transformers import AutoTokenizer

    for name, text in to_hf(tokenizer).items():
        (folder / name).write_text(text)
    theirs = AutoTokenizer.from_pretrained(folder)
    answers = 0
    for text in strings(0, n, tokenizer):
        ids = or_none(tokenizer.encode, text)
        assert or_none(lambda t: theirs(t).input_ids, text) == ids, repr(text)
        if ids is not None:
            assert theirs.decode(ids) == tokenizer.decode(ids)
            answers += len(text.split()) > 1
    assert len(theirs) == tokenizer.n_vocab
    return answers


@pytest.mark.parametrize("name", OURS)
def test_ids(name: str, tmp_path: Path) -> None:
    assert check_equal(OURS[name], tmp_path, 300) > 100


@pytest.mark.slow
def test_ids_of_many_strings(tmp_path: Path) -> None:
    """Of vocabularies as large as those that runs have, 10,000 texts each."""
    story = (config_dir().parent / "data" / "stories.txt").read_text(encoding="utf-8")[:400_000]
    for name, tokenizer in of_ours(story, 2048).items():
        (tmp_path / name).mkdir()
        assert check_equal(tokenizer, tmp_path / name, 10_000) > 4000


def test_wrong_ids_are_noticed(tmp_path: Path) -> None:
    """A tokenizer whose merges stand in another order, or whose digits are cut otherwise, is no equal."""
    gpt2 = OURS["gpt2"]
    assert isinstance(gpt2, RankTokenizer)
    turned = RankTokenizer("t", [*gpt2.tokens[:256], *gpt2.tokens[gpt2.n_ranks - 1 : 255 : -1]], pattern=gpt2.pattern)
    other = RankTokenizer("t", gpt2.tokens, pattern=gpt2.pattern.replace(r" ?\p{N}++", r"\p{N}"), n_ranks=gpt2.n_ranks)
    for wrong in (turned, other):
        texts = strings(0, 300, wrong)
        assert any(wrong.encode(text) != gpt2.encode(text) for text in texts)


@pytest.mark.parametrize("pattern", [r"(?s:.)", r"\p{N}{1,3}+a|[\s\S]"])
def test_pattern_refused(pattern: str) -> None:
    """What the two engines read otherwise is refused by name."""
    tokens = [bytes([i]) for i in range(256)]
    with pytest.raises(UsageError, match=r"^tokenizer mine cannot be exported: .* read its pattern otherwise \("):
        to_hf(RankTokenizer("mine", tokens, pattern=pattern))


def test_an_end_is_no_end_of_line(tmp_path: Path) -> None:
    """$ of a pattern is the end of the text here, and stays it."""
    tokens = [*(bytes([i]) for i in range(256)), b"\n\n", b"\na"]
    tokenizer = RankTokenizer("mine", tokens, pattern=r"a\n$|[^\n]|\n+(?!a)|\na?")
    assert tokenizer.encode("a\n\na\n") == [97, 10, 257, 10]
    for name, text in to_hf(tokenizer).items():
        (tmp_path / name).write_text(text)
    assert load_hf_tokenizer(tmp_path).encode("a\n\na\n") == tokenizer.encode("a\n\na\n")


@pytest.mark.parametrize("name", MAKES)
def test_back_again(name: str, tmp_path: Path) -> None:
    """A tokenizer that came in goes out as it came, and is the same when it comes in again."""
    tokenizer = load_hf_tokenizer(write_folder(tmp_path / "in", MAKES[name]()))
    files = to_hf(tokenizer)
    assert json.loads(files["tokenizer.json"]) == json.loads((tmp_path / "in" / "tokenizer.json").read_text())
    (tmp_path / "out").mkdir()
    for file, text in files.items():
        (tmp_path / "out" / file).write_text(text)
    assert load_hf_tokenizer(tmp_path / "out").sha256 == tokenizer.sha256


def test_around_a_text(tmp_path: Path) -> None:
    """What a tokenizer_config.json puts before a text is in the template afterwards, and the end has its name."""
    from transformers import AutoTokenizer

    settings = {"add_bos_token": True, "bos_token": "<|eot_id|>", "eos_token": "<|endoftext|>"}
    tokenizer = load_hf_tokenizer(write_folder(tmp_path, llama_3(), settings))
    for name, text in to_hf(tokenizer).items():
        (tmp_path / name).write_text(text)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("Your goat").input_ids == tokenizer.encode_prompt("Your goat")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (301, 0, 0)
    assert load_hf_tokenizer(tmp_path).bos == tokenizer.bos == (301,)
