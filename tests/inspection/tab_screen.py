"""The tab's page in Chromium, and what one does on it."""

import os
import re
from pathlib import Path
from typing import Any

from tests.inspection.tab_server import new_page

MINUS = "\u2212"


class Screen:
    """The tab's page and what one does on it."""

    def __init__(self, chromium: Any, address: str, shown: str = "", width: int = 1440, height: int = 900) -> None:
        self.page = new_page(chromium)
        self.page.set_viewport_size({"width": width, "height": height})
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{address}/data/plugin_entry.html?name=attention{shown}")
        self.page.wait_for_selector("body[data-drawn]")

    def act(self, action: Any) -> None:
        """Do something and wait until it is drawn."""
        before = self.page.get_attribute("body", "data-drawn")
        action()
        self.page.wait_for_function("before => document.body.dataset.drawn !== before", arg=before)

    def show(self, run: str) -> None:
        if "chosen" not in self.page.get_attribute(f'[data-run="{run}"].run', "class"):
            self.act(lambda: self.page.click(f'[data-run="{run}"].run'))

    def view(self, name: str) -> None:
        self.act(lambda: self.page.click(f"#view-{name}"))

    def choose(self, field: str, value: str) -> None:
        self.act(lambda: self.page.select_option(f'select[aria-label="{field}"]', value))

    def tick(self, words: str) -> None:
        self.act(lambda: self.page.click(f'label.tick:has-text("{words}")'))

    def press(self, key: str) -> None:
        self.act(lambda: self.page.keyboard.press(key))

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def cell(self, row: int, column: int, panel: str = ".panel") -> float:
        """The value that the page says when the mouse is over a cell."""
        place = self.page.eval_on_selector(f"{panel} canvas.map", "canvas => ({...canvas.dataset})")
        left, top, size = (float(place[key]) for key in ("left", "top", "cell"))
        at = {"x": left + (column + 0.5) * size, "y": top + (row + 0.5) * size}
        self.page.hover(f"{panel} canvas.above", position=at)
        return number(self.text(f"{panel} .cell-text"))

    def pixel(self, row: int, column: int) -> list[int]:
        script = """(canvas, [row, column]) => {
            const {left, top, cell} = canvas.dataset, at = (edge, n) => Math.round(+edge + (n + 0.5) * cell);
            return [...canvas.getContext("2d").getImageData(at(left, column), at(top, row), 1, 1).data].slice(0, 3);
        }"""
        found: list[int] = self.page.eval_on_selector(".panel canvas.map", script, [row, column])
        return found

    def shot(self, folder: Path, name: str) -> None:
        target = Path(os.environ.get("ATTNLAB_PICTURES", folder))
        self.page.screenshot(path=str(target / f"{name}.png"))


def number(text: str) -> float:
    """The weight in a cell's sentence."""
    match = re.search(r": .*?(-?[\d.]+(?:e-?\d+)?)(?:,|$)", text.replace(MINUS, "-"))
    assert match, text
    return float(match[1])
