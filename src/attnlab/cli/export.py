"""`attnlab export`."""

from pathlib import Path
from typing import Annotated, Literal

from attnlab.cli._arguments import Limits, Run, RunCode, RunPackages
from attnlab.interchange.hub import check_push
from attnlab.interchange.hub import push as push_folder
from attnlab.machine.limits import limited
from attnlab.store.files import check_new_folder, write_folder
from attnlab.store.run_folder import find_run

SCORED_TOKENS = 100_000  # of the validation rows that become a task of lm-eval


def export(
    *,
    run: Run,
    folder: Annotated[Path, "a new folder for it"],
    to: Annotated[
        Literal["hf", "safetensors", "gguf", "lm_eval"],
        "hf: for transformers; safetensors: the weights by our names; gguf: for llama.cpp; lm_eval: what it was judged "
        "by, as a task",
    ] = "hf",
    push: Annotated[
        str | None, "owner/name of a model of the Hub that the folder is uploaded to; left out: none"
    ] = None,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Write a trained model for other tools."""
    home = find_run(run)
    check_new_folder(folder, key="folder")
    if push is not None:
        check_push(push)
    from attnlab.interchange.export_run import exported
    from attnlab.interchange.lm_eval_task import lm_eval_files
    from attnlab.runs import load, read_config, validation_batches

    with limited(limits):
        model, tokenizer = load(home, allow_targets=allow_targets, code=code, limits=limits)
        config = read_config(home, allow_targets)
        if to == "lm_eval":
            batches = validation_batches(home, tokenizer, tokens=SCORED_TOKENS, allow_targets=allow_targets)
            files = lm_eval_files(config, tokenizer, batches, folder)
        else:
            files = exported(home, config, model, tokenizer, to=to)
    write_folder(folder, files, key="folder")
    for name in files:
        print(f"wrote {folder / name}")
    if push is not None:
        print(f"uploaded to {push_folder(folder, push)}")
