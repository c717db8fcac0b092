"""What each variant looks at on the average: its maps at the last step, over all heads and seeds."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from attnlab.analysis.arms import Arm
from attnlab.analysis.report import svg
from attnlab.analysis.report.document import Picture
from attnlab.errors import UsageError
from attnlab.inspection.colours import NEVER_READ, palette, scale_for
from attnlab.inspection.figures import SPACE, printable, to_png
from attnlab.inspection.head_metrics import shares
from attnlab.inspection.records import load_maps
from attnlab.store.damage import Damaged
from attnlab.store.digests import check_files, digests_in
from attnlab.store.names import LAST_MAPS

MOST_VARIANTS, MOST_SEEDS = 12, 10  # reading maps takes longer than all else
SIDE, GAP, LEFT, TOP = 132, 18, 84, 44


class MeanMaps(NamedTuple):
    """Shares of attention over heads and seeds, per layer; None where a layer has no map."""

    label: str
    tokens: list[str]
    layers: list[Float[np.ndarray, "t s"] | None]
    seeds: int
    problems: list[str]


def mean_maps(arm: Arm) -> MeanMaps | None:
    """The mean map of every layer of a variant on the probe sentence; None if none of its runs has one."""
    probes, problems = [], []
    for run in list(arm.finished.values())[:MOST_SEEDS]:
        try:
            check_files(run.path, digests_in(run.summary), LAST_MAPS)
            sentences = load_maps(run.path / LAST_MAPS).sentences
        except Damaged as damage:
            problems.append(f"{run.name}: {damage.reason}")
            continue
        except (UsageError, ValueError, KeyError) as error:
            problems.append(f"{run.name}: {error}")
            continue
        if sentences:
            probes.append(sentences[0])
    first = probes[0] if probes else None
    alike = [s for s in probes if first is not None and s.tokens == first.tokens and len(s.layers) == len(first.layers)]
    if first is None or not any(layer.weights is not None for layer in first.layers):
        return None
    layers: list[np.ndarray | None] = []
    for i in range(len(first.layers)):
        maps = [
            shares(layer.weights, layer.kind).mean(axis=0)
            for layer in (s.layers[i] for s in alike)
            if layer.weights is not None
        ]
        layers.append(np.mean(maps, axis=0) if maps else None)
    return MeanMaps(arm.label, first.tokens, layers, len(alike), problems)


def picture(arms: Sequence[Arm]) -> tuple[Picture | None, list[str]]:
    """A row of maps per variant, and what could not be read."""
    shown = [m for m in (mean_maps(c) for c in arms[:MOST_VARIANTS]) if m is not None]
    problems = [problem for m in shown for problem in m.problems]
    if not shown:
        return None, problems
    columns = max(len(m.layers) for m in shown)
    row = SIDE + TOP
    parts = []
    for i, m in enumerate(shown):
        y = TOP + i * row
        seeds = "1 seed" if m.seeds == 1 else f"{m.seeds} seeds"
        parts.append(svg.text(LEFT, y - 24, f"{m.label} ({seeds})", role="ink"))
        for j, weights in enumerate(m.layers):
            parts += _panel(weights, m.tokens, LEFT + j * (SIDE + GAP), y, f"layer {j}", labelled=j == 0)
    caption = (
        "Mean attention map of every layer at the last step, over all heads and seeds: each row is a token, dark where "
        "it reads much (square-root scale from 0 to 1). Maps that are no probabilities are shown as shares of their "
        "rows' absolute weights."
    )
    if len(arms) > MOST_VARIANTS:
        caption += f" The first {MOST_VARIANTS} of {len(arms)} variants."
    names = max(svg.width_of(f"{m.label} (10 seeds)") for m in shown)
    width = LEFT + max(columns * (SIDE + GAP), names)
    return Picture("mean_maps", svg.drawing(width, TOP + len(shown) * row, parts, label=caption), caption), problems


def _panel(
    weights: Float[np.ndarray, "t s"] | None, tokens: Sequence[str], x: float, y: float, name: str, *, labelled: bool
) -> list[str]:
    parts = [svg.text(x, y - 7, name, size=11)]
    if weights is None:
        return [*parts, svg.text(x + SIDE / 2, y + SIDE / 2, "has no map", anchor="middle")]
    scale = scale_for("probability")
    cells = np.where(np.triu(np.ones_like(weights), 1) > 0, NEVER_READ, scale.index(weights)).astype(np.uint8)
    image = Image.fromarray(cells, mode="P")
    image.putpalette(palette(scale.signed).tobytes())
    data = base64.b64encode(to_png(image)).decode()
    parts.append(
        f'<image x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )
    cell = SIDE / len(tokens)
    stride = max(1, int(np.ceil(9 / cell)))
    for i in range(0, len(tokens) if labelled else 0, stride):
        word = printable(tokens[i].replace(" ", SPACE))
        parts.append(svg.text(x - 5, y + (i + 0.5) * cell + 3, word[:11], anchor="end", size=9))
    return parts
