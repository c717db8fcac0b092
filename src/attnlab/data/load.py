"""From what data= and tokenizer= name to tokens: a text is tokenised, a task has tokens of its own."""

from dataclasses import replace
from pathlib import Path

from attnlab.data.batches import TokenSplits, load_splits
from attnlab.data.corpus import Source
from attnlab.data.dataset import Dataset
from attnlab.data.packing import packed
from attnlab.data.task import Task, TaskTokens
from attnlab.data.text import Order, Text
from attnlab.data.token_files import TokenText
from attnlab.data.tokenizers import Tokenizer
from attnlab.data.vocabularies import Vocabulary
from attnlab.errors import UsageError


def load_dataset(source: Source | Task, vocabulary: Vocabulary, cache: Path | str) -> tuple[Tokenizer, Dataset]:
    """The tokenizer of a new run and what it is trained on."""
    if isinstance(source, Task):
        if not isinstance(vocabulary, TaskTokens):
            raise UsageError(
                f"tokenizer ({type(vocabulary).__name__}) has no text to cut: {type(source).__name__} is a task with "
                "tokens of its own; leave tokenizer= out, or write tokenizer=task"
            )
        return source.tokenizer(), source
    vocabulary.prepare(cache)
    text = source.load(Path(cache))
    tokenizer = vocabulary.build(text, cache)
    splits = _splits(text, tokenizer, cache, source.order)
    splits = replace(splits, remarks=[*splits.remarks, *vocabulary.remarks(text)])
    return tokenizer, _in_rows(splits, source, tokenizer)


def reload_dataset(source: Source | Task, tokenizer: Tokenizer, cache: Path | str, *, tested: bool = False) -> Dataset:
    """What a run was trained on, its tokenizer being known; token ids are taken from the cache, but not put there.

    `tested` puts the test part, which nothing has seen, in the place of the validation part; refused where none is.
    """
    if isinstance(source, Task):
        return source.tested() if tested else source
    text = source.load(Path(cache), keep=False)
    if tested:
        text = text.tested()
    return _in_rows(_splits(text, tokenizer, cache, source.order, keep=False), source, tokenizer)


def _splits(
    text: Text, tokenizer: Tokenizer, cache: Path | str, order: Order | None, *, keep: bool = True
) -> TokenSplits:
    if isinstance(text, TokenText):
        return text.splits(tokenizer, order)
    return load_splits(text, tokenizer, cache, order=order, keep=keep)


def _in_rows(splits: TokenSplits, source: Source, tokenizer: Tokenizer) -> Dataset:
    """The text in windows, or packed by documents where `data.documents` says so."""
    return packed(splits, tokenizer, source.separator) if source.documents else splits
