"""`attnlab ablate_heads`."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from attnlab.cli._arguments import Limits, Range, RunCode, RunPackages
from attnlab.cli._foreign import AllowCode, Download, Revision, check_either, check_unused, hf_folder
from attnlab.errors import UsageError
from attnlab.machine.environment import harmless
from attnlab.machine.limits import limited
from attnlab.store.run_folder import RunFolder, find_run

if TYPE_CHECKING:
    from attnlab.inspection.head_ablation import Effect
    from attnlab.inspection.prompt_maps import PromptMaps


class Ablation(NamedTuple):
    """What is measured: on which text, where it is written, the whole model's loss, and the effects as they come."""

    subject: str
    home: RunFolder
    loss: float
    tokens: int
    step: int
    effects: "Iterator[Effect]"
    maps: "PromptMaps | None"


def ablate_heads(
    *,
    run: Annotated[Path | None, "the folder of a run"] = None,
    hf: Annotated[Path | None, "or that of a decoder of transformers: config.json, safetensors, tokenizer"] = None,
    text: Annotated[Path | None, "with hf=: the file with the text to score"] = None,
    tokens: Annotated[int, Range(least=1), "how many tokens of the validation text, or of text=, to score"] = 16384,
    folder: Annotated[Path | None, "with hf=: where the files go; left out: ablation/NAME"] = None,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    allow_code: AllowCode = False,
    download: Download = False,
    revision: Revision = None,
    limits: Limits = True,
) -> None:
    """Silence one head after the other and show how the loss changes, beside what the head looks at."""
    check_either("ablate_heads", run, hf)
    if run is not None:
        of_hf = {"text": text, "folder": folder, "allow_code": allow_code, "download": download, "revision": revision}
        check_unused(of_hf, of="hf=")
        run_folder = find_run(run)
    elif text is None:
        raise UsageError("attnlab ablate_heads hf=... needs text=..., the file with the text to score")
    from attnlab.inspection import head_report
    from attnlab.training.recorders.tensorboard import TensorBoardRecorder

    with limited(limits):
        if run is not None:
            ablation = _of_run(run_folder, tokens, allow_targets, code, limits)
        else:
            assert hf is not None and text is not None
            check_unused({"allow_targets": allow_targets}, of="run=")
            source = hf_folder(hf, download=download, revision=revision)
            ablation = _of_foreign(source, text, tokens, folder, allow_code)
        print(f"{ablation.subject}, with all heads", flush=True)
        measured: list[Effect] = []
        print(head_report.HEADER, flush=True)
        for effect in ablation.effects:
            measured.append(effect)
            print(head_report.line(effect), flush=True)
        path, loss, scored = ablation.home.head_ablation, ablation.loss, ablation.tokens
        for file in head_report.save(path, measured, ablation.maps, loss=loss, tokens=scored, step=ablation.step):
            print(harmless(f"wrote {file}"))
        with closing(TensorBoardRecorder(ablation.home, resume_at=None, suffix=f".{path.stem}")) as recorder:
            recorder.scalars(head_report.scalars(measured), ablation.step)


def _of_run(folder: RunFolder, tokens: int, allow_targets: tuple[str, ...], code: str, limits: bool) -> Ablation:
    from attnlab.inspection.head_ablation import ablate, headed_parts
    from attnlab.inspection.head_report import last_maps
    from attnlab.runs import load, newest_step, validation_batches

    model, tokenizer = load(folder, allow_targets=allow_targets, code=code, limits=limits)
    batches = validation_batches(folder, tokenizer, tokens=tokens, allow_targets=allow_targets)
    scored = sum(int((targets >= 0).sum()) for _, targets in batches)
    if not any(headed_parts(block.attention) for block in model.layers):
        raise UsageError(f"run ({folder}) has no heads to silence")
    loss, effects = ablate(model, batches)
    subject = f"val/loss {loss:.4f} on {scored:,} tokens of the validation text"
    step = newest_step(folder, limits=limits)
    return Ablation(subject, folder, loss, scored, step, effects, last_maps(folder))


def _of_foreign(source: Path, text: Path, tokens: int, folder: Path | None, allow_code: bool) -> Ablation:
    from attnlab.interchange.foreign.head_silencing import decoder_maps, read_rows, silence
    from attnlab.interchange.foreign.loading import load_foreign, run_name
    from attnlab.store.files import check_writable

    home = RunFolder(folder if folder is not None else Path("ablation", run_name(source)))
    check_writable(home.path, key="folder")
    model = load_foreign(source, allow_code=allow_code)
    rows = read_rows(model, text, tokens)
    maps = decoder_maps(model, rows[0])
    loss, effects = silence(model, rows)
    scored = sum(len(row) - 1 for row in rows)
    subject = f"loss {loss:.4f} on {scored:,} tokens of {text}"
    return Ablation(subject, home, loss, scored, model.step, effects, maps)
