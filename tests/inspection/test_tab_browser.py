"""The tab in Chromium on a real TensorBoard server: every view, values on screen, hostile tokens, keys, dark mode.

Pictures of the views go to the temporary folder of the test, or to the one that ATTNLAB_PICTURES names.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.inspection.tab_screen import MINUS, Screen
from tests.inspection.tab_server import CHROMIUM, TOKENS, browser, copies, new_page, record, tensorboard, write_run
from torch.utils.tensorboard import SummaryWriter

from attnlab.inspection.colours import DIVERGING, SEQUENTIAL, blend
from attnlab.inspection.records import record_summary

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: apt-get install chromium"),
]

STEPS = [0, 1, 8, 60]
SAID = "silenced: validation loss +0.0123 (zero), +0.0045 (mean), at step 60"
SILENCED = [
    ("L00H00", ("zero", 0.0123), ("mean", 0.0045)),
    ("L00H01", ("zero", -0.0002), ("mean", 0.0)),
    ("L01H00", ("zero", 0.25), ("mean", 0.0001)),
    ("L01H01", ("zero", 0.001), ("mean", 0.5)),
]
HOSTILE = ['<img src=x onerror="window.hacked=1">', "</script><b>", "&lt;", "\n", "\u202e", "it's", "日本"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of ours, one that has no map of its second layer, one with hostile tokens, and another tool's run."""
    root = tmp_path_factory.mktemp("tab") / "runs"
    metrics = [
        (f"attention_entropy/L{layer:02d}H{head:02d}", 2.0 - head / 3 - step / 100, step)
        for layer in range(2)
        for head in range(2)
        for step in STEPS
    ]
    metrics += [("attention_entropy/uniform_causal", 1.9, step) for step in STEPS]
    metrics += [(f"attention_induction/L{i:02d}H{h:02d}", i / 2 + h / 5, 60) for i in range(2) for h in range(2)]
    for seed, name in enumerate(("multi_head", "signed")):
        kind = "signed" if name == "signed" else "probability"
        maps = [record(step, layer, kind=kind, seed=seed) for step in STEPS for layer in range(2)]
        maps += [record(step, 0, kind=kind, seed=seed, sentence="prompt") for step in STEPS]
        write_run(root / name, maps, metrics)
    silenced = [(f"head_ablation_{how}/{head}", change, 60) for head, *both in SILENCED for how, change in both]
    write_run(root / "multi_head", [], silenced)
    for name in ("multi_head", "signed"):
        (root / name / "config.yaml").touch()
    write_run(root / "gap", [record(0, 0), record(0, 2)])
    write_run(root / "<i>hostile</i>", [record(0, 0, tokens=HOSTILE, sentence="<b>bold</b>")])
    write_run(root / "other", [], [("loss", 1.0, 0)])
    with SummaryWriter(str(root / "damaged")) as writer:
        for step in (0, 1):
            summary = record_summary(record(step, 0))
            if step:
                summary.value[0].tensor.string_val[1] = b"rubbish"
            writer.file_writer.add_summary(summary, step)
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with tensorboard(folder, "--samples_per_plugin", "attention=1000") as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def screen(chromium: Any, address: str) -> Iterator[Screen]:
    found = Screen(chromium, address)
    yield found
    assert found.errors == []
    assert found.page.evaluate("window.hacked") is None
    found.page.close()


def test_the_tab_opens_in_tensorboard_itself(chromium: Any, address: str, tmp_path: Path) -> None:
    page = new_page(chromium)
    page.goto(f"{address}/#attention")
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("body[data-drawn]")
    frame.click('[data-run="multi_head"].run')
    frame.wait_for_selector("canvas.thumbnail")
    assert "attention" in page.inner_text("body").lower()
    page.evaluate("document.body.classList.add('dark-mode')")
    frame.wait_for_selector("html.dark")
    page.screenshot(path=str(tmp_path / "tensorboard.png"))
    page.close()


