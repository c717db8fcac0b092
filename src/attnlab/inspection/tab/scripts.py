"""Small files of JavaScript as one script: a browser then asks once, and a page that stands alone can hold it."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
IMPORT = re.compile(r'^import .* from "\./(?P<name>\w+)\.js";\n', re.MULTILINE)


@cache
def joined(entry: Path) -> str:
    """The script of a file with all that it imports from the folder of the tab; no name may stand in two of them."""
    texts: dict[str, str] = {}

    def add(script: Path) -> None:
        text = script.read_text(encoding="utf-8")
        for match in IMPORT.finditer(text):
            if match["name"] not in texts:
                add(STATIC / f"{match['name']}.js")
        texts[script.stem] = IMPORT.sub("", text)

    add(entry)
    return "\n".join(texts.values())


def as_data(content: Any, name: str) -> str:
    """Data that a script of the page reads by its name. JSON in a script may hold no "<": a token could end it."""
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
