"""Runs the battery: one small run for each variant and cell; what is finished is not run again."""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.config.compose import OF_ATTENTION, compose_config, with_plus
from attnlab.config.keys import options
from attnlab.errors import AttnlabError, FileFailure, Stopped, UsageError, nearest

GROUP = "card"
FACTORS = (1, 2, 4, 8)  # of the trained length
CONTROLS = {
    "identity": ("attention=identity",),
    "uniform": ("attention=uniform",),
    "identity+conv4": ("attention=identity", "attention.conv=4"),
}
"""Trained beside the variants: layers that move nothing, choose nothing, or see four tokens. Words of each."""


class Result(NamedTuple):
    """One cell of one variant: what its run came to, or why there is nothing."""

    variant: str
    cell: str
    summary: dict[str, Any]
    trouble: str = ""

    @property
    def is_task(self) -> bool:
        """Whether there is a floor and a ceiling to hold it against."""
        return bool(self.summary.get("bounds"))

    @property
    def floor(self) -> dict[str, Any]:
        """The best guess without the mechanism, and what it is called."""
        return dict(self.summary["bounds"]["floor"])

    @property
    def ceiling(self) -> dict[str, float]:
        """What an exact solver reaches."""
        return dict(self.summary["bounds"]["ceiling"])

    @property
    def by_loss(self) -> bool:
        """Whether the loss says more than the accuracy: where even an exact solver is often wrong."""
        return not self.is_task or self.ceiling["accuracy"] < 1

    def value(self, factor: int) -> float | None:
        """Accuracy, or the loss where that says more, at so many times the trained length: beyond it, from 2 on."""
        scores = self.summary.get("extrapolation", {}).get(str(factor), {})
        name = "loss" if self.by_loss else "accuracy"
        value = scores.get(name if factor == 1 else f"{name}_beyond")
        return None if value is None else float(value)

    def error(self, factor: int) -> float:
        """Half of the 95 % interval of an accuracy; 0 for a loss, and for a run from before there was one."""
        scores = self.summary.get("extrapolation", {}).get(str(factor), {})
        name = "accuracy_error" if factor == 1 else "accuracy_beyond_error"
        return 0.0 if self.by_loss else float(scores.get(name) or 0.0)

    def gained(self, factor: int) -> float | None:
        """How far the value stands from the floor (0) to the ceiling (1)."""
        value = self.value(factor)
        if value is None or not self.is_task:
            return None
        name = "loss" if self.by_loss else "accuracy"
        floor, ceiling = self.floor[name], self.ceiling[name]
        return min(1.0, max(0.0, (value - floor) / (ceiling - floor)))

    def reason(self, factor: int) -> str:
        """Why there is no value."""
        scores = self.summary.get("extrapolation", {}).get(str(factor), {})
        return self.trouble or str(scores.get("cannot") or "not run")


def best_control(results: Sequence[Result], cell: str, factor: int) -> Result | None:
    """The control that did best on a cell; None where none of them was measured."""
    measured = [r for r in results if r.cell == cell and r.variant in CONTROLS and r.value(factor) is not None]
    sign = -1 if any(r.by_loss for r in measured) else 1
    return max(measured, key=lambda r: sign * (r.value(factor) or 0.0), default=None)


def above(result: Result, results: Sequence[Result], factor: int) -> bool | None:
    """Whether a value is above the best control's: by more than both errors together, or as a loss at all.

    None where one of them was not measured, and for the controls themselves.
    """
    control, value = best_control(results, result.cell, factor), result.value(factor)
    if control is None or value is None or result.variant in CONTROLS:
        return None
    theirs = control.value(factor) or 0.0
    if result.by_loss:
        return value < theirs
    return value - theirs > math.hypot(result.error(factor), control.error(factor))


def cells() -> list[str]:
    """The cells of the battery: the YAML files of the folder card, the text first."""
    return sorted(options(GROUP), key=lambda name: (name != "text", name))


def chosen_cells(names: Sequence[str]) -> list[str]:
    """The cells with these names, all if there are none; refuses others."""
    every = cells()
    for name in names:
        if name not in every:
            raise UsageError(f"cells ({name}) must be among: {', '.join(every)}{nearest(name, every)}")
    return list(dict.fromkeys(names)) or every


def words_of(variant: str, cell: str) -> list[str]:
    """What is typed for one cell of a variant, or of a control, besides where its run goes."""
    return [f"+{GROUP}={cell}", *CONTROLS.get(variant, (f"attention={variant}",))]


def results(
    variants: Sequence[str],
    chosen: Sequence[str],
    *,
    folder: Path,
    overrides: Sequence[str] = (),
    config_dirs: Sequence[Path | str] = (),
) -> Iterator[Result]:
    """Train each variant, or control, on each cell, cell by cell, and yield what comes of it.

    All are composed before the first is trained, so that a wrong word stops everything at once; what only one of them
    cannot do, or a run that diverges, is told in its place and stops nothing.
    """
    jobs = []
    for cell in chosen:
        for variant in variants:
            settings = [*words_of(variant, cell), f"paths.runs={folder / 'runs'}"]
            # What is set inside the variants means nothing to a control.
            extra = [w for w in with_plus(overrides) if variant not in CONTROLS or not OF_ATTENTION.match(w)]
            config = compose_config([*settings, f"experiment_name={cell}", *extra], config_dirs)
            jobs.append((variant, cell, config))
    put_in = (word.partition("=")[2] for word in overrides if word.startswith("attention/"))
    name = "+".join(["{}", *(value for value in put_in if value)])
    from attnlab.training.run import run  # Lightning: seconds, which a wrong word does not wait for

    for variant, cell, config in jobs:
        called = variant if variant in CONTROLS else name.format(variant)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                summary = run(config, variant=called)
        except (Stopped, FileFailure):  # a disk that is full will be so for the next cell, too
            raise
        except AttnlabError as error:
            yield Result(called, cell, {}, trouble=str(error))
        else:
            yield Result(called, cell, summary)