def test_the_grid_shows_every_head_and_sorts_them(screen: Screen, tmp_path: Path) -> None:
    screen.show("multi_head")
    names = screen.page.locator(".card > span:first-child").all_inner_texts()
    assert [name.strip() for name in names] == ["L00 H00", "L00 H01", "L01 H00", "L01 H01"]
    screen.choose("Sort by", "attention_induction")
    shown = [name.split() for name in screen.page.locator(".card > span:first-child").all_inner_texts()]
    assert [(f"{a} {b}", float(c)) for a, b, c in shown] == [
        ("L01 H01", 0.7), ("L01 H00", 0.5), ("L00 H01", 0.2), ("L00 H00", 0.0),
    ]  # fmt: skip
    screen.shot(tmp_path, "grid")
    screen.act(lambda: screen.page.locator(".card").first.click())
    assert screen.text("h2 >> nth=1") == "L01 H01 at step 60"


def test_head_effects(screen: Screen, tmp_path: Path) -> None:
    """What a silenced head changes stands beside its map."""
    screen.show("multi_head")
    below = screen.page.locator(".silenced").all_inner_texts()
    assert below == ["silenced +0.0123", f"silenced {MINUS}0.0002", "silenced +0.2500", "silenced +0.0010"]
    screen.choose("Sort by", "head_ablation_zero")
    heads = ["L01 H00", "L00 H00", "L01 H01", "L00 H01"]
    assert screen.page.locator(".card > span:first-child").all_inner_texts() == heads
    screen.choose("Sort by", "head_ablation_mean")
    assert screen.page.locator(".silenced").all_inner_texts()[0] == "silenced +0.5000"
    screen.press("ArrowLeft")
    assert len(screen.page.locator(".silenced").all()) == 4, "it belongs to the run, not to a step"
    screen.shot(tmp_path, "grid_ablation")
    screen.view("head")
    assert screen.text(".effect") == SAID
    screen.view("training")
    assert "silenced: validation loss +0.0123" in screen.text(".left")
    assert screen.page.locator("figure[data-metric=head_ablation_zero]").count() == 0


def test_missing_head_effects(screen: Screen, folder: Path) -> None:
    """A run without it names the command that measures it."""
    screen.show("signed")
    for view in ("grid", "head"):
        screen.view(view)
        assert screen.text(".effect code") == f"attnlab ablate_heads run={folder}/signed"


def test_emergence_is_marked(screen: Screen) -> None:
    """The step at which a head emerges is marked on its curve."""
    screen.show("multi_head")
    screen.view("training")
    assert "emerges" not in screen.text(".charts"), "its score stays below the threshold"
    screen.choose("Layer", "1")
    screen.choose("Head", "1")
    assert screen.text("figure[data-metric=attention_induction] .emergence").strip() == (
        "▲ emerges at step 60 (score ≥ 0.3)"
    )
    assert screen.page.locator(".emergence").count() == 1, "an entropy does not emerge"


@pytest.mark.parametrize("run", ["multi_head", "signed"])
def test_stored_values_on_screen(screen: Screen, run: str, tmp_path: Path) -> None:
    """Values and colours on screen are those that were stored."""
    screen.show(run)
    screen.view("head")
    screen.choose("Layer", "1")
    screen.choose("Head", "1")
    kind = "signed" if run == "signed" else "probability"
    stored = record(60, 1, kind=kind, seed=int(run == "signed")).weights[1].astype(np.float64)
    seen = np.array([[screen.cell(i, j) for j in range(i + 1)][-3:] for i in range(2, 7)])
    expected = np.array([stored[i, i - 2 : i + 1] for i in range(2, 7)])
    assert seen == pytest.approx(expected, rel=6e-4)  # four digits are shown
    screen.choose("Colours", "linear")
    top = 1.0 if kind == "probability" else float(re.findall(r"to ([\d.]+),", screen.text(".legend-scale"))[0])
    table = blend(DIVERGING if kind == "signed" else SEQUENTIAL, 255).astype(int)
    for row, column in ((1, 0), (4, 2), (6, 6), (6, 1)):
        place = stored[row, column] / top
        colour = table[round((place + 1) / 2 * 254 if kind == "signed" else place * 254)]
        assert np.abs(np.array(screen.pixel(row, column)) - colour).max() <= 3
    assert np.abs(np.array(screen.pixel(0, 3)) - [0xE9, 0xEB, 0xED]).max() <= 1, "later tokens are grey"
    screen.shot(tmp_path, f"head_{run}")


