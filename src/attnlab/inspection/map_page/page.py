"""The page: the maps as compressed numbers, and the script that draws them in a browser."""

import base64
import json
from html import escape
from pathlib import Path

from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps
from attnlab.inspection.records import Record, encode, half
from attnlab.inspection.tab.scripts import as_data, joined

STATIC = Path(__file__).parent / "static"


def page(maps: PromptMaps) -> str:
    """One HTML file with every chosen head: a grid of all, and one large, drawn from the numbers themselves.

    The numbers are float16 (11 significant bits); float32 ones are in the safetensors file beside it.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Attention of {escape(maps.run)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style()}</style></head>'
        f'<body><main id="page"></main>{script(maps)}</body></html>\n'
    )


def style() -> str:
    """What the page looks like, in CSS."""
    return (STATIC / "page.css").read_text(encoding="utf-8")


def script(maps: PromptMaps, *, heading: str = "h1", row: int | None = None) -> str:
    """The maps and what draws them into the element called `page`, below a heading of this rank.

    `row` is the token whose row is chosen, None the last.
    """
    content = {
        "heading": heading,
        "row": len(maps.tokens) - 1 if row is None else row,
        "run": maps.run,
        "step": maps.step,
        "text": maps.text,
        "tokens": maps.tokens,
        "keys": maps.keys,
        "causal": maps.causal,
        "layers": [_layer(layer, maps) for layer in maps.layers],
    }
    return f'{as_data(content, "maps")}<script type="module">{joined(STATIC / "page.js")}</script>'


def _layer(layer: ChosenHeads, maps: PromptMaps) -> dict[str, object]:
    norms = None if layer.value_norm is None else half(layer.value_norm)
    weights = half(layer.weights)
    record = Record(maps.step, layer.layer, layer.kind, "prompt", "", [], weights, norms, causal=maps.causal)
    header, numbers = encode(record)
    layout = json.loads(header)["layout"]
    fields = {
        "layer": layer.layer,
        "kind": layer.kind,
        "heads": layer.heads,
        "layout": layout,
        "norms": norms is not None,
    }
    return fields | {"numbers": base64.b64encode(numbers).decode()}
