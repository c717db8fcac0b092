"""What one does with the tab's page: files, zoom, lines, pairs of heads, keys, a screen reader, small windows."""

import csv
import fcntl
import io
import re
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.inspection.tab_screen import MINUS, Screen
from tests.inspection.tab_server import CHROMIUM, TOKENS, browser, copies, record, tensorboard, write_run

from attnlab.inspection.records import Record

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: apt-get install chromium"),
]

VIEWS = ("grid", "head", "lines", "compare", "training")
STEPS = (0, 8, 60)
ORDER = [2, 0, 1]  # the heads of the second seed are those of the first in this order
A, B, OTHER = "one/base-0123abcd.4567/seed_0", "one/base-0123abcd.4567/seed_1", "one/wide-89abcdef.4567/seed_0"


def link(run: str = A, **keys: object) -> str:
    parts = {"run": run.replace("/", "%2F"), **keys}
    return "#attention&" + "&".join(f"attention.{key}={value}" for key, value in parts.items())


def both(a: str = A, b: str = B) -> str:
    return f"{a}|{b}".replace("/", "%2F").replace("|", "%7C")


def base(step: int, layer: int) -> Record:
    return record(step, layer, heads=3)


def shuffled(step: int, layer: int) -> Record:
    """Nearly the same heads under other numbers."""
    one = base(step, layer)
    return one._replace(weights=one.weights[ORDER] * np.float16(0.5) + one.weights[ORDER] * np.float16(0.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a variant, a run of another with signed maps, 12 x 12 heads, and a long text."""
    root = tmp_path_factory.mktemp("page") / "runs"
    for seed, (run, make) in enumerate(((A, base), (B, shuffled))):
        curve = [
            (f"attention_entropy/L00H{h:02d}", 2 - h / 4 - s / 100 - seed / 10, s) for h in range(3) for s in STEPS
        ]
        losses = [("val/loss", 5 - s / 100 - seed / 8, s) for s in STEPS]
        write_run(root / run, [make(step, layer) for step in STEPS for layer in range(2)], curve + losses)
    write_run(root / OTHER, [record(0, layer, heads=3, kind="signed", seed=5) for layer in range(2)])
    for run in (A, B, OTHER):
        (root / run / "config.yaml").touch()
    write_run(root / "large" / "large-00000000.0000" / "seed_0", [record(0, layer, heads=12) for layer in range(12)])
    labels = [f" t{i}" for i in range(512)]
    wide = [f" w{i}" for i in range(256)]
    layers = [record(0, i, tokens=wide, heads=12) for i in range(12)]
    write_run(root / "large" / "large-00000001.0000" / "seed_0", layers)
    write_run(root / "long" / "long-00000000.0000" / "seed_0", [record(0, 0, tokens=labels, heads=2)])
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with tensorboard(folder, "--samples_per_plugin", "attention=1000", runs=6) as one:
        yield one


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture
def opened(chromium: Any, address: str) -> Iterator[Any]:
    """A function that opens a link; pages end without an error."""
    screens: list[Screen] = []

    def open_link(shown: str, **size: int) -> Screen:
        screens.append(Screen(chromium, address, shown, **size))
        return screens[-1]

    yield open_link
    for screen in screens:
        assert screen.errors == []
        screen.page.close()


def kept(screen: Screen, kind: str) -> bytes:
    """The file that a button gives."""
    with screen.page.expect_download() as download:
        screen.page.click(f"#save-{kind}")
    assert download.value.suggested_filename.endswith(f".{kind}")
    return Path(download.value.path()).read_bytes()


def test_numbers_as_a_table(opened: Any) -> None:
    """CSV holds the stored weights and their tokens; of the grid, numbers per head; of training, curves."""
    rows = list(csv.DictReader(io.StringIO(kept(opened(link(view="head", head=1, step=8)), "csv").decode())))
    stored = base(8, 0).weights[1]
    assert len(rows) == 7 * 8 // 2
    for row in rows:
        assert float(row["value"]) == float(stored[int(row["query"]), int(row["key"])])
        assert (row["query_token"], row["key_token"]) == (TOKENS[int(row["query"])], TOKENS[int(row["key"])])
    heads = list(csv.DictReader(io.StringIO(kept(opened(link()), "csv").decode())))
    assert [(row["layer"], row["head"]) for row in heads] == [(str(i), str(h)) for i in range(2) for h in range(3)]
    assert all(float(row["attention_entropy"]) > 0 for row in heads)
    points = list(csv.DictReader(io.StringIO(kept(opened(link(view="training", compare=both())), "csv").decode())))
    assert {(row["run"], row["step"]) for row in points} == {(run, str(step)) for run in (A, B) for step in STEPS}


@pytest.mark.parametrize("view", VIEWS)
def test_pictures(opened: Any, chromium: Any, view: str) -> None:
    """Each view gives a picture of dots and one of lines and letters, which draws alone and names what it shows."""
    screen = opened(link(view=view, compare=both()))
    picture = Image.open(io.BytesIO(kept(screen, "png")))
    assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(2**24) or []) > 20
    svg = kept(screen, "svg").decode()
    assert A in svg and svg.count("<rect") + svg.count("<path") > 20
    page = chromium.new_page()
    page.set_content(svg)
    size = page.eval_on_selector("svg", "e => [e.width.baseVal.value, e.height.baseVal.value]")
    assert [2 * n for n in size] == pytest.approx(picture.size, abs=6)
    page.close()


def test_picture_of_cells(opened: Any) -> None:
    """In the SVG the cell of a map is a rectangle of the colour that the page shows."""
    screen = opened(link(view="head", head=1))
    red, green, blue = screen.pixel(5, 2)
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    assert f'fill="{colour}"' in kept(screen, "svg").decode()


LONG = "long/long-00000000.0000/seed_0"


def drawings(screen: Screen, selector: str = "canvas.map") -> int:
    return int(screen.page.get_attribute(selector, "data-drawn"))


def in_frames(screen: Screen) -> None:
    screen.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_zoom(opened: Any) -> None:
    """A long map zooms at the pointer, by wheel, keys and buttons, and moves by dragging; values stay those stored."""
    screen = opened(link(LONG, view="head"))
    stored = record(0, 0, tokens=[f" t{i}" for i in range(512)], heads=2).weights[0]
    whole = float(screen.page.get_attribute("canvas.map", "data-cell"))
    assert whole < 2
    box = screen.page.locator("canvas.above").bounding_box()
    before = drawings(screen)
    screen.page.evaluate(
        """([x, y]) => { for (let i = 0; i < 40; i++) document.getElementById("map").dispatchEvent(
            new WheelEvent("wheel", { deltaY: -40, ctrlKey: true, clientX: x, clientY: y, cancelable: true })); }""",
        [box["x"] + box["width"] / 3, box["y"] + 0.9 * box["height"]],
    )
    in_frames(screen)
    assert drawings(screen) == before + 1, "40 turns of the wheel within a frame are one drawing"
    place = screen.page.eval_on_selector("canvas.map", "e => ({...e.dataset})")
    assert float(place["cell"]) > 20 and float(place["row"]) > 100
    row, column = int(float(place["row"])) + 4, int(float(place["column"])) + 3
    at = {
        "x": float(place["left"]) + (column + 0.5 - float(place["column"])) * float(place["cell"]),
        "y": float(place["top"]) + (row + 0.5 - float(place["row"])) * float(place["cell"]),
    }
    screen.page.hover("canvas.above", position=at)
    text = screen.text(".panel .cell-text")
    assert screen.text(".tip") == text, "it is said at the pointer, too"
    assert f"query “·t{row}” ({row}) → key “·t{column}” ({column}): weight " in text
    assert float(text.rpartition("weight ")[2].partition(",")[0]) == pytest.approx(float(stored[row, column]), rel=6e-4)
    x, y = box["x"] + at["x"], box["y"] + at["y"]
    screen.page.mouse.move(x, y)
    screen.page.mouse.down()
    screen.page.mouse.move(x + 30, y + 60, steps=3)
    screen.page.mouse.up()
    in_frames(screen)
    moved = screen.page.eval_on_selector("canvas.map", "e => ({...e.dataset})")
    assert float(moved["row"]) == pytest.approx(float(place["row"]) - 60 / float(place["cell"]), abs=0.01)
    assert screen.text(".row-panel h3") == "What “·t511” (511) reads", "dragging chooses no row"
    screen.page.click("button[aria-label='show the whole map']")
    in_frames(screen)
    assert float(screen.page.get_attribute("canvas.map", "data-cell")) == whole
    screen.page.focus("#map")
    screen.page.keyboard.press("+")
    in_frames(screen)
    assert float(screen.page.get_attribute("canvas.map", "data-cell")) == pytest.approx(1.5 * whole)


def test_table_of_heads(opened: Any) -> None:
    """12 x 12 heads of a short or a long text are one table that fits into the window, down to one of 1024 x 700."""
    for width, height, text in product((1440, 1024), (900, 700), (0, 1)):
        screen = opened(link(f"large/large-0000000{text}.0000/seed_0"), width=width, height=height)
        assert screen.page.locator("main thead th").count() == screen.page.locator("main tbody th").count() == 12
        boxes = screen.page.eval_on_selector_all(
            ".card", "all => all.map(e => e.getBoundingClientRect()).map(b => [b.right, b.bottom])"
        )
        assert len(boxes) == 144 and max(b[0] for b in boxes) <= width and max(b[1] for b in boxes) <= height
        assert scrolls(screen) == []
    assert scrolls(opened(link(A))) == []


def scrolls(screen: Any) -> list[str]:
    """Which parts of the page have a scroll bar where nothing is hidden."""
    found: list[str] = screen.page.evaluate("""[...document.querySelectorAll('.content, .table-room')].filter(
      e => e.scrollHeight > e.clientHeight || e.scrollWidth > e.clientWidth).map(e => e.className)""")
    return found


def test_lines(opened: Any) -> None:
    """Each head has a colour and can be switched off; a token that is pointed at keeps its lines alone."""
    screen = opened(link(view="lines", layer=1))
    weights = base(60, 1).weights.astype(float)
    shown = lambda: int(screen.page.get_attribute("canvas.lines", "data-shown"))  # noqa: E731
    visible = np.sqrt(weights) >= 0.0045  # lines paler than one shade are left out
    assert shown() == pytest.approx(visible.sum(), abs=3)
    colours = screen.page.eval_on_selector_all(".switch .dot", "all => all.map(e => e.style.background)")
    assert len(set(colours)) == 3
    screen.act(lambda: screen.page.click("#head-1"))
    assert shown() == pytest.approx(visible[[0, 2]].sum(), abs=3)
    assert screen.page.get_attribute("#head-1", "aria-pressed") == "false"
    screen.page.hover("canvas.lines", position={"x": 10, "y": 6 + 3.5 * 20})
    assert shown() == pytest.approx(visible[[0, 2], 3].sum(), abs=2)
    best = int(weights[0, 3].argmax())
    printed = TOKENS[best].replace(" ", "·")
    assert f"L01 H00 “{printed}” {weights[0, 3].max():.2g}" in screen.text("#lines-text")
    screen.page.focus("#lines")
    screen.act(lambda: screen.page.keyboard.press("ArrowDown"))
    assert "attention.token=0" in screen.page.evaluate("new Promise(r => setTimeout(() => r(location.hash), 200))")
    assert screen.page.evaluate("document.activeElement.id") == "lines"
    screen.act(lambda: screen.page.click("#heads-none"))
    assert "All heads are switched off." in screen.text("main")
    screen = opened(link("long/long-00000000.0000/seed_0", view="lines"))  # of 512 tokens those of one are shown
    assert shown() <= 2 * 17 and "Point at a token" in screen.text("#lines-text")
    screen.page.focus("#lines")
    screen.act(lambda: screen.page.keyboard.press("ArrowDown"))
    assert "(17) reads most" in screen.text("#lines-text")


def test_pairs_of_heads(opened: Any) -> None:
    """Heads of two seeds are paired by what they read before they are subtracted, and it is said what that means."""
    screen = opened(link(view="compare", compare=both(), head=0, show="difference"))
    expected = ORDER.index(0)
    assert f"one/base · seed 1: head {expected} (1)" in screen.text(".pairs")
    assert "have no common numbers" in screen.text(".pairs")
    stored = [one(60, 0).weights.astype(float) for one in (base, shuffled)]
    assert screen.cell(4, 2) == pytest.approx(stored[1][expected, 4, 2] - stored[0][0, 4, 2], abs=1e-3)
    screen.tick("pair heads by what they read")
    assert screen.cell(4, 2) == pytest.approx(stored[1][0, 4, 2] - stored[0][0, 4, 2], abs=1e-3)


def test_seeds_averaged(opened: Any) -> None:
    """The seeds of a variant become one map; steps that differ are said, and only signed maps get the signed scale."""
    screen = opened(link(view="compare", compare=both(A, OTHER), head=0, seeds=1))
    titles = screen.page.locator("figcaption strong").all_inner_texts()
    assert titles == ["one/base, mean over 2 seeds", "one/wide, mean over 1 seed"]
    steps = screen.page.locator("figcaption .steps").all_inner_texts()
    assert steps[0].startswith("step 60") and steps[1].startswith("step 0")
    pairs = [base(60, 0).weights[0].astype(float), shuffled(60, 0).weights[ORDER.index(0)].astype(float)]
    assert screen.cell(4, 2, f'figure[data-run="{A}"] .panel') == pytest.approx(
        (pairs[0] + pairs[1])[4, 2] / 2, rel=1e-3
    )
    scales = screen.page.locator(".legend-scale").all_inner_texts()
    assert len(scales) == 2 and "0 in the middle" not in scales[0] and "0 in the middle" in scales[1]
    screen.choose("Show", "difference")
    assert "These are maps of different steps" in screen.text("main .warning")
    assert f"step 0 {MINUS} step 60" in screen.text("figcaption .steps")


def test_ticked_runs_over_training(opened: Any) -> None:
    """Curves of all ticked runs, with the value of each where one points."""
    screen = opened(link(view="training", compare=both()))
    assert screen.page.locator(".key li").all_inner_texts() == ["one/base · seed 0", "one/base · seed 1"]
    chart = screen.page.locator("figure[data-metric=attention_entropy] canvas")
    chart.hover(position={"x": 54, "y": 40})
    said = screen.text("figure[data-metric=attention_entropy] .pointed").split("\n")
    assert said[0] == "step 0" and [line.split(" ", 1) for line in said[1:]] == [
        ["2", "one/base · seed 0"], ["1.9", "one/base · seed 1"],
    ]  # fmt: skip


def test_row_by_keys(opened: Any) -> None:
    """A row is chosen by keys alone, and what it reads is spoken; the arrows move among views and heads, too."""
    screen = opened(link(view="head", token=2))
    screen.page.focus("#map")
    screen.act(lambda: screen.page.keyboard.press("ArrowDown"))
    assert screen.text(".row-panel h3") == "What “·with” (3) reads"
    assert screen.page.evaluate("document.activeElement.id") == "map", "the focus stays"
    spoken = screen.page.get_attribute("#map", "aria-valuetext")
    best = TOKENS[int(base(60, 0).weights[0, 3].argmax())].replace(" ", "·")
    assert spoken.startswith(f"row “·with” (3) reads “{best}” ")
    screen.page.focus("#view-head")
    screen.act(lambda: screen.page.keyboard.press("ArrowLeft"))
    assert screen.page.get_attribute("#view-grid", "aria-selected") == "true"
    screen.page.focus("#card-0-0")
    screen.page.keyboard.press("ArrowDown")
    screen.page.keyboard.press("ArrowRight")
    assert screen.page.evaluate("document.activeElement.id") == "card-1-1"
    screen.act(lambda: screen.page.keyboard.press("Enter"))
    assert screen.text("main h2") == "L01 H01 at step 60"


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 700), (390, 844)])
def test_small_windows(opened: Any, width: int, height: int) -> None:
    """Nothing is cut off at the side, and of a map at least its upper half is in sight without scrolling."""
    for view in VIEWS:
        screen = opened(link(view=view, compare=both()), width=width, height=height)
        size = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert screen.page.evaluate(size) <= 0
        inside = """all => all.map(e => e.getBoundingClientRect())
            .every(box => box.right <= innerWidth + 1 && box.left >= 0)"""
        assert screen.page.eval_on_selector_all("header button, header select, main canvas, main h2", inside)
        if view in ("grid", "head", "training"):
            box = screen.page.locator("main canvas:not(.colour-bar)").first.bounding_box()
            assert box["y"] + box["height"] / 2 < height
    if width < 760:
        screen.act(lambda: screen.page.click("#fold"))
        screen.act(lambda: screen.page.click(f'[data-run="{B}"].run'))
        assert screen.page.get_attribute("#fold", "aria-expanded") == "false", "the list folds when a run is chosen"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("view", VIEWS)
def test_accessible(opened: Any, view: str, dark: bool) -> None:
    """The accessibility checker axe finds nothing serious, light and dark."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed: pip install -e '.[test]'"
    )
    screen = opened(link(view=view, compare=both()))
    if dark:
        screen.act(lambda: screen.page.evaluate("document.body.classList.add('dark-mode')"))
    violations = axe.Axe().run(screen.page).response["violations"]
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:90] for node in one["nodes"][:3]]) for one in serious] == []


