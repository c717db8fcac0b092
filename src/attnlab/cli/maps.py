"""`attnlab maps`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Limits, Run, RunCode, RunPackages
from attnlab.machine.limits import limited
from attnlab.options.rules import parse_integers
from attnlab.store.run_folder import find_run

HIGHEST = 9999  # number of a layer or a head that may be typed


def maps(
    *,
    run: Run,
    prompt: Annotated[str, "the text"],
    layers: Annotated[str | None, "which layers, such as 0,2 or 1-3; left out: all"] = None,
    heads: Annotated[str | None, "which heads of them; left out: all"] = None,
    folder: Annotated[Path | None, "where the files go; left out: maps/prompt in the run's folder"] = None,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Draw what every head of a trained model reads in a text: numbers, pictures and a page."""
    chosen = {
        key: None if text is None else parse_integers(key, text, most=HIGHEST, like="0,2 or 1-3")
        for key, text in (("layers", layers), ("heads", heads))
    }
    home = folder if folder is not None else find_run(run).prompt_maps
    from attnlab.inspection.figures import draw_layer, to_png
    from attnlab.inspection.map_page.page import page
    from attnlab.inspection.prompt_maps import save_prompt_maps
    from attnlab.runs import maps_of
    from attnlab.store.files import check_writable, write_atomically

    with limited(limits):
        check_writable(home, key="folder")
        text_maps = maps_of(run, prompt, **chosen, allow_targets=allow_targets, code=code, limits=limits)
        save_prompt_maps(home / "maps.safetensors", text_maps)
        print(f"wrote {home / 'maps.safetensors'}")
        for layer in text_maps.layers:
            title = f"{text_maps.run}, step {text_maps.step}, layer {layer.layer}"
            picture = draw_layer(layer.weights, layer.kind, text_maps.tokens, title, heads=layer.heads)
            path = home / f"layer_{layer.layer:02d}.png"
            write_atomically(path, to_png(picture), key="folder")
            print(f"wrote {path}")
        write_atomically(home / "index.html", page(text_maps).encode(), key="folder")
        print(f"wrote {home / 'index.html'}")
