"""`attnlab watch`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Limits
from attnlab.cli._foreign import AllowCode, Download, Revision, Target, hf_folder
from attnlab.machine.limits import limited


def watch(
    *,
    hf: Annotated[tuple[str, ...], "folders of transformers' models: one, [A,B,C] or checkpoint-*, of one training"],
    prompt: Annotated[str, "the text"],
    target: Target = None,
    logdir: Annotated[Path, "the folder that TensorBoard shows; the records go into one below it"],
    allow_code: AllowCode = False,
    download: Download = False,
    revision: Revision = None,
    limits: Limits = True,
) -> None:
    """Put what any model of transformers reads in a text into TensorBoard's Attention tab, one step per checkpoint."""
    from attnlab.store.files import check_writable, expand_path

    with limited(limits):
        from attnlab.inspection.records import tensorboard_command
        from attnlab.interchange.foreign.checkpoint_order import in_order, sentence_of
        from attnlab.interchange.foreign.loading import load_foreign
        from attnlab.training.recorders.tensorboard import TensorBoardRecorder

        folders = [hf_folder(expand_path(each, key="hf"), download=download, revision=revision) for each in hf]
        name, checkpoints = in_order(folders)
        home = logdir / name
        check_writable(home, key="logdir")
        inspections = []  # all before the first is written
        for step, source in checkpoints:
            model = load_foreign(source, allow_code=allow_code)._replace(name=name, step=step)
            inspections.append(model.inspect(prompt, target))
            for sentence in inspections[-1].missing:
                print(f"{source}: {sentence}")
            print(f"step {step}: {source}", flush=True)
        with closing(TensorBoardRecorder(home, resume_at=None)) as recorder:
            for inspection in inspections:
                for record in inspection.records(sentence_of(prompt)):
                    recorder.map(record)
        print(f"to look at it: {tensorboard_command(logdir)}")
