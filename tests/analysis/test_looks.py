"""How often an experiment was looked at, and that who follows the report's advice to the end keeps the level."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.folders import write_arm, write_run
from tests.analysis.in_memory import make_run
from tests.analysis.test_level import ALPHA, DECISIVE, RULES, TOLERANCE, design

from attnlab.analysis.analyse import Report, analyse
from attnlab.analysis.arms import Arm
from attnlab.analysis.compare_arms import compare
from attnlab.analysis.comparison import Comparison
from attnlab.analysis.looks import take_look
from attnlab.analysis.reading import Experiment, Run
from attnlab.analysis.report.content import document
from attnlab.analysis.report.publish import write
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.status import Status

RNG = np.random.default_rng(5)


def add_seeds(folder: Path, first: int, last: int, **settings: int) -> None:
    """Runs of a variant that is worse than the baseline, and of the baseline."""
    for name, loss in (("multi_head", 2.0), ("linear", 3.0)):
        for seed in range(first, last):
            write_run(folder, name, seed, loss + 0.1 * float(RNG.normal()), settings=dict(settings))


def words(report: Report, folder: Path) -> tuple[str, str]:
    """The verdict in the table and in the CSV."""
    pages = document(report)
    write(report, pages, folder / "report")
    (row,) = csv.DictReader((folder / "report" / "verdicts.csv").read_text().splitlines())
    assert row["verdict"] in str(pages)
    return report.comparisons[0].word, row["verdict"]


def test_count(tmp_path: Path) -> None:
    """A look is told by the runs that were planned: lost ones count, refused ones do not, and order means nothing."""

    def number(runs: list[Run]) -> tuple[int, int]:
        look = take_look(Experiment(ExperimentFolder(tmp_path), "val/loss", runs, {}, []), "val/loss", is_declared=True)
        return look.number, len(look.earlier)

    runs = [make_run(seed, 1.0) for seed in range(3)]
    assert number(runs) == (1, 0)
    assert number([*runs[::-1], make_run(9, status=Status.REFUSED)]) == (1, 0)
    assert number([*runs, make_run(3)]) == (2, 1)
    assert number([*runs, make_run(3, 1.0)]) == (2, 1)  # completed
    assert number(runs) == (1, 0)
    assert number([*runs, make_run(3), make_run(4)]) == (3, 2)


def test_declared_by_the_first(tmp_path: Path) -> None:
    """The runs that began first say how many looks are judged; of several the fewest, and nonsense is none."""

    def declared(*first: object) -> int:
        early = [
            make_run(i, 1.0, config={"report": {"looks": n}}, summary={"started": "1"}) for i, n in enumerate(first)
        ]
        late = make_run(99, 1.0, config={"report": {"looks": 9}}, summary={"started": "2"})
        experiment = Experiment(ExperimentFolder(tmp_path), "val/loss", [late, *early], {}, [])
        return take_look(experiment, "val/loss", is_declared=True).declared

    assert [declared(2), declared(3, 2), declared("x"), declared(0, 4), declared(None)] == [2, 2, 1, 4, 1]


def test_first_look_is_final(tmp_path: Path) -> None:
    """Asking again is no look; seeds that are added after the first one are looked at, not judged."""
    add_seeds(tmp_path, 0, 6)
    for _ in range(2):
        report = analyse(tmp_path)
        assert (report.looks.number, words(report, tmp_path)) == (1, ("worse", "worse"))
        assert "This look is the one that is judged" in str(document(report))
    add_seeds(tmp_path, 6, 8)
    report = analyse(tmp_path)
    assert (report.looks.number, words(report, tmp_path)) == (2, ("worse, exploratory", "worse, exploratory"))
    assert "look 2" in str(document(report)) and "12 runs, 6 seeds" in str(document(report))
    assert len(json.loads((tmp_path / "manifest.json").read_text())["looks_taken"]) == 2


def test_declared_looks(tmp_path: Path) -> None:
    """Two looks that were declared before the first run are judged, each at half of alpha; the third is not, nor does
    a later declaration help."""
    for i, (first, last, looks) in enumerate(((0, 6, 2), (6, 8, 2), (8, 10, 9))):
        for name, loss in (("multi_head", 2.0), ("linear", 3.0)):
            for seed in range(first, last):
                folder = write_run(tmp_path, name, seed, loss + 0.1 * float(RNG.normal()))
                config = folder / "config.yaml"
                config.write_text(f"{config.read_text()}report: {{looks: {looks}}}\n")
                summary = json.loads((folder / "summary.json").read_text()) | {"started": f"2026-01-0{i + 1}T00:00:00"}
                (folder / "summary.json").write_text(json.dumps(summary))
        report = analyse(tmp_path)
        assert (report.looks.number, report.looks.declared, report.rules.level) == (i + 1, 2, ALPHA / 2)
        assert words(report, tmp_path)[1] == ("worse" if i < 2 else "worse, exploratory")


def test_completed_runs_are_no_look(tmp_path: Path) -> None:
    """A run that failed and was run again had counted at its worst: the same runs were planned."""
    add_seeds(tmp_path, 0, 6)
    folder = next(tmp_path.glob("linear-*/seed_3"))
    summary = (folder / "summary.json").read_text()
    (folder / "summary.json").unlink()
    assert (analyse(tmp_path).comparisons[0].word, analyse(tmp_path).looks.number) == ("cannot tell", 1)
    (folder / "summary.json").write_text(summary)
    assert (analyse(tmp_path).comparisons[0].word, analyse(tmp_path).looks.number) == ("worse", 1)


def test_one_seed_is_no_look(tmp_path: Path) -> None:
    """Where there is nothing to see, nothing was seen."""
    add_seeds(tmp_path, 0, 1)
    assert analyse(tmp_path).looks.number == 1
    assert not (tmp_path / "manifest.json").exists()


def test_looks_keep_the_plan(tmp_path: Path) -> None:
    """Counting adds to a sweep's manifest, and a sweep that goes on keeps the count; a damaged one is left alone."""
    add_seeds(tmp_path, 0, 6)
    runs = [{"folder": f"{path.parent.name}/{path.name}", "status": "finished"} for path in tmp_path.glob("*/seed_*")]
    ExperimentFolder(tmp_path).manifest.plan(runs, {"command": "train.py -m"})
    analyse(tmp_path)
    ExperimentFolder(tmp_path).manifest.plan([], {"looks": 1})
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert (len(content["runs"]), content["command"], len(content["looks_taken"])) == (12, "train.py -m", 1)
    (tmp_path / "manifest.json").write_text("{")
    assert "this look could not be counted" in str(document(analyse(tmp_path)))
    assert (tmp_path / "manifest.json").read_text() == "{"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_read_only(tmp_path: Path) -> None:
    add_seeds(tmp_path, 0, 6)
    tmp_path.chmod(0o555)
    try:
        report = analyse(tmp_path)
    finally:
        tmp_path.chmod(0o755)
    assert report.comparisons[0].word == "worse"
    assert "this look could not be counted" in str(document(report))


