"""How fast the tab opens in a browser: python bench/tab.py [--runs 50 200] [--tokens 64 256 512]

It writes folders of runs (4 layers x 4 heads, 64 tokens, 12 steps each), starts the real TensorBoard on loopback and
opens the tab in headless Chromium. First paint: from the request of the page until all thumbnails are drawn, by the
page's own clock. Then maps of a layer of 12 heads are opened: from the click until the view is drawn, in a fresh page.
Last the longest of these is zoomed and moved, by a turn of the wheel in each frame, and the frames are counted.
Needs Chromium and the packages of the extra `test`.
"""

import argparse
import os
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


# Zooms in and out at a point and moves what is in sight, once a frame; gives back the milliseconds of each frame.
FRAMES = """async n => {
    const map = document.getElementById("map"), box = map.getBoundingClientRect(), taken = [];
    const frame = () => new Promise(requestAnimationFrame);
    let last = await frame();
    for (let i = 0; i < n; i++) {
        const turn = i % 3 ? { deltaY: i < n / 2 ? -20 : 20, ctrlKey: true } : { deltaX: 40, deltaY: 40 };
        const at = { clientX: box.x + 200, clientY: box.y + 300, cancelable: true };
        map.dispatchEvent(new WheelEvent("wheel", { ...turn, ...at }));
        const now = await frame();
        taken.push(now - last);
        last = now;
    }
    return [taken, Number(document.querySelector("canvas.map").dataset.drawn)];
}"""


def zooming(chromium: Any, folder: Path, n: int, frames: int = 120) -> None:
    """Prints how many frames a second a map of `n` tokens is drawn in while it is zoomed."""
    write_run(folder / "long", [record(0, 0, tokens=labels(n), heads=12)])
    with tensorboard(folder, *KEEP_ALL) as address:
        page = new_page(chromium)
        page.goto(f"{address}/data/plugin_entry.html?name=attention#attention&attention.view=head")
        page.wait_for_selector("canvas.map")
        page.wait_for_timeout(3000)  # the numbers beside the map, which are computed meanwhile
        taken, drawn = page.evaluate(FRAMES, frames)
        page.close()
    print(
        f"zooming a map of {n} tokens: {1000 * frames / sum(taken):.0f} frames a second (aim 30), the slowest frame "
        f"{max(taken):.0f} ms; {drawn} drawings in {frames} frames"
    )


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
        if options.tokens:
            zooming(chromium, Path(folder) / "zoom" / "runs", max(options.tokens))
        print("load of the machine (1, 5, 15 minutes):", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