def test_a_row_is_shown_as_text_and_bars(screen: Screen) -> None:
    screen.show("multi_head")
    screen.view("head")
    assert screen.text(".row-panel h3") == "What “.” (6) reads"
    screen.act(lambda: screen.page.click(".coloured-text span >> nth=2"))
    assert screen.text(".row-panel h3") == "What “·starts” (2) reads"
    titles = [span.get_attribute("title") for span in screen.page.query_selector_all(".coloured-text span")]
    stored = record(60, 0).weights[0, 2].astype(float)
    assert [float(title) for title in titles] == pytest.approx(stored, rel=6e-4)
    longest = re.search(r"([\d.]+)\.$", screen.text(".row-panel output"))
    assert longest and float(longest[1]) == pytest.approx(stored.max(), rel=6e-4)


def test_the_options_do_what_they_say(screen: Screen) -> None:
    screen.show("multi_head")
    screen.view("head")
    stored = record(60, 0)
    assert stored.value_norm is not None
    weights, norms = stored.weights[0].astype(float), stored.value_norm[0].astype(float)
    screen.tick("value-weighted")
    assert screen.cell(5, 3) == pytest.approx(weights[5, 3] * norms[3], rel=1e-3)
    screen.tick("without the first column")
    assert screen.cell(5, 2) == pytest.approx(weights[5, 3] * norms[3], rel=1e-3)
    screen.tick("value-weighted")
    top = float(re.findall(r"0 to ([\d.]+)", screen.text(".legend-scale"))[0])
    assert weights[:, 1:].max() <= top * 1.001 and top <= 1
    screen.tick("without the first column")
    screen.choose("Layer", "1")
    screen.tick("rollout")
    rolled = np.eye(7)
    for layer in range(2):
        maps = record(60, layer).weights.astype(float)
        rolled = (maps / maps.sum(-1, keepdims=True)).mean(0) @ rolled / 2 + rolled / 2
    assert [screen.cell(6, j) for j in range(7)] == pytest.approx(rolled[6].tolist(), rel=2e-3)


def test_comparison_of_runs(screen: Screen, tmp_path: Path) -> None:
    """Two runs are compared side by side by mean and by difference."""
    screen.show("multi_head")
    screen.view("compare")
    a, b = (record(60, 0, kind=kind, seed=i).weights.astype(float) for i, kind in enumerate(("probability", "signed")))
    figure = 'figure[data-run="{}"] .panel'
    screen.tick("pair heads by what they read")
    assert "head 0 of one need not be head 0 of another" in screen.text("main .warning")
    assert screen.cell(4, 2, figure.format("multi_head")) == pytest.approx(a[0, 4, 2], rel=6e-4)
    assert screen.cell(4, 2, figure.format("signed")) == pytest.approx(b[0, 4, 2], rel=6e-4)
    assert SAID in screen.text('figure[data-run="multi_head"]'), "a pretty map that does nothing is seen to do nothing"
    assert screen.text("main").count("attnlab ablate_heads") == 1, "once, not under each map"
    screen.shot(tmp_path, "compare")
    screen.choose("Show", "difference")
    assert f"multi_head: {SAID}" in screen.text('figure[data-run="signed"]')
    screen.tick("mean over heads")
    assert "ablate_heads" not in screen.text("main") and SAID not in screen.text("main")
    screen.choose("Show", "side by side")
    assert screen.cell(4, 2, figure.format("signed")) == pytest.approx(b[:, 4, 2].mean(), rel=6e-4)
    screen.choose("Show", "difference")
    expected = b[:, 4, 2].mean() - a[:, 4, 2].mean()
    assert screen.cell(4, 2, figure.format("signed")) == pytest.approx(expected, rel=6e-4)
    assert "difference of weight" in screen.text(".legend-scale") and "0 in the middle" in screen.text(".legend-scale")
    screen.shot(tmp_path, "difference")