def test_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written the verdict is given all the same, and the report says that it was not counted."""

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    add_seeds(tmp_path, 0, 6)
    monkeypatch.setattr("attnlab.store.locks.fcntl.flock", refuse)
    report = analyse(tmp_path)
    assert report.comparisons[0].word == "worse"
    assert "this look could not be counted: cannot write" in str(document(report))


def follow(rng: np.random.Generator, looks: int, m: int, first: int, *, old: bool = False) -> bool:
    """Whether a user comes to a false verdict who looks once and, where "N seeds would" stands beside a verdict, adds
    what is said for the spread as seen, takes the next look, and believes what is not called exploratory.

    `old`: who believes whatever is said, as the advice once was: at alpha, as often as seeds are added.
    """
    results, limit = rng.normal(size=(m + 1, 60)), 60
    rules = RULES._replace(looks=1 if old else looks)
    n = first
    for look in range(1, 3):
        family = compare(design(results[:, :n]).pairs(), rules._replace(look=1 if old else look))
        p = [c.p or 0 for c in family]
        wrong = m * min(p) <= ALPHA if old else any(c.verdict in DECISIVE and not c.exploratory for c in family)
        if wrong:
            return True
        wanted = [advised(c, old) for c in family]
        n = min((w for w in wanted if w is not None and w > n), default=limit + 1)
        if n > limit:
            return False
    return False


def advised(c: Comparison[Arm], old: bool) -> int | None:
    """The number of seeds that the verdict cell asks for."""
    if c.seeds_needed is None or not (old or " would, if the difference is as seen" in c.sentence):
        return None
    return c.seeds_needed.as_seen


@pytest.mark.slow
@pytest.mark.parametrize(("m", "first"), [(1, 4), (1, 6), (5, 6)])
def test_follower(m: int, first: int) -> None:
    """Who follows the advice keeps the level, with one look and with two; who followed the old one did not."""
    count = 1500 // m
    rates = {
        name: np.mean([follow(np.random.default_rng([i, m]), looks, m, first, old=old) for i in range(count)])
        for name, looks, old in (("one", 1, False), ("two", 2, False), ("old", 1, True))
    }
    assert max(rates["one"], rates["two"]) <= ALPHA + TOLERANCE < rates["old"], rates


def test_advice(tmp_path: Path) -> None:
    """With a look to come the advice is "would"; after the last one it is no advice."""
    results = np.random.default_rng(0).normal(size=(2, 6))
    results[1] += 0.3
    for look, looks, expected in ((1, 1, "would have, if"), (1, 2, "would, if"), (2, 2, "would have, if")):
        (c,) = compare(design(results).pairs(), RULES._replace(look=look, looks=looks))
        assert expected in c.sentence
    few = compare(design(results[:, :5]).pairs(), RULES._replace(looks=2))[0]
    assert few.seeds_needed is not None and few.seeds_needed.high is not None
    assert few.sentence.startswith(f"cannot tell ({few.seeds_needed.low} to ")  # below six seeds the range comes first
    three = compare(design(results[:, :3]).pairs(), RULES)[0]
    assert three.sentence == "cannot tell (no verdict is possible with 3 seeds; 4 are the fewest)"
    write_arm(tmp_path, "multi_head", [2.0, 2.1, 1.9])
    write_arm(tmp_path, "linear", [3.0, 3.1, 2.9])
    assert "63 % (n = 3) of runs are bad" in str(document(analyse(tmp_path)))
