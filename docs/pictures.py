"""Draws docs/maps/FAMILY.png, what variants of each family look at after a short training: python -m docs.pictures

Each variant is trained by the project's own run into runs/pictures, so that a second call only draws. About six minutes
on one core.
"""

import math
from typing import NamedTuple

import numpy as np
from docs.variants import ROOT, picture_of
from jaxtyping import Float
from PIL import Image

from attnlab.config.compose import compose_config
from attnlab.inspection.figures import draw_layer, to_png
from attnlab.inspection.maps import collect
from attnlab.runs import load
from attnlab.store.files import write_atomically
from attnlab.training.prepare import prepare
from attnlab.training.run import run

SENTENCE = "The cat saw the dog. The cat ran."
STEPS, HEADS = 200, 2  # updates of each run, heads drawn of a layer
BUDGET = 200_000  # bytes of a picture
SETTINGS = (
    f"trainer.max_steps={STEPS}",
    "trainer.threads=1",
    f"trainer.val_every={STEPS}",
    f"trainer.checkpoint_every={STEPS}",
    "model.context=64",
    "experiment_name=pictures",
    "maps.steps=2",
    "sample.steps=0",
)


class Panel(NamedTuple):
    """One layer of one trained variant."""

    variant: str
    layer: int
    overrides: tuple[str, ...] = ()


PANELS = {
    "Softmax attention": (
        Panel("multi_head", 2),
        Panel("window_sinks", 2, ("attention.mask.window=4", "attention.mask.sinks=1")),
        Panel("stick_breaking", 2),
        Panel("differential", 2),
    ),
    "Recurrent and linear attention": (
        Panel("linear", 1),
        Panel("linear", 1, ("attention/decay=slopes",)),
        Panel("gated_delta", 1),
    ),
    "Mixtures of variants": (
        Panel("head_mix", 2, ("attention.kinds.local.mask.window=4",)),
        Panel("qwen3_next", 2),
        Panel("qwen3_next", 3),
    ),
    "Controls": (Panel("uniform", 1), Panel("synthesizer_dense", 1), Panel("simple", 1)),
}


def draw(panel: Panel) -> Image.Image:
    """The first heads of a layer after training, with the scale of their colours and the range of each head."""
    config = compose_config([f"attention={panel.variant}", *panel.overrides, *SETTINGS])
    run(config, variant=panel.variant)
    model, tokenizer = load(prepare(config, panel.variant).folder)
    ids = tokenizer.encode(SENTENCE)
    layer = collect(model, ids)[panel.layer]
    assert layer.weights is not None, f"{panel.variant} has no map"
    weights = layer.weights[:HEADS].astype(np.float32)
    title = " ".join((f"attention={panel.variant}", *panel.overrides, f"· layer {panel.layer} · step {STEPS}"))
    captions = [f"weights {head.min():.2g} to {head.max():.2g}" for head in weights]
    scale = top(weights, layer.kind)
    return draw_layer(weights, layer.kind, tokenizer.labels(ids), title, scale=scale, captions=captions)


def top(weights: Float[np.ndarray, "h t s"], kind: str) -> float:
    """The weight of the last colour: 1 where weights cannot be larger, otherwise 1, 2 or 5 times a power of ten."""
    if kind.endswith("probability"):
        return 1.0
    largest = float(np.abs(weights).max())
    unit = 10.0 ** math.floor(math.log10(largest))
    return next(unit * step for step in (1, 2, 5, 10) if unit * step >= largest)


def stacked(panels: list[Image.Image]) -> Image.Image:
    """Pictures below each other, as wide as the widest."""
    page = Image.new("RGB", (max(p.width for p in panels), sum(p.height for p in panels)), "white")
    y = 0
    for panel in panels:
        page.paste(panel.convert("RGB"), (0, y))
        y += panel.height
    return page


def main() -> None:
    """Train what is not trained yet, and write one picture per family."""
    for family, panels in PANELS.items():
        png = to_png(stacked([draw(panel) for panel in panels]))
        assert len(png) < BUDGET, f"{family}: {len(png)} bytes"
        path = picture_of(family)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, png, key="docs/maps")
        print(f"{path.relative_to(ROOT)}: {len(png):,} bytes")


if __name__ == "__main__":
    main()
