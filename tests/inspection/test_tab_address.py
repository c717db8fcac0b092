"""The tab's address: a reload and a sent link show the same, in TensorBoard's page and in the tab's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.inspection.tab_screen import Screen
from tests.inspection.tab_server import CHROMIUM, browser, new_page, record, tensorboard, write_run

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="Chromium is not installed: apt-get install chromium"),
]

RUNS = ["a 1/seed_0", "b|%2F&=/seed_0"]
KEYS = "#attention&attention.run={run}&attention.view=head&attention.layer=1&attention.head=1&attention.step=8"
LINK = KEYS.format(run="a%201%2Fseed_0") + "&attention.token=2&attention.scale=log"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("address") / "runs"
    for seed, run in enumerate(RUNS):
        write_run(root / run, [record(step, layer, seed=seed) for step in (0, 8, 60) for layer in range(2)])
    with tensorboard(root, "--samples_per_plugin", "attention=1000", runs=2) as one:
        yield one


def what_is_shown(page: Any) -> list[str]:
    scale = page.input_value('select[aria-label="Colours"]')
    return [page.inner_text("main h2"), page.inner_text(".row-panel h3"), scale, page.inner_text(".run.chosen")]


SHOWN = ["L01 H01 at step 8", "What “·starts” (2) reads", "log"]


def test_link(chromium: Any, address: str) -> None:
    """A link opens the run, view, layer, head, step, token and scale that it names; so does a reload after a change."""
    screen = Screen(chromium, address, LINK)
    assert what_is_shown(screen.page)[:3] == SHOWN
    screen.press("ArrowLeft")
    screen.page.wait_for_function("location.hash.includes('attention.step=0')")
    screen.page.reload()
    screen.page.wait_for_selector("body[data-drawn]")
    assert what_is_shown(screen.page)[:3] == ["L01 H01 at step 0", *SHOWN[1:]]
    assert screen.errors == []
    screen.page.close()


def test_every_choice(chromium: Any, address: str) -> None:
    """What can be chosen stands in the address, names of runs with signs of addresses too; going back undoes it."""
    screen = Screen(chromium, address)
    screen.show(RUNS[1])
    screen.view("compare")
    for words in ("mean over heads", "value-weighted", "without the first column", "up to the largest weight"):
        screen.tick(words)
    screen.choose("Show", "difference")
    screen.page.wait_for_function("location.hash.includes('attention.show=difference')")
    twin = Screen(chromium, address, screen.page.evaluate("location.hash"))
    assert twin.text("main") == screen.text("main") and RUNS[1].split("/")[0] in twin.text("main")
    assert twin.page.evaluate("location.href") == screen.page.evaluate("location.href")
    screen.act(lambda: screen.page.go_back())
    assert screen.page.get_attribute("#view-grid", "aria-selected") == "true"
    assert screen.errors == twin.errors == []
    screen.page.close()
    twin.page.close()


def test_in_tensorboard(chromium: Any, address: str) -> None:
    """The link is that of TensorBoard's page, whose own keys stay; another tab's address is not written into."""
    page = new_page(chromium)
    page.goto(f"{address}/?darkMode=true{LINK}&_smoothing=0.5")
    frame = page.wait_for_selector("iframe").content_frame()
    frame.wait_for_selector("body[data-drawn]")
    assert what_is_shown(frame)[:3] == SHOWN
    frame.select_option('select[aria-label="Colours"]', "linear")
    page.wait_for_function("location.hash.includes('attention.scale=linear')")
    assert "_smoothing=0.5" in page.url and page.url.startswith(f"{address}/?darkMode=true#attention&")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    frame.click("#copy-link")
    link = frame.wait_for_selector("#copy-link:has-text('Copied'), input.link")
    if link.get_attribute("class") == "link":
        assert link.input_value() == page.url
    else:
        assert page.evaluate("navigator.clipboard.readText()") == page.url
    page.evaluate("location.hash = location.hash.replace('#attention', '#scalars')")
    frame.evaluate("document.getElementById('view-grid').click()")
    frame.wait_for_selector("canvas.thumbnail")
    assert page.evaluate("location.hash").startswith("#scalars&")
    page.close()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ("run=gone&attention.view=head", "The run gone is not in this folder"),
        ("layer=77&attention.head=99", ""),
        ("view=<b>&attention.step=-1&attention.scale=%zz&attention.token=9e9&attention.compare=%25", ""),
    ],
)
def test_bad_link(chromium: Any, address: str, keys: str, sentence: str) -> None:
    """A link to what is not there shows what there is, and says which run is missing; rubbish is passed over."""
    screen = Screen(chromium, address, f"#attention&attention.{keys}")
    assert screen.page.locator("main canvas").count() > 0
    assert sentence in screen.text("header")
    screen.page.wait_for_function("location.hash.includes('attention.step=60')")
    assert "%zz" not in screen.page.evaluate("location.hash")
    assert screen.errors == []
    screen.page.close()
