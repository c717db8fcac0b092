"""`attnlab final_test`."""

from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from attnlab.cli._arguments import Limits, RunCode, RunPackages
from attnlab.errors import UsageError
from attnlab.machine.environment import harmless
from attnlab.machine.limits import limited

if TYPE_CHECKING:
    from attnlab.config.run_config import RunConfig
    from attnlab.data.dataset import Dataset
    from attnlab.model import GPT


def final_test(
    *,
    experiment: Annotated[Path, "the folder of the experiment whose verdict is final"],
    metric: Annotated[str | None, "test/loss or test/accuracy; left out: as the experiment's own metric"] = None,
    allow_targets: RunPackages = (),
    code: RunCode = "same",
    limits: Limits = True,
) -> None:
    """Judge the runs of an experiment by the test part of the data, once, and compare them by that."""
    from attnlab.analysis.reading import read_experiment
    from attnlab.store.names import TEST
    from attnlab.store.status import Status

    if metric not in (None, f"{TEST}/loss", f"{TEST}/accuracy"):
        raise UsageError(f"metric ({metric}) must be {TEST}/loss or {TEST}/accuracy")
    with limited(limits):
        read = read_experiment(experiment)
        if read.folder.tuned.is_file():
            chose = f"experiment ({experiment}) chose settings ({read.folder.tuned.name})"
            raise UsageError(f"{chose}: test the final runs, which are others")
        finished = [run for run in read.runs if run.status == Status.FINISHED]
        if not finished:
            raise UsageError(f"experiment ({experiment}) holds no finished run")
        home = read.folder.path.resolve()
        for run in finished:
            if not run.path.resolve().is_relative_to(home):
                raise UsageError(
                    f"{run.path} leads out of {experiment}, and nothing is written there: test it by itself"
                )

        from attnlab.analysis.analyse import analyse
        from attnlab.analysis.report.publish import publish, report_folder
        from attnlab.analysis.settings import Options
        from attnlab.runs import dataset_of, load, newest_step, read_config
        from attnlab.store.run_folder import RunFolder
        from attnlab.training.test_part import keep_test, score_test

        pages = report_folder(read.folder, read.folder.path / "report_of_test")  # refused before it is touched

        def opened(folder: RunFolder) -> "tuple[RunFolder, RunConfig, GPT, Dataset]":
            model, tokenizer = load(folder, allow_targets=allow_targets, code=code, limits=limits)
            config = read_config(folder, allow_targets)
            return folder, config, model, dataset_of(folder, config, tokenizer, tested=True)

        missing = (opened(RunFolder(run.path)) for run in finished if TEST not in run.summary)
        first = list(islice(missing, 1))  # all that can be refused is, before the test part counts as touched
        now = datetime.now(UTC).isoformat(timespec="seconds")
        touches = read.folder.manifest.count_touch([run.name for run in finished], now)
        if len(touches) > 1:
            dates = harmless(", ".join(str(touch.get("at")) for touch in touches))
            print(
                f"warning: the test part is touched {len(touches)} times ({dates}): it is no longer unseen", flush=True
            )
        for folder, config, model, dataset in chain(first, missing):
            score = score_test(model, dataset, config.model.context, seed=config.streams.eval)
            keep_test(folder, score, step=newest_step(folder, limits=limits))
            name = harmless(folder.name)
            print(f"{name}: {TEST}/loss {score.loss:.4f}  {TEST}/accuracy {score.accuracy:.1%}", flush=True)
        by_accuracy = any(run.summary.get("solved_at") is not None for run in finished)
        chosen = metric or f"{TEST}/{'accuracy' if by_accuracy else 'loss'}"
        publish(analyse(experiment, Options(metric=chosen)), pages)
