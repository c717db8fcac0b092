"""What was declared first, and what counts as chosen after there were results."""

from pathlib import Path
from typing import Any

from tests.analysis.in_memory import make_run

from attnlab.analysis.declared import Term, exploratory, first_declared, is_declared
from attnlab.analysis.reading import Experiment, Run
from attnlab.store.experiment_folder import ExperimentFolder

NONE = {"metric": None, "baseline": None, "margin": None, "alpha": None}


def experiment(*runs: Run, **declared: Any) -> Experiment:
    return Experiment(ExperimentFolder(Path("runs/e")), "val/loss", list(runs), declared, [])


def run(seed: int, started: str | None, margin: float) -> Run:
    summary = {} if started is None else {"started": started}
    return make_run(seed, 1.0, config={"report": {"margin": margin}}, summary=summary)


def test_sweep_first() -> None:
    """What a sweep declared before its first result stands before what any config says."""
    declared, where = first_declared(experiment(run(0, "2026-01-01", 1.0), first={"margin": 0.5, "other": 1}))
    assert (declared, where) == ({**NONE, "margin": 0.5}, "the sweep, before its first result")


def test_earliest_run() -> None:
    """The earliest run by the clock, whatever its zone; one that tells no time is the last."""
    runs = [
        run(0, None, 1.0),
        run(1, "2026-01-02T00:30:00+02:00", 2.0),  # 22:30 of the day before
        run(2, "2026-01-01T23:00:00", 3.0),
        run(3, "yesterday", 4.0),
    ]
    assert first_declared(experiment(*runs)) == ({**NONE, "margin": 2.0}, "the config of the first run")
    assert first_declared(experiment(make_run(0, 1.0, config={"report": None}))) == ({}, "nowhere")


def test_of_the_test_part() -> None:
    """The experiment's own metric, of the test part, was as good as declared; another of it was not."""
    unsaid, declared = experiment(run(0, None, 1.0)), experiment(run(0, None, 1.0), first={"metric": "val/accuracy"})
    assert is_declared(unsaid, None, "test/loss") and not is_declared(unsaid, None, "val/loss")
    assert is_declared(declared, None, "test/accuracy") and is_declared(declared, None, "val/accuracy")
    assert not is_declared(declared, None, "test/loss")


def test_exploratory() -> None:
    """What somebody chose to change is exploratory; what could not be otherwise is not."""
    kept = Term("alpha", "0.05", "the sweep", "0.05")
    typed = Term("margin", "none", "the sweep", "0.1", "typed after the fact")
    forced = Term("metric", "val/loss", "the sweep", "val/bits_per_byte", "other tokens", forced=True)
    assert exploratory([kept, forced]) == ""
    assert exploratory([kept, typed, forced]) == "exploratory: margin 0.1 typed after the fact"