def test_no_difference_of_other_tokens(screen: Screen) -> None:
    """Runs of other tokens have no difference and the tab says so."""
    screen.show("<i>hostile</i>")
    screen.view("compare")
    screen.act(lambda: screen.page.click('input[aria-label="compare gap"]'))
    assert "gap: it has no maps of the sentence “<b>bold</b>”" in screen.text("main")


def test_playing_training(screen: Screen, tmp_path: Path) -> None:
    """Training is played with a marker on the curves."""
    screen.show("multi_head")
    screen.view("training")
    assert screen.text("figure[data-metric=attention_entropy] strong").strip() == "1.4"  # 2 - 60 / 100
    screen.act(lambda: screen.page.click("#play"))
    screen.page.wait_for_function("document.querySelector('#step-text').textContent.startsWith('60 ')")
    screen.page.wait_for_function("document.querySelector('#play').textContent === '▶'")
    screen.shot(tmp_path, "training")
    screen.press("ArrowLeft")
    assert screen.text("#step-text") == "8 (3 of 4)"
    assert screen.cell(3, 1) == pytest.approx(float(record(8, 0).weights[0, 3, 1]), rel=6e-4)
    assert float(screen.text("figure[data-metric=attention_entropy] strong")) == pytest.approx(1.92)


def test_arrows_change_step_layer_and_head(screen: Screen) -> None:
    screen.show("multi_head")
    screen.view("head")
    screen.page.evaluate("document.activeElement.blur()")
    for key, title in (
        ("ArrowLeft", "L00 H00 at step 8"),
        ("ArrowDown", "L01 H00 at step 8"),
        ("Shift+ArrowRight", "L01 H01 at step 8"),
        ("ArrowUp", "L00 H01 at step 8"),
        ("ArrowRight", "L00 H01 at step 60"),
        ("ArrowRight", "L00 H01 at step 60"),
        ("Shift+ArrowLeft", "L00 H00 at step 60"),
    ):
        screen.press(key)
        assert screen.text("main h2") == title
        assert screen.cell(6, 3) == pytest.approx(stored_at(title), rel=6e-4)


def stored_at(title: str) -> float:
    layer, head, step = (int(n) for n in re.findall(r"\d+", title))
    return float(record(step, layer).weights[head, 6, 3])


def test_hostile_tokens_and_names_are_only_text(screen: Screen, tmp_path: Path) -> None:
    screen.show("<i>hostile</i>")
    screen.view("head")
    for view in ("grid", "training", "compare", "head"):
        screen.view(view)
        assert screen.page.locator("main img, main b, main i, header b, .side-bar i").count() == 0
    shown = [span.inner_text() for span in screen.page.query_selector_all(".coloured-text span")]
    assert shown == [
        '<img·src=x·onerror="window.hacked=1">',
        "</script><b>",
        "&lt;",
        "\\n",
        "\\u{202e}",
        "it's",
        "日本",
    ]
    screen.cell(1, 0)
    assert 'key “<img·src=x·onerror="window.hacked=1">” (0)' in screen.text(".panel .cell-text")
    screen.shot(tmp_path, "hostile")


def test_missing_and_damaged(screen: Screen) -> None:
    """What is missing or damaged is said and the rest is shown."""
    screen.show("damaged")
    assert "this record is damaged: its numbers are damaged" in screen.text("main")
    screen.press("ArrowLeft")
    assert screen.page.locator("canvas.thumbnail").count() == 2
    screen.show("gap")
    assert screen.page.locator("main tbody th").all_inner_texts() == ["L00", "L02"]
    assert "Layer 1 has no map" in screen.text("main")
    assert screen.page.locator(".run").count() == 5, "another tool's run is not listed"


