"""What is written of silenced heads: numbers, a file, and a picture for each layer that has a map of its heads."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from attnlab.inspection.head_ablation import Effect
from attnlab.inspection.head_report import HEADER, last_maps, line, save, scalars
from attnlab.inspection.records import LayerMap, Sentence, save_maps
from attnlab.store.run_folder import RunFolder

EFFECTS = [Effect(layer, head, layer + head / 4, -head / 2) for layer in (0, 1) for head in (0, 1)]


def test_numbers() -> None:
    """Two tags for each head; a line stands below its header."""
    numbers = scalars(EFFECTS)
    assert len(numbers) == 2 * len(EFFECTS) and sorted(numbers.values()) == sorted(
        x for effect in EFFECTS for x in (effect.zero, effect.mean)
    )
    head, zero, mean = line(EFFECTS[3]).split()
    assert (head, float(zero), float(mean)) == ("L01H01", 1.25, -0.5)
    for name, number in (("zero", zero), ("mean", mean)):
        assert HEADER.index(name) + len(name) == line(EFFECTS[3]).index(number) + len(number)


def test_save(tmp_path: Path) -> None:
    """The file holds all effects; a layer whose map is not one of these heads has no picture."""
    run = RunFolder(tmp_path)
    (file,) = save(run.head_ablation, EFFECTS, last_maps(run), loss=1.5, tokens=7, step=3)
    content = json.loads(file.read_text())
    assert (content["loss"], content["tokens"], content["step"]) == (1.5, 7, 3)
    assert [Effect(**head) for head in content["heads"]] == EFFECTS
    weights = np.tril(np.ones((2, 3, 3), dtype=np.float32)) / np.arange(1, 4, dtype=np.float32)[:, None]
    layers = [LayerMap(0, "probability", weights, None), LayerMap(1, "probability", weights[:1], None)]
    save_maps(run.last_maps, [Sentence("probe", "abc", ["a", "b", "c"], layers)], step=3, run="r")
    _, picture = save(run.head_ablation, EFFECTS, last_maps(run), loss=1.5, tokens=7, step=3)
    assert picture.name.endswith("_layer_00.png")
    with Image.open(picture) as image:
        assert image.width > 50
