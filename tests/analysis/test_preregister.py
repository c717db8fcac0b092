"""Deviations from what was preregistered, on runs in memory."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.in_memory import make_run

from attnlab.analysis import preregister
from attnlab.analysis.field_types import OF_MANIFEST, misfit
from attnlab.analysis.reading import Run
from attnlab.errors import UsageError
from attnlab.store import preregistration
from attnlab.store.preregistration import Preregistration
from attnlab.store.status import Status

RUNS = [f"{name}/seed_{seed}" for name in ("base-1", "linear-2") for seed in (0, 1)]
NAMED = Preregistration("linear is worse", "base", "val/loss", None, 0.05, [0, 1], ["linear"], RUNS)
UNNAMED = NAMED._replace(runs=None)


def run(folder: str, seed: int, **fields: Any) -> Run:
    return make_run(seed, 1.0, variant=folder.rpartition("-")[0], group=folder, **fields)


def planned() -> list[Run]:
    return [run(name.partition("/")[0], int(name[-1])) for name in RUNS]


def deviations(
    folder: Path, registered: Preregistration, runs: list[Run], used: Preregistration | None = None, labels: str = ""
) -> list[str]:
    preregistration.write(folder, registered)
    check = preregister.check(folder, used or registered, runs, labels.split() or ["base", "linear"])
    assert check is not None
    return check.deviations


@pytest.mark.parametrize("registered", [NAMED, UNNAMED])
def test_as_promised(tmp_path: Path, registered: Preregistration) -> None:
    """What was planned and done deviates in nothing; a run that never began did nothing either."""
    idle = [run("other-3", 0, status=status) for status in (Status.PLANNED, Status.REFUSED)]
    assert deviations(tmp_path, registered, planned() + (idle if registered is NAMED else [])) == []
    assert preregister.check(tmp_path / "nothing", registered, [], []) is None


@pytest.mark.parametrize(
    ("change", "deviation"),
    [
        ({"margin": 0.1}, "margin was preregistered as None, and is 0.1"),
        ({"alpha": 0.1}, "alpha was preregistered as 0.05, and is 0.1"),
        ({"family": ["linear", "gqa"]}, "the family was linear, and is linear, gqa"),
    ],
)
def test_other_terms(tmp_path: Path, change: dict[str, Any], deviation: str) -> None:
    """A report that goes by something else says what was preregistered."""
    assert deviations(tmp_path, NAMED, planned(), NAMED._replace(**change)) == [deviation]


def test_other_runs(tmp_path: Path) -> None:
    """Further seeds, another config of a variant, another variant, and a run without a result are four things."""
    runs = planned()[:-1]
    runs += [run("base-1", 5), run("linear-9", 0), run("gqa-3", 0), run("linear-2", 1, status=Status.FAILED)]
    assert deviations(tmp_path, NAMED, runs) == [
        "seeds that were not preregistered: base-1 (seed 5)",
        "run with another config than linear-2, which was preregistered: linear-9 (seed 0)",
        "not preregistered, but run: gqa-3 (seed 0)",
        "preregistered, and without a result: linear-2 (seed 1; failed)",
    ]


def test_runs_unnamed(tmp_path: Path) -> None:
    """Where seeds and variants alone were preregistered, these are what is held against the runs."""
    runs = [*planned()[:2], run("linear-2", 0), run("linear-8", 7)]
    points = deviations(tmp_path, UNNAMED._replace(seeds=[0, 1, 2]), runs, labels="base linear gqa")
    assert points == [
        "not preregistered, but run: gqa",
        "preregistered seeds without a finished run: 2",
        "seeds that were not preregistered: 7",
        "linear ran with 2 configs (linear-2, linear-8), and the preregistration names none of them",
    ]


def test_started_before(tmp_path: Path) -> None:
    """By the clock, whatever the zone; a time that cannot be read counts as before."""
    now = datetime.now(UTC)
    later = (now + timedelta(hours=1)).isoformat()
    ahead = (now - timedelta(hours=1)).astimezone(UTC).replace(tzinfo=None).isoformat()  # UTC is meant
    for started, early in ((later, 0), (ahead, 1), ("some day", 1)):
        runs = [run("base-1", 0, summary={"started": started}), *planned()[1:]]
        points = deviations(tmp_path, NAMED, runs)
        assert [point.partition(" had ")[0] for point in points] == ["1 runs"] * early


ODD: dict[str, list[Any]] = {
    "margin": ["", 0, -1.0, 1e308, float("inf"), float("nan"), 10**400],
    "alpha": ["", None, 0, 0.5, 1e-300, 10**400],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in ODD.items() for value in values])
def test_terms_that_are_none(tmp_path: Path, key: str, value: Any) -> None:
    """A margin or an alpha by which nothing can be judged is refused in a preregistration, and told of a manifest."""
    preregistration.write(tmp_path, NAMED)
    path = tmp_path / "preregistration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UsageError, match="is not a preregistration"):
        preregistration.read(tmp_path)
    if value is not None:
        assert misfit({"first": {key: value}}, OF_MANIFEST).startswith(f"first.{key} is ")
