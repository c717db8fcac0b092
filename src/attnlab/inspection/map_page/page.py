"""The page: the maps as compressed numbers, and the script that draws them in a browser."""

import base64
import json
import math
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float

from attnlab.errors import UsageError
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps
from attnlab.inspection.records import Record, encode, half
from attnlab.inspection.tab.scripts import as_data, joined

STATIC = Path(__file__).parent / "static"
MOST_SMALL = 400_000  # numbers of all small maps together


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


def script(maps: PromptMaps, *, heading: str = "h1", row: int | None = None, later: str | None = None) -> str:
    """The maps and what draws them into the element called `page`, below a heading of this rank.

    `row` is the token whose row is chosen, None the last. With an address `later` the page holds the small maps of long
    texts alone, and asks there for the numbers of a layer when one of its heads is opened: `layer_numbers`.
    """
    most = _most_rows(maps)
    content = {
        "heading": heading,
        "row": len(maps.tokens) - 1 if row is None else row,
        "run": maps.run,
        "step": maps.step,
        "text": maps.text,
        "tokens": maps.tokens,
        "keys": maps.keys,
        "causal": maps.causal,
        "later": later,
        "layers": [_layer(layer, maps, most, later is None) for layer in maps.layers],
    }
    return f'{as_data(content, "maps")}<script type="module">{joined(STATIC / "page.js")}</script>'


def layer_numbers(maps: PromptMaps, number: int) -> bytes:
    """The weights of a layer's heads and the lengths of its values, as `records.encode` writes them."""
    for layer in maps.layers:
        if layer.layer == number:
            return _encoded(layer, maps.causal)[1]
    raise UsageError(f"layer ({number}) has no attention map")


def _most_rows(maps: PromptMaps) -> int:
    """How many rows the small maps have, so that all of them together stay small."""
    heads = sum(len(layer.heads) for layer in maps.layers)
    return int(np.clip((2 * MOST_SMALL / max(1, heads)) ** 0.5, 40, 128))


def _layer(layer: ChosenHeads, maps: PromptMaps, most: int, whole: bool) -> dict[str, object]:
    fields: dict[str, object] = {
        "layer": layer.layer,
        "kind": layer.kind,
        "heads": layer.heads,
        "norms": layer.value_norm is not None,
        "measures": measures(layer.weights, cross=maps.keys is not None),
    }
    tokens = max(layer.weights.shape[1:])
    if tokens > most:
        few = _pooled(layer.weights, math.ceil((tokens - 1) / (most - 1)))
        small_layout, small = _encoded(layer._replace(weights=few, value_norm=None), maps.causal)
        shape = few.shape[1:]
        fields["small"] = {"shape": shape, "layout": small_layout, "numbers": base64.b64encode(small).decode()}
    if whole or tokens <= most:
        fields["numbers"] = base64.b64encode(_encoded(layer, maps.causal)[1]).decode()
    return fields


def _encoded(layer: ChosenHeads, causal: bool) -> tuple[str, bytes]:
    """The layout and the compressed numbers."""
    norms = None if layer.value_norm is None else half(layer.value_norm)
    header, numbers = encode(Record(0, layer.layer, layer.kind, "", "", [], half(layer.weights), norms, causal=causal))
    return json.loads(header)["layout"], numbers


def _pooled(maps: Float[np.ndarray, "h t s"], n: int) -> Float[np.ndarray, "h i j"]:
    """Of each n x n block the weight furthest from 0; the first token, on which much weight rests, stays alone."""
    largest, least = maps, maps
    for axis in (1, 2):
        starts = [0, *range(1, maps.shape[axis], n)]
        largest, least = (f.reduceat(x, starts, axis) for f, x in ((np.maximum, largest), (np.minimum, least)))
    return np.where(largest >= -least, largest, least)


def measures(maps: Float[np.ndarray, "h t s"], *, cross: bool) -> dict[str, list[float]]:
    """How each head reads, as means over the rows, each taken as shares of the sum of its sizes.

    entropy (nats), start (weight on the first token), and unless other tokens are read distance (tokens).
    """
    sizes = np.abs(np.nan_to_num(maps.astype(np.float64)))
    sums = sizes.sum(-1, keepdims=True)
    shares = sizes / np.where(sums > 0, sums, 1)
    rows = np.maximum((sums > 0).sum((1, 2)), 1)
    logs = np.log(np.where(shares > 0, shares, 1))
    means = {"entropy": -(shares * logs).sum((1, 2)) / rows, "start": shares[:, :, 0].sum(1) / rows}
    if not cross:
        t, s = maps.shape[1:]
        apart = np.abs(np.arange(t)[:, None] - np.arange(s))
        means["distance"] = (shares * apart).sum((1, 2)) / rows
    return {name: [float(f"{number:.5g}") for number in numbers] for name, numbers in means.items()}
