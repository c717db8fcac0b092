"""Writes the pages and pictures that docs/explain.md links to: python -m docs.worked_examples

All but the example of `attnlab maps`, which needs a trained run. Under a minute on one core.
"""

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

from docs.variants import ROOT

from attnlab.cli import main as attnlab
from attnlab.store.files import write_atomically

FOLDER = ROOT / "docs" / "explained"
ALONE = ("gqa", "mla", "gated", "differential", "nsa", "cross_layer", "head_mix", "linear", "gated_delta", "ttt")
BESIDE_MULTI_HEAD = ("sliding_window", "softcap", "sigmoid")
COMMANDS = {
    "chapter": (),
    **{name: (f"attention={name}",) for name in ALONE},
    **{f"{name}-against-multi_head": (f"attention={name}", "against=multi_head") for name in BESIDE_MULTI_HEAD},
}
PICTURES = {
    "simple_weights.png": ("chapter", "0_simple_02_weights.png"),
    "self_weights.png": ("chapter", "1_self_06_weights.png"),
    "causal_weights.png": ("chapter", "2_causal_10_weights.png"),
    "multi_head_weights.png": ("chapter", "4_multi_head_06_weights.png"),
    "sigmoid_weights.png": ("sigmoid", "07_weights.png"),
    "gated_delta_map.png": ("gated_delta", "09_map.png"),
}
OF_A_RUN = {"maps.html", "maps_layer_01.png"}


def written(name: str, folder: Path) -> Path:
    """The folder of one worked example, made anew under `folder`."""
    words = COMMANDS.get(name, (f"attention={name}",))
    with contextlib.redirect_stdout(io.StringIO()):
        attnlab(["explain", *words, f"folder={folder}"])
    return folder / name


def main() -> None:
    with TemporaryDirectory() as place:
        made = {name: written(name, Path(place)) for name in {*COMMANDS, *(page for page, _ in PICTURES.values())}}
        files = {f"{name}.html": made[name] / "index.html" for name in COMMANDS}
        files |= {name: made[page] / file for name, (page, file) in PICTURES.items()}
        for name, file in files.items():
            write_atomically(FOLDER / name, file.read_bytes(), key="docs/explained")
    print(f"{FOLDER.relative_to(ROOT)}: {len(files)} files")


if __name__ == "__main__":
    main()
