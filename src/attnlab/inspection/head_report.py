"""Shows what every head is good for, beside what it looks at: a file, a picture per layer, and numbers."""

import json
from collections.abc import Iterator
from pathlib import Path

from attnlab.inspection.figures import draw_layer, to_png
from attnlab.inspection.head_ablation import Effect
from attnlab.inspection.head_metrics import SILENCED_MEAN, SILENCED_ZERO
from attnlab.inspection.prompt_maps import PromptMaps, every_head
from attnlab.inspection.records import load_maps
from attnlab.store.files import write_atomically
from attnlab.store.run_folder import RunFolder

FORMAT = 1
HEADER = "head        zero      mean    (change in the loss without the head, nats per token; above 0 it was useful)"


def line(effect: Effect) -> str:
    """One head under HEADER."""
    return f"L{effect.layer:02d}H{effect.head:02d} {effect.zero:+9.4f} {effect.mean:+9.4f}"


def save(
    path: Path, effects: list[Effect], maps: PromptMaps | None, *, loss: float, tokens: int, step: int
) -> list[Path]:
    """Write the effects into a file, and beside it a picture of each layer that has a map of its heads."""
    content = {
        "format": FORMAT,
        "step": step,
        "loss": loss,
        "tokens": tokens,
        "heads": [effect._asdict() for effect in effects],
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode(), key="run")
    return [path, *(_pictures(path, effects, maps) if maps is not None else ())]


def last_maps(run: RunFolder) -> PromptMaps | None:
    """The last maps of a run on its first sentence; None where it has none."""
    if not run.last_maps.is_file():
        return None
    maps = load_maps(run.last_maps)
    sentence = maps.sentences[0]
    return PromptMaps(maps.run, maps.step, sentence.text, sentence.tokens, every_head(sentence.layers))


def scalars(effects: list[Effect]) -> dict[str, float]:
    """The effects by tag, two for each head."""
    numbers: dict[str, float] = {}
    for effect in effects:
        head = f"L{effect.layer:02d}H{effect.head:02d}"
        numbers |= {f"{SILENCED_ZERO}/{head}": effect.zero, f"{SILENCED_MEAN}/{head}": effect.mean}
    return numbers


def _pictures(path: Path, effects: list[Effect], maps: PromptMaps) -> Iterator[Path]:
    """The map of each layer, and beside the name of each head what its silence changes."""
    notes = ["beside the name of each head: the change in the loss, in nats per token, when it is set to zero"]
    for layer in maps.layers:
        captions = [f"{effect.zero:+.3f}" for effect in effects if effect.layer == layer.layer]
        if len(captions) != len(layer.weights):
            continue  # a layer that has one map over heads that are not its own
        title = f"{maps.run} · layer {layer.layer} · step {maps.step}"
        picture = draw_layer(layer.weights, layer.kind, maps.tokens, title, notes=notes, captions=captions)
        picture_path = path.with_name(f"{path.stem}_layer_{layer.layer:02d}.png")
        write_atomically(picture_path, to_png(picture), key="run")
        yield picture_path
