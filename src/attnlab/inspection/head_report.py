"""Shows what every head is good for, beside what it looks at: a file, a picture per layer, and numbers."""

import json
from pathlib import Path

from attnlab.inspection.figures import draw_layer, to_png
from attnlab.inspection.head_ablation import Effect
from attnlab.inspection.head_metrics import SILENCED_MEAN, SILENCED_ZERO
from attnlab.inspection.records import load_maps
from attnlab.store.files import write_atomically
from attnlab.store.run_folder import RunFolder

FORMAT = 1
HEADER = "head        zero      mean    (change in val/loss without the head, nats per token; above 0 it was useful)"


def line(effect: Effect) -> str:
    """One head under HEADER."""
    return f"L{effect.layer:02d}H{effect.head:02d} {effect.zero:+9.4f} {effect.mean:+9.4f}"


def save(run: RunFolder, effects: list[Effect], *, loss: float, tokens: int, step: int) -> list[Path]:
    """Write maps/head_ablation.json and a picture for each layer with a map into a run."""
    content = {
        "format": FORMAT,
        "step": step,
        "loss": loss,
        "tokens": tokens,
        "heads": [effect._asdict() for effect in effects],
    }
    written = [run.head_ablation]
    write_atomically(run.head_ablation, (json.dumps(content, indent=1) + "\n").encode(), key="run")
    if run.last_maps.is_file():
        written += _pictures(run, effects)
    return written


def scalars(effects: list[Effect]) -> dict[str, float]:
    """The effects by tag, two for each head."""
    numbers: dict[str, float] = {}
    for effect in effects:
        head = f"L{effect.layer:02d}H{effect.head:02d}"
        numbers |= {f"{SILENCED_ZERO}/{head}": effect.zero, f"{SILENCED_MEAN}/{head}": effect.mean}
    return numbers


def _pictures(run: RunFolder, effects: list[Effect]) -> list[Path]:
    """The last map of each layer, and beside the name of each head what its silence changes."""
    notes = ["beside the name of each head: the change in val/loss, in nats per token, when it is set to zero"]
    maps = load_maps(run.last_maps)
    sentence, written = maps.sentences[0], []
    for layer in sentence.layers:
        captions = [f"{effect.zero:+.3f}" for effect in effects if effect.layer == layer.layer]
        if layer.weights is None or len(captions) != len(layer.weights):
            continue  # a layer that has no map, or one map over heads that are not its own
        title = f"{maps.run} · layer {layer.layer} · step {maps.step}"
        picture = draw_layer(layer.weights, layer.kind, sentence.tokens, title, notes=notes, captions=captions)
        written.append(run.head_ablation.with_name(f"{run.head_ablation.stem}_layer_{layer.layer:02d}.png"))
        write_atomically(written[-1], to_png(picture), key="run")
    return written
