"""What looking costs: the share of a run that maps take, and the bytes of one map step: python bench/maps.py

First the main job, 600 steps with maps at 12 of them, on a probe of 64 tokens. Then a model of 12 layers with 12 heads
and a probe of 256 tokens, of which 8 steps are made, with maps at 4; its share follows from the seconds of a step and
of a map step. One thread. Bytes: of all layers in the event file, the maps (float16, zlib) and their pictures.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from attnlab.config.compose import compose_config
from attnlab.inspection.records import HEADS
from attnlab.training.run import run

USUAL = (600, 12)  # steps, and map steps among them
SHAPES = (  # layers, heads, width, context, tokens of the probe; steps and map steps that are made; aim
    ((4, 4, 128, 128, 64), USUAL, 0.02),
    ((12, 12, 384, 256, 256), (8, 4), 0.05),
)


def trained(
    folder: Path, shape: tuple[int, int, int, int, int], made: tuple[int, int], batch_size: int
) -> dict[str, Any]:
    """The summary of a run of this shape."""
    layers, heads, width, context, tokens = shape
    settings = {
        "model.n_layers": layers,
        "model.n_heads": heads,
        "model.d_model": width,
        "model.context": context,
        "batch_size": batch_size,
        "tokenizer": "byte",
        "maps.probe": "x" * tokens,
        "maps.steps": made[1],
        "sample.steps": 0,
        "trainer.max_steps": made[0],
        "trainer.val_every": 1000,
        "trainer.threads": 1,
        "trainer.progress": "false",
        "paths.runs": folder,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    return run(compose_config(words), variant="multi_head")


def bytes_of(folder: Path) -> dict[str, int]:
    """Bytes in the event files of a run, by the plugin they are for."""
    found: dict[str, int] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        for event in EventFileLoader(os.fspath(file)).Load():
            for value in event.summary.value:
                name = value.metadata.plugin_data.plugin_name
                if name in ("attention", "images") and not value.tag.startswith(HEADS):
                    found[name] = found.get(name, 0) + value.ByteSize()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    lines = []
    for shape, made, aim in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            summary = trained(Path(folder), shape, made, options.batch_size)
            stored = bytes_of(Path(folder))
        step, look = summary["train_seconds"] / made[0], summary["map_seconds"] / made[1]
        share = USUAL[1] * look / (USUAL[0] * step + USUAL[1] * look)
        layers, heads, width, _, tokens = shape
        lines.append(
            f"{layers} x {heads} heads, {tokens} tokens, {width} wide: a step {1e3 * step:.0f} ms, a map step "
            f"{1e3 * look:.0f} ms, share of {USUAL[0]} steps {share:.2%} (aim {aim:.0%}); bytes a map step: "
            + ", ".join(f"{name} {count / made[1]:,.0f}" for name, count in sorted(stored.items()))
        )
    print("\n".join(lines))


if __name__ == "__main__":
    main()
