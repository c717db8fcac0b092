"""Maps in a notebook: HTML without scripts, so that one that is not trusted, or is shown on a page, has them, too."""

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from attnlab.inspection.figures import to_png

LINE, LETTER, BETWEEN = 20, 7.5, 190  # pixels: a token's height, a letter's width, from one column to the other
MOST_LINES = 4000  # of a drawing, the strongest: more cannot be told apart
HEAD_COLOURS = ("#1f6fb4", "#c8452b", "#2b8a3e", "#8a4fbf", "#b07d10", "#0b8a8a", "#c2387e", "#5c5f66")


class MapDrawing(NamedTuple):
    """What a notebook shows as the last line of a cell."""

    html: str

    def _repr_html_(self) -> str:
        return self.html


def shown_picture(picture: Image.Image, text: str) -> str:
    """A picture as HTML; `text` is for those who do not see it."""
    data = base64.b64encode(to_png(picture)).decode()
    return f'<img alt="{escape(text)}" style="max-width:100%;display:block" src="data:image/png;base64,{data}">'


def token_columns(
    maps: Float[np.ndarray, "h t s"], heads: Sequence[int], tokens: Sequence[str], keys: Sequence[str], title: str
) -> str:
    """Two columns of tokens with a line for each weight, a colour for each head: on the left who reads, on the right
    what is read. The strongest weight of all is opaque; pointing at a line tells its numbers, those below 0 are dashed.
    """
    left = max(len(token) for token in tokens) * LETTER + 20
    width = left + BETWEEN + max(len(key) for key in keys) * LETTER + 20
    height = LINE * (max(len(tokens), len(keys)) + 2) + 8
    parts = [
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:.0f} {height}" '
        f'style="max-width:{width:.0f}px;background:#fff;font:12px monospace">'
    ]
    for i, head in enumerate(heads):
        colour = HEAD_COLOURS[i % len(HEAD_COLOURS)]
        parts.append(f'<text x="{8 + 62 * i}" y="15" fill="{colour}">head {head}</text>')
    strength = np.abs(np.nan_to_num(maps))
    top = float(strength.max()) or 1.0
    strongest = np.argsort(-strength, axis=None, kind="stable")[:MOST_LINES]
    for h, i, j in np.stack(np.unravel_index(strongest, maps.shape), axis=1).tolist():
        weight, opacity = float(maps[h, i, j]), strength[h, i, j] / top
        if opacity < 0.01:
            break
        colour, dashed = HEAD_COLOURS[h % len(HEAD_COLOURS)], ' stroke-dasharray="4 3"' * (weight < 0)
        parts.append(
            f'<path d="M{left:.0f} {_middle(i)}L{left + BETWEEN:.0f} {_middle(j)}" stroke="{colour}" stroke-width="2" '
            f'stroke-opacity="{opacity:.2f}"{dashed}><title>{escape(tokens[i])} reads {escape(keys[j])}: {weight:.4f} '
            f"(head {heads[h]})</title></path>"
        )
    for i, token in enumerate(tokens):
        parts.append(f'<text x="{left - 6:.0f}" y="{_middle(i) + 4}" text-anchor="end">{escape(token)}</text>')
    for j, key in enumerate(keys):
        parts.append(f'<text x="{left + BETWEEN + 6:.0f}" y="{_middle(j) + 4}">{escape(key)}</text>')
    return "".join([*parts, "</svg>"])


def _middle(row: int) -> int:
    return LINE * (row + 1) + 14
