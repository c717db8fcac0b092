"""`attnlab tune`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Range


def tune(
    *overrides: Annotated[
        str, "what to tune: attention=a,b and any setting of train.py; without any, what is there is only read"
    ],
    experiment: Annotated[Path, "the folder of the tuning runs"] = Path("runs/tuning"),
    rates: Annotated[str, "run these, at least four; left out: 3e-4,1e-3,3e-3,1e-2"] = "",
    seeds: Annotated[str, "the seeds that choose; final runs need others"] = "100-102",
    extend: Annotated[int, Range(least=0, most=4), "how many rates to add at an edge where the best one lies"] = 2,
    metric: Annotated[str, "the metric that is compared"] = "val/loss",
) -> None:
    """Choose a learning rate for each variant, on seeds that take no part in the verdict."""
    from attnlab.config.keys import config_dirs, searching
    from attnlab.config.messages import refuse_slips

    with searching(config_dirs(overrides)):
        refuse_slips(overrides)  # before what takes longer to import

    from attnlab.sweep.tuning import tune as tune_rates

    tune_rates(experiment, metric, rates, seeds, extend, overrides)
