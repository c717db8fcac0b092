"""`attnlab maps`: the maps that a trained run makes of a text, as numbers, pictures and a page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from attnlab.files import check_writable, write_atomically
from attnlab.inspection.figures import draw_layer, to_png
from attnlab.inspection.map_page.page import page
from attnlab.inspection.maps import check_prompt, collect
from attnlab.inspection.prompt_maps import PromptMaps, chosen, save_prompt_maps
from attnlab.runs import find_run, load, newest_step

MOST_TOKENS = 512  # a map holds tokens^2 weights for each head


def maps_of(
    run: str | Path,
    prompt: str,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    allow_targets: Sequence[str] = (),
    code: str = "same",
    limits: bool = True,
) -> PromptMaps:
    """The maps of a text by the newest checkpoint of a run; of the layers and heads that are named, or of all."""
    home = find_run(run)
    model, tokenizer = load(home, allow_targets=tuple(allow_targets), code=code, limits=limits)
    ids, labels = check_prompt(prompt, tokenizer, model.context, max_tokens=MOST_TOKENS)
    found = chosen(collect(model, ids), layers, heads)
    return PromptMaps(home.name, newest_step(home, limits=limits), prompt, labels, found)


def write_maps(
    run: str,
    prompt: str,
    folder: str | None,
    *,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    allow_targets: Sequence[str],
    code: str,
    limits: bool,
) -> Iterator[Path]:
    """Write maps.safetensors, a picture per layer and index.html; gives back each file's path once it is there."""
    home = Path(folder) if folder is not None else find_run(run).prompt_maps
    check_writable(home, key="folder")
    maps = maps_of(run, prompt, layers=layers, heads=heads, allow_targets=allow_targets, code=code, limits=limits)
    save_prompt_maps(home / "maps.safetensors", maps)
    yield home / "maps.safetensors"
    for layer in maps.layers:
        title = f"{maps.run}, step {maps.step}, layer {layer.layer}"
        picture = draw_layer(layer.weights, layer.kind, maps.tokens, title, heads=layer.heads)
        path = home / f"layer_{layer.layer:02d}.png"
        write_atomically(path, to_png(picture), key="folder")
        yield path
    write_atomically(home / "index.html", page(maps).encode(), key="folder")
    yield home / "index.html"
