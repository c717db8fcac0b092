"""`attnlab ablate_heads`."""

from contextlib import closing
from typing import Annotated

from attnlab.cli._arguments import Limits, Range, Run, RunCode, RunPackages
from attnlab.errors import UsageError
from attnlab.machine.limits import limited
from attnlab.store.run_folder import find_run


def ablate_heads(
    *,
    run: Run,
    tokens: Annotated[int, Range(least=1), "how many tokens of the validation text to score"] = 16384,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Silence one head after the other and show how the loss changes, beside what the head looks at."""
    folder = find_run(run)
    from attnlab.inspection import head_report
    from attnlab.inspection.head_ablation import Effect, ablate, headed_parts
    from attnlab.runs import load, newest_step, validation_batches
    from attnlab.training.recorders.tensorboard import TensorBoardRecorder

    with limited(limits):
        model, tokenizer = load(folder, allow_targets=allow_targets, code=code, limits=limits)
        batches = validation_batches(folder, tokenizer, tokens=tokens, allow_targets=allow_targets)
        scored = sum(int((targets >= 0).sum()) for _, targets in batches)
        if not any(headed_parts(block.attention) for block in model.layers):
            raise UsageError(f"run ({folder}) has no heads to silence")
        loss, effects = ablate(model, batches)
        print(f"val/loss {loss:.4f} on {scored:,} tokens of the validation text, with all heads", flush=True)
        measured: list[Effect] = []
        print(head_report.HEADER, flush=True)
        for effect in effects:
            measured.append(effect)
            print(head_report.line(effect), flush=True)
        step = newest_step(folder, limits=limits)
        for path in head_report.save(folder, measured, loss=loss, tokens=scored, step=step):
            print(f"wrote {path}")
        with closing(TensorBoardRecorder(folder, resume_at=None, suffix=f".{folder.head_ablation.stem}")) as recorder:
            recorder.scalars(head_report.scalars(measured), step)
