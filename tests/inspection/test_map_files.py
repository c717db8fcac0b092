"""The files of one text's maps, each given when it is there."""

from pathlib import Path

import numpy as np
from PIL import Image

from attnlab.inspection.map_files import write_map_files
from attnlab.inspection.prompt_maps import ChosenHeads, PromptMaps


def test_cross_files(tmp_path: Path) -> None:
    """A text that reads another gets pictures that are not square, and a page that names both."""
    weights = np.full((2, 2, 9), 1 / 9, dtype=np.float32)
    maps = PromptMaps(
        "m", 0, "t", ["a", "b"], [ChosenHeads(3, "probability", [0, 1], weights, None)], [*"ninekeys!"], False
    )
    for path in (files := write_map_files(tmp_path, maps)):
        assert path.is_file()
    assert next(files, None) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.html", "layer_03.png", "maps.safetensors"]
    with Image.open(tmp_path / "layer_03.png") as picture:
        assert picture.width > picture.height
    assert '"keys":["n","i"' in (tmp_path / "index.html").read_text()
