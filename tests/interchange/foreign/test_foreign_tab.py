"""Foreign models in the Attention tab, in Chromium on a real TensorBoard: bidirectional, cross and signed maps.

Pictures go to the temporary folder of the test, or to the one that ATTNLAB_PICTURES names.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.inspection.event_records import read_records
from tests.inspection.tab_server import CHROMIUM, browser, new_page, tensorboard
from tests.interchange.foreign.models import save

from attnlab.cli import main

pytest.importorskip("transformers", reason="transformers is not installed: pip install -e '.[hf]'")
pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: apt-get install chromium"),
]
LONG = ("A long text about a goat that sat on a hill. " * 12)[:480]
PROMPT = "The goat 山羊 🐐 sees مرحبا and sits."


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("foreign")
    for name in ("qwen3_next", "bert"):
        main(["watch", f"hf={save(name, root / name)}", f"prompt={PROMPT}", f"logdir={root / 'logs'}"])
    for prompt, target in ((PROMPT, "Die Ziege sitzt."), (LONG, LONG[:300])):
        main(
            [
                "watch",
                f"hf={save('t5', root / 't5')}",
                f"prompt={prompt}",
                f"target={target}",
                f"logdir={root / 'logs'}",
            ]
        )
    return root / "logs"


@pytest.fixture(scope="module")
def tab(logs: Path) -> Iterator[Any]:
    with tensorboard(logs, "--samples_per_plugin", "attention=1000", runs=3) as address, browser() as chromium:
        page = new_page(chromium)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{address}/#attention")
        page.wait_for_selector("iframe")
        frame = page.wait_for_selector("iframe[src*=attention]").content_frame()
        frame.wait_for_selector("body[data-drawn]")
        yield page, frame


def show(frame: Any, run: str, sentence: str, view: str, start: str = PROMPT) -> None:
    """Choose a run, the sentence that begins and ends so, and a view, waiting for each drawing."""

    def settled(act: Any) -> None:
        before = frame.evaluate("document.body.dataset.drawn")
        act()
        frame.wait_for_function("before => document.body.dataset.drawn !== before", arg=before)

    settled(lambda: frame.click(f'button.run[data-run="{run}"]'))
    options = frame.eval_on_selector_all('select[aria-label="Sentence"] option', "all => all.map((o) => o.value)")
    (wanted,) = [option for option in options if option.startswith(start[:20]) and option.endswith(sentence)]
    if frame.input_value('select[aria-label="Sentence"]') != wanted:
        settled(lambda: frame.select_option('select[aria-label="Sentence"]', wanted))
    settled(lambda: frame.click(f"#view-{view}"))


def colours(frame: Any, selector: str) -> np.ndarray:
    """The pixels of a canvas, rows x columns x 3."""
    width, height, data = frame.eval_on_selector(
        selector,
        "c => [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]",
    )
    return np.array(data, dtype=np.uint8).reshape(height, width, 4)[..., :3]


NEVER = np.array([0xE9, 0xEB, 0xED], dtype=np.uint8)
SHOWN = [
    ("qwen3_next", PROMPT, True),
    ("bert", PROMPT, False),
    ("t5", "decoder.EncDecAttention", False),
    ("t5", "· encoder", False),
    ("t5", "decoder.SelfAttention", True),
]


@pytest.mark.parametrize(("run", "sentence", "causal"), SHOWN, ids=[f"{run} {part}" for run, part, _ in SHOWN])
def test_views(tab: Any, run: str, sentence: str, causal: bool, tmp_path: Path) -> None:
    """Grey stands for later tokens where no token reads them, nowhere else; every view is drawn without an error."""
    page, frame = tab
    folder = Path(os.environ.get("ATTNLAB_PICTURES", tmp_path))
    for view in ("grid", "head"):
        show(frame, run, sentence, view)
        page.screenshot(path=folder / f"foreign_{run}_{sentence.rpartition('.')[2].strip('· ')[:20]}_{view}.png")
        assert ("later tokens: never read" in frame.inner_text("main")) == causal
    grey = (colours(frame, "canvas.map") == NEVER).all(-1).mean()
    assert (grey > 0.1) if causal else (grey == 0)
    assert not page.errors


def test_memory_is_signed(tab: Any) -> None:
    """A memory layer has two colours, and says that it is signed."""
    _, frame = tab
    show(frame, "qwen3_next", PROMPT, "head")
    assert "kind of map: signed" in frame.inner_text("main") and "0 in the middle" in frame.inner_text("main")


def test_cross_cell(tab: Any, logs: Path) -> None:
    """Pointing at a cell of cross-attention names a token of either text, and the stored weight."""
    _, frame = tab
    show(frame, "t5", "decoder.EncDecAttention", "head")
    record = next(
        r for r in read_records(logs / "t5") if r.probe.endswith("EncDecAttention") and r.text.startswith(PROMPT)
    )
    place = frame.eval_on_selector("canvas.map", "c => ({...c.dataset})")
    left, top, cell = (float(place[key]) for key in ("left", "top", "cell"))
    frame.hover("canvas.above", position={"x": left + 4.5 * cell, "y": top + 2.5 * cell})
    text = frame.inner_text(".panel output")
    assert f"query “{record.tokens[2]}” (2) → key “{(record.keys or [])[4]}” (4)" in text
    shown = float(text.rpartition(" weight ")[2].partition(",")[0].replace("\u2212", "-"))
    assert shown == pytest.approx(float(record.weights[0, 2, 4]), rel=1e-3)
    frame.click("text=rollout")
    frame.wait_for_selector("text=there is no rollout from one text to another")
    frame.click("text=rollout")


def test_long_cross_map(tab: Any, tmp_path: Path) -> None:
    """Hundreds of tokens on both sides are drawn, with a label for some."""
    page, frame = tab
    show(frame, "t5", "decoder.EncDecAttention", "head", start=LONG)
    assert "one label for every" in frame.inner_text("main") and not page.errors
    page.screenshot(path=Path(os.environ.get("ATTNLAB_PICTURES", tmp_path)) / "foreign_long.png")
