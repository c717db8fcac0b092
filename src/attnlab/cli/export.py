"""`attnlab export`."""

from pathlib import Path
from typing import Annotated, Literal

from attnlab.cli._arguments import Limits, Run, RunCode, RunPackages
from attnlab.machine.limits import limited
from attnlab.store.files import check_new_folder, write_folder
from attnlab.store.run_folder import find_run


def export(
    *,
    run: Run,
    folder: Annotated[Path, "a new folder for it"],
    to: Annotated[
        Literal["hf", "safetensors", "gguf"],
        "hf: for transformers; safetensors: the weights by our names; gguf: for llama.cpp",
    ] = "hf",
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Write a trained model for other tools."""
    home = find_run(run)
    check_new_folder(folder, key="folder")
    from attnlab.interchange.export_run import exported
    from attnlab.runs import load, read_config

    with limited(limits):
        model, tokenizer = load(home, allow_targets=allow_targets, code=code, limits=limits)
        files = exported(home, read_config(home, allow_targets), model, tokenizer, to=to)
    write_folder(folder, files, key="folder")
    for name in files:
        print(f"wrote {folder / name}")
