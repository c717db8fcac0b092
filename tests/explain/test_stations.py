"""The path from the chapter's first class on: one change at a time, and what is the same is the same."""

import io

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.tokenizers import ByteTokenizer
from attnlab.explain import chapter
from attnlab.explain.example import explained_run
from attnlab.explain.stations import CHAPTER, STATIONS, StationExample, all_examples, relative_of
from attnlab.explain.terminal import show_path, show_trained


@pytest.fixture(scope="module")
def heads() -> list[StationExample]:
    """From one head to several, and to one projection for all of them."""
    return list(all_examples(CHAPTER[3:]))


def text_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def paper() -> Console:
    return Console(file=io.StringIO(), width=80, color_system=None)


def test_order() -> None:
    """The chapter's classes in its order, then variants that each change one that came before."""
    names = [station.name for station in STATIONS]
    assert names[:5] == list(chapter.BOOK_EXAMPLES) and names[-1] == "hybrid"
    for i, station in enumerate(STATIONS):
        assert (station.beside is None) == (i == 0) and station.beside in (None, *names[:i])


def test_heads(heads: list[StationExample]) -> None:
    """A second head has the same matrices, cut in two; one projection is the same down to the context vectors."""
    cut, joined = (example.pairing for example in heads)
    assert cut is not None and joined is not None
    assert all(cut.recut(key) and "in other heads" in cut.verdict(key) for key in ("q", "k", "v"))
    assert not cut.recut("context") and not joined.recut("q")
    assert joined.summary.endswith("; differ: Output")
    assert [cost.params for cost in heads[1].costs] == [24, 18]


def test_recut_needs_the_numbers(heads: list[StationExample]) -> None:
    """Other numbers in other heads are not the same numbers."""
    pairing = heads[0].pairing
    assert pairing is not None
    step = pairing.one.step("q")
    assert step is not None and not np.shares_memory(step.values, step.values.copy())
    step.values[0, 0, 0] += 1
    assert not pairing.recut("q")
    step.values[0, 0, 0] -= 1


def test_printed(heads: list[StationExample]) -> None:
    """Each station with its change, what is the same, its costs, and its command, within 80 columns."""
    console = paper()
    show_path(heads, console)
    lines = text_of(console)
    assert lines[0].startswith("Each pair below is built in the smallest sizes")
    assert "2. multi_head, beside stacked_heads" in lines and max(map(cell_len, lines)) <= 80
    assert "numbers learned: 18 -> 24; stored to go on after 6 tokens: 24 -> 24" in lines
    assert lines.count("  what journey reads, first head") == 2
    assert "attnlab explain attention=multi_head against=stacked_heads" in lines


def test_end(heads: list[StationExample]) -> None:
    """A layer that was trained ends the path beside the layer that is most like it, with what it does besides."""
    torch.manual_seed(0)
    settings = ["model.n_layers=1", "model.d_model=16", "model.n_heads=2", "model.context=32", "attention=multi_head"]
    trained = explained_run(
        "run", build_model(compose_config(settings), 256).eval(), ByteTokenizer(), "abc", layer=1, token=None
    )
    pairing = relative_of(trained, heads)
    assert (pairing.one.name, pairing.other.name) == ("your layer", "multi_head")
    assert [relative_of(example.example, heads).other.name for example in heads] == ["stacked_heads", "multi_head"]
    console = paper()
    show_trained(pairing, "attnlab explain ...", console)
    text = " ".join(line.strip() for line in text_of(console))
    assert "besides: Embeddings, Queries, as projected, Keys, as projected" in text
    assert "d_model (16 here, 3 in multi_head)" in text and "position (RoPE here, NoPE in multi_head)" in text
    assert f"numbers learned: 24 -> {4 * 16 * 16}" in text and "what c reads" in text
