"""In a notebook maps draw themselves: without scripts, without a network, with the numbers that they hold."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from attnlab.errors import UsageError
from attnlab.inspection.notebook import MOST_LINES, token_columns
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps
from attnlab.interchange.foreign.parts import Inspection

TOKENS = ["Your", " <b>journey</b>", " starts"]
WEIGHTS = np.array([[[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]]] * 2, dtype=np.float32)
MAPS = PromptMaps("run", 3, "Your journey starts", TOKENS, [ChosenHeads(1, "probability", [0, 2], WEIGHTS, None)])


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)


def test_grid() -> None:
    """A picture per layer, inside the text itself; of a model of several parts, each below its name."""
    text = MAPS._repr_html_()
    assert Tags(text).names == ["img"] and "http" not in text and 'alt="The maps of layer 1 of run"' in text
    both = Inspection({"encoder": MAPS, "a<b": MAPS}, ["layer 2 has none"])._repr_html_()
    assert Tags(both).names == ["h4", "img", "h4", "img", "p"]


def test_head() -> None:
    """One head is a smaller picture; a head or a layer that is not there is refused in a line."""
    assert len(MAPS.head(1, 2)._repr_html_()) < len(MAPS._repr_html_())
    with pytest.raises(UsageError, match=r"^head \(1\) must be one of those of layer 1 \(0, 2\)$"):
        MAPS.head(1, 1)
    with pytest.raises(UsageError, match=r"^layer \(0\) must be one of those with a map here \(1\)$"):
        MAPS.columns(0)


def test_columns() -> None:
    """A line for each weight that is not 0, with its number and head, as strong as it is; tokens are text alone."""
    text = MAPS.columns(1)._repr_html_()
    assert {*Tags(text).names} == {"svg", "text", "path", "title"}
    assert text.count("<path") == np.count_nonzero(WEIGHTS) == 12
    assert "&lt;b&gt;journey&lt;/b&gt; reads Your: 0.2500 (head 2)" in text
    assert sorted({float(o) for o in re.findall(r'stroke-opacity="([\d.]+)"', text)}) == [0.2, 0.25, 0.3, 0.5, 0.75, 1]
    assert MAPS.columns(1, [2])._repr_html_().count("<path") == 6


def test_columns_bound() -> None:
    """Of a long text the strongest lines are drawn; below zero they are dashed."""
    tokens = [f"t{i}" for i in range(100)]
    maps = np.random.default_rng(0).normal(size=(1, 100, 100)).astype(np.float32)
    text = token_columns(maps, [0], tokens, tokens, "title")
    assert text.count("<path") == MOST_LINES and len(text) < 2_000_000
    assert f"{np.abs(maps).max():.4f}" in text and "stroke-dasharray" in text
