"""The files of one text's maps: numbers, a picture per layer, and a page."""

from collections.abc import Iterator
from pathlib import Path

from attnlab.inspection.figures import to_png
from attnlab.inspection.map_page.page import page
from attnlab.inspection.prompt_maps import PromptMaps, save_prompt_maps
from attnlab.store.files import write_atomically


def write_map_files(folder: Path, maps: PromptMaps) -> Iterator[Path]:
    """Write maps.safetensors, layer_00.png and so on, and index.html; gives each file when it is written."""
    path = folder / "maps.safetensors"
    save_prompt_maps(path, maps)
    yield path
    for layer in maps.layers:
        path = folder / f"layer_{layer.layer:02d}.png"
        write_atomically(path, to_png(maps.picture(layer)), key="folder")
        yield path
    write_atomically(folder / "index.html", page(maps).encode(), key="folder")
    yield folder / "index.html"
