"""Runs and arms in memory, with results that a test chooses."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnlab.analysis.arms import Arm, arm_of_runs
from attnlab.analysis.metric_curves import Curve
from attnlab.analysis.reading import Run
from attnlab.store.status import Status


def make_run(seed: int, *values: float, variant: str = "v", group: str = "", **fields: Any) -> Run:
    """A run whose metric took these values, 10 steps apart from 0 on; a run without one has not finished."""
    curve = Curve(np.arange(len(values)) * 10, np.array(values, dtype=np.float64)) if values else None
    fields = {"status": Status.FINISHED if values else Status.FAILED, **fields}
    return Run(path=Path("runs"), group=group or variant, variant=variant, seed=seed, curve=curve, **fields)


def make_arm(
    finals: Sequence[float], settings: Mapping[str, Any] | None = None, variant: str = "v", **summary: Any
) -> Arm:
    """An arm of finished runs, seeds from 0 on."""
    runs = [make_run(seed, final, variant=variant, summary=summary) for seed, final in enumerate(finals)]
    return arm_of_runs(variant, f"{variant}-{id(runs):x}", settings or {}, runs)