def test_names_losses_and_status(opened: Any, folder: Path) -> None:
    """Runs are named by what differs between them, with their loss; one that is being written is marked."""
    screen = opened(link())
    screen.page.wait_for_selector(".loss")
    names = {row.get_attribute("data-run"): row for row in screen.page.query_selector_all(".run")}
    assert names[A].query_selector(".run-name").inner_text().endswith("one/base · seed 0")
    assert (
        names[A].query_selector(".loss").inner_text() == "4.4"
        and names[B].query_selector(".loss").inner_text() == "4.275"
    )
    assert names[A].query_selector(".status").get_attribute("aria-label") == "cut off before its end"
    with (folder / A / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        screen.page.wait_for_selector(f'[data-run="{A}"] .status.running')
    assert re.search("still being written", screen.page.get_attribute(f'[data-run="{A}"].run', "title"))


def test_deleted_run_is_said(chromium: Any, tmp_path: Path) -> None:
    """A run that was deleted while it was shown leaves a sentence behind."""
    copies(tmp_path / "runs", [record(0, 0)], 2)
    with tensorboard(tmp_path / "runs", "--samples_per_plugin", "attention=1000", runs=2) as address:
        screen = Screen(chromium, address, "#attention&attention.run=run_000")
        shutil.rmtree(tmp_path / "runs" / "run_000")
        screen.page.wait_for_selector("header .warning")
        assert screen.text("header .warning").startswith("The run run_000 is not in this folder")
        screen.page.close()


def test_first_paint_asks_little(chromium: Any, address: str) -> None:
    """Until the grid is drawn, the page asks once for the runs and once for each layer's map."""
    screen = Screen(chromium, address, link())
    urls = screen.page.evaluate("performance.getEntriesByType('resource').map(e => new URL(e.name).pathname)")
    routes = [url.rpartition("/")[2] for url in urls if "/static/" not in url]
    assert routes.count("runs") == 1 and routes.count("steps") == 1 and routes.count("map") == 2
    assert len(routes) <= 6 and len(urls) <= 8
    screen.page.close()
