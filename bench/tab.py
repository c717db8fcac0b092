"""How fast the tab opens in a browser: python bench/tab.py [--runs 50 200] [--tokens 64 256 512]

It writes folders of runs (4 layers x 4 heads, 64 tokens, 12 steps each), starts the real TensorBoard on loopback and
opens the tab in headless Chromium. First paint: from the request of the page until all thumbnails are drawn, by the
page's own clock. Then maps of a layer of 12 heads are opened: from the click until the view is drawn, in a fresh page.
Needs Chromium and the packages of the extra `test`.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the runs and the server are those of the tests
from tests.inspection.tab_server import browser, copies, new_page, record, tensorboard, write_run

KEEP_ALL = ("--samples_per_plugin", "attention=1000")
READY = "before => document.body.dataset.drawn !== before"


def labels(n: int) -> list[str]:
    return [f" t{i}" for i in range(n)]


def opened(chromium: Any, address: str) -> Any:
    """A fresh page that shows the tab."""
    page = new_page(chromium)
    page.goto(f"{address}/data/plugin_entry.html?name=attention")
    page.wait_for_selector("canvas.thumbnail")
    return page


def first_paints(chromium: Any, folder: Path, n: int, repeats: int) -> list[float]:
    """Seconds until the grid of the newest of `n` runs is drawn."""
    maps = [record(step, layer, tokens=labels(64), heads=4) for step in range(12) for layer in range(4)]
    copies(folder, maps, n)
    seconds = []
    with tensorboard(folder, *KEEP_ALL, runs=n) as address:
        for _ in range(repeats):
            page = opened(chromium, address)
            seconds.append(page.evaluate("performance.now()") / 1000)
            page.close()
    return seconds


def openings(chromium: Any, folder: Path, n: int, repeats: int) -> list[float]:
    """Seconds from a click on "Head" until a map of `n` tokens of a layer of 12 heads is drawn."""
    write_run(folder / "long", [record(0, 0, tokens=labels(n), heads=12)])
    seconds = []
    with tensorboard(folder, *KEEP_ALL) as address:
        for _ in range(repeats):
            page = opened(chromium, address)
            before = page.get_attribute("body", "data-drawn")
            started = time.perf_counter()
            page.click("#view-head")
            page.wait_for_function(READY, arg=before)
            seconds.append(time.perf_counter() - started)
            page.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, nargs="*", default=[50, 200])
    parser.add_argument("--tokens", type=int, nargs="*", default=[64, 256, 512])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'':34}{'best':>8}{'median':>8}{'worst':>8}{'aim':>6}   seconds")
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        cases = [(f"first paint, {n} runs", first_paints, n) for n in options.runs]
        cases += [(f"a map of {n} tokens, 12 heads", openings, n) for n in options.tokens]
        for name, measure, n in cases:
            root = Path(folder) / name.replace(" ", "_") / "runs"
            taken = measure(chromium, root, n, options.repeats)
            median = statistics.median(taken)
            print(f"{name:34}{min(taken):8.2f}{median:8.2f}{max(taken):8.2f}{1.0:6.1f}", flush=True)


if __name__ == "__main__":
    main()
