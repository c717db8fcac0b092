"""`attnlab import`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Range


def import_(
    *,
    hf: Annotated[Path, "the folder of a model, with config.json, model.safetensors and tokenizer.json"],
    folder: Annotated[Path, "the run folder that is written"],
    context: Annotated[int | None, Range(least=1), "tokens of a row of text; null: the model's, at most 1024"] = None,
) -> None:
    """Make a run folder of a model in the format of Hugging Face."""
    from attnlab.interchange.hf_import import import_folder

    run = import_folder(hf, folder, context=context)
    summary = run.read_summary()
    print(f"{summary['imported']['model_type']}, {summary['parameters']:,} parameters, in {run}")
    print(f"next: attnlab generate run={run} prompt=...; attnlab maps run={run} prompt=...")
