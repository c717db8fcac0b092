"""`attnlab tune`."""

from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Range
from attnlab.errors import UsageError


def tune(
    *overrides: Annotated[
        str, "what to tune: attention=a,b and any setting of train.py; without any, what is there is only read"
    ],
    experiment: Annotated[Path, "the folder of the tuning runs"] = Path("runs/tuning"),
    over: Annotated[
        str,
        "the keys that are tuned, with lists or ranges: optimizer.lr=1e-4..1e-2,optimizer.weight_decay=0,0.1; left "
        "out: optimizer.lr=3e-4,1e-3,3e-3,1e-2",
    ] = "",
    trials: Annotated[int, Range(least=0), "settings of each variant; 0: all of a grid, 16 where there is a range"] = 0,
    budgets: Annotated[
        tuple[str, ...],
        "steps of each round, such as 100,200,400; left out: half of trainer.max_steps, and all of them",
    ] = (),
    keep: Annotated[int, Range(least=2, most=16), "one in so many settings goes on to the next round"] = 2,
    seeds: Annotated[str, "the seeds that choose; final runs need others"] = "100-102",
    extend: Annotated[int, Range(least=0, most=4), "how many rates to add at an edge where the best one lies"] = 2,
    n_jobs: Annotated[int | None, Range(least=1), "runs at a time; left out: one for each core"] = None,
    metric: Annotated[str, "the metric that is compared"] = "val/loss",
) -> None:
    """Choose settings for each variant, on seeds that take no part in the verdict."""
    from attnlab.config.keys import config_dirs, searching
    from attnlab.config.messages import refuse_slips

    with searching(config_dirs(overrides)):
        refuse_slips(overrides)  # before what takes longer to import

    from attnlab.sweep.tuning import Budget
    from attnlab.sweep.tuning import tune as tune_settings

    if not all(text.isdecimal() for text in budgets):
        raise UsageError(f"budgets ({','.join(budgets)}) must be steps that rise, such as 200,400")
    budget = Budget(trials, tuple(map(int, budgets)), keep, extend)
    tune_settings(experiment, metric, over, seeds, budget, n_jobs, overrides)
