"""`attnlab report`."""

from pathlib import Path
from typing import Annotated, Literal

from attnlab.cli._arguments import Limits, Range
from attnlab.machine.limits import limited
from attnlab.store.terms import LEAST_ALPHA, MOST_ALPHA, MOST_MARGIN


def report(
    *,
    experiment: Annotated[Path, "the folder of the experiment, such as runs/default"],
    baseline: Annotated[str | None, "the variant that the others are compared with; left out: multi_head"] = None,
    metric: Annotated[str | None, "the metric that is compared; left out: val/loss, or val/accuracy of a task"] = None,
    margin: Annotated[
        float | None, Range(above=0, most=MOST_MARGIN), "a difference too small to matter; required to say equivalent"
    ] = None,
    alpha: Annotated[
        float | None, Range(least=LEAST_ALPHA, below=MOST_ALPHA), "how often the family may err; left out: 0.05"
    ] = None,
    family: Annotated[tuple[str, ...], "the variants that are asked about, such as gqa,linear; left out: all"] = (),
    solved: Annotated[
        float | None, "the accuracy from which a task counts as solved; left out: what it declares, 0.99"
    ] = None,
    code: Annotated[Literal["same", "any"], "any: average over runs that differ in nothing but seed and code"] = "same",
    tensorboard: Annotated[Path | None, "a log folder that gets mean and band of each variant, too"] = None,
    pdf: Annotated[bool, "write the pictures as PDF, too; needs pip install 'attnlab[pdf]'"] = False,
    out: Annotated[Path | None, "where the report goes; left out: the folder report of the experiment"] = None,
    limits: Limits = True,
) -> None:
    """Compare the variants of an experiment with a baseline and say what the seeds can tell."""
    from attnlab.store.experiment_folder import ExperimentFolder

    ExperimentFolder(experiment).check_exists()  # before what takes longer to import

    from attnlab.analysis.analyse import analyse
    from attnlab.analysis.report.publish import publish
    from attnlab.analysis.settings import Options

    with limited(limits):
        content = analyse(experiment, Options(baseline, metric, margin, alpha, family, solved, code))
        publish(content, out, tensorboard=tensorboard, pdf=pdf)