def test_the_page_is_legible_in_the_dark(screen: Screen, tmp_path: Path) -> None:
    screen.show("signed")
    screen.act(lambda: screen.page.evaluate("document.body.classList.add('dark-mode')"))
    for view in ("grid", "head", "compare", "training"):
        screen.view(view)
        screen.shot(tmp_path, f"{view}_dark")
    script = "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    light, dark = (
        np.array([int(n) for n in re.findall(r"\d+", c)]) for c in screen.page.eval_on_selector("main", script)
    )
    assert light.min() > 200 and dark.max() < 60


def test_a_server_that_thins_out_steps_is_named(chromium: Any, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "many", [record(step, layer) for step in range(25) for layer in range(2)])
    with tensorboard(tmp_path / "runs") as address:
        screen = Screen(chromium, address)
        assert "keeps only about 10 steps" in screen.text("header")
        assert "--samples_per_plugin attention=1000" in screen.text("header")
        assert screen.page.locator("canvas.thumbnail").count() == 4
        screen.page.close()


def test_a_run_that_trains_on_is_followed(chromium: Any, tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "runs" / "live")) as writer:
        writer.file_writer.add_summary(record_summary(record(0, 0)), 0)
        writer.flush()
        with tensorboard(tmp_path / "runs", "--samples_per_plugin", "attention=1000") as address:
            screen = Screen(chromium, address)
            assert screen.text("#step-text") == "0 (1 of 1)"
            writer.file_writer.add_summary(record_summary(record(7, 0)), 7)
            writer.flush()
            screen.page.wait_for_function("document.querySelector('#step-text').textContent === '7 (2 of 2)'")
            screen.page.close()


def test_long_maps_are_pooled(chromium: Any, tmp_path: Path) -> None:
    """A map of 512 tokens is whole and a longer one says that it is pooled."""
    for name, tokens in (("long", 512), ("longer", 700)):
        labels = [f" t{i}" for i in range(tokens)]
        write_run(tmp_path / "runs" / name, [record(0, 0, tokens=labels, heads=12), record(0, 1, heads=1)])
    with tensorboard(tmp_path / "runs", "--samples_per_plugin", "attention=1000") as address:
        screen = Screen(chromium, address)
        screen.show("long")
        screen.view("head")
        stored = record(0, 0, tokens=[f" t{i}" for i in range(512)], heads=12).weights[0]
        value = screen.cell(500, 77)
        row, column = (int(n) for n in re.findall(r"\((\d+)\)", screen.text(".panel .cell-text")))
        assert abs(row - 500) <= 1 and abs(column - 77) <= 1, "the mouse stands on whole pixels"
        assert value == pytest.approx(float(stored[row, column]), rel=6e-4)
        screen.show("longer")
        assert "700 tokens: each cell is the weight furthest from 0 of 2 \u00d7 2" in screen.text("main")
        screen.page.close()


def test_tokens_are_labelled(screen: Screen) -> None:
    screen.show("multi_head")
    screen.view("head")
    screen.cell(3, 1)
    assert screen.text(".panel .cell-text").startswith("query “·with” (3) → key “·journey” (1): weight ")
    assert TOKENS[3] == " with"


@pytest.mark.parametrize("n_runs", [50, 200])
def test_many_runs(chromium: Any, tmp_path: Path, n_runs: int) -> None:
    labels = [f" t{i}" for i in range(64)]
    maps = [record(step, layer, tokens=labels, heads=4) for step in range(12) for layer in range(4)]
    copies(tmp_path / "runs", maps, n_runs)
    with tensorboard(tmp_path / "runs", "--samples_per_plugin", "attention=1000", runs=n_runs) as address:
        page = new_page(chromium)
        page.goto(f"{address}/data/plugin_entry.html?name=attention")
        page.wait_for_selector("canvas.thumbnail")
        assert page.locator(".run").count() == n_runs
        page.close()
