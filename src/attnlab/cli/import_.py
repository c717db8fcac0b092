"""`attnlab import`."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attnlab.cli._arguments import Range
from attnlab.cli._foreign import Download, Revision, check_unused, hf_folder
from attnlab.errors import UsageError
from attnlab.machine.environment import harmless

if TYPE_CHECKING:
    from attnlab.data.tokenizers import Tokenizer
    from attnlab.store.run_folder import RunFolder


def import_(
    *,
    folder: Annotated[Path, "the run folder that is written"],
    hf: Annotated[Path | None, "the folder of a model: config.json, model.safetensors and tokenizer.json"] = None,
    gguf: Annotated[Path | None, "or a GGUF file of a Llama or a Qwen"] = None,
    ckpt: Annotated[Path | None, "or a file of torch's: nanoGPT's ckpt.pt, or the GPT of a book"] = None,
    tokenizer: Annotated[Path | None, "with ckpt: the folder of its tokenizer, or a meta.pkl; null: GPT-2's"] = None,
    n_heads: Annotated[int | None, Range(least=1), "with ckpt: how many heads, where the file does not say"] = None,
    download: Download = False,
    revision: Revision = None,
    context: Annotated[int | None, Range(least=1), "tokens of a row of text; null: the model's, at most 1024"] = None,
) -> None:
    """Make a run folder of a model of others."""
    if sum(path is not None for path in (hf, gguf, ckpt)) != 1:
        raise UsageError("name one model to import: hf=FOLDER, gguf=FILE or ckpt=FILE")
    if ckpt is None:
        check_unused({"tokenizer": tokenizer, "n_heads": n_heads}, of="ckpt=")
    if hf is None:
        check_unused({"download": download, "revision": revision}, of="hf=")
    from attnlab.interchange.hf_import import import_file, import_folder, import_gguf

    if hf is not None:
        run = import_folder(hf_folder(hf, download=download, revision=revision), folder, context=context)
    elif gguf is not None:
        run = import_gguf(gguf, folder, context=context)
    elif ckpt is not None:
        run = import_file(ckpt, folder, tokenizer=tokenizer, n_heads=n_heads, context=context)
    losses = _show_maps(run).losses
    summary = run.read_summary()
    model_type = harmless(str(summary["imported"]["model_type"]))
    print(f"wrote {run}: {model_type}, {summary['parameters']:,} parameters")
    if losses:
        print(f"its tokenizer does not give back: {', '.join(losses)}")
    print(f"next: attnlab generate run={run} prompt=...; tensorboard --logdir {run}")


def _show_maps(run: "RunFolder") -> "Tokenizer":
    """Write the maps of a sentence where the Attention tab finds them; gives the run's tokenizer."""
    from attnlab.data.corpus import CHAPTER_SENTENCE
    from attnlab.inspection.maps import check_probe, collect
    from attnlab.inspection.records import Record, half
    from attnlab.runs import load
    from attnlab.store.digests import digests_in
    from attnlab.training.recorders.tensorboard import TensorBoardRecorder

    model, tokenizer = load(run, limits=False)
    probe = check_probe("probe", CHAPTER_SENTENCE, tokenizer, model.context)
    with closing(TensorBoardRecorder(run, resume_at=None)) as recorder:
        for layer in collect(model, probe.ids):
            if layer.weights is not None:
                norms = None if layer.value_norm is None else half(layer.value_norm)
                about = (0, layer.layer, layer.kind, probe.name, probe.text, probe.labels)
                recorder.map(Record(*about, half(layer.weights), norms))
        summary = run.read_summary()
        run.write_summary(summary, {**digests_in(summary), **recorder.digests()})
    return tokenizer
