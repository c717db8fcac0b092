"""Sweeps as they are typed: what becomes of one job is a row, and the same command runs what is missing."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.limits import HANG
from tests.sweep.crashing_runs import crashing, entries, prepare, same_results, started, typed, wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder to train in; what still works there at the end of a test is ended."""
    prepare(tmp_path)
    yield tmp_path
    for process in of_folder(tmp_path):
        os.kill(process, signal.SIGKILL)


def reasons(folder: Path) -> dict[str, tuple[str, str]]:
    """Label -> (status, reason)."""
    return {entry["label"]: (entry["status"], entry["reason"]) for entry in entries(folder)}


def attempts(folder: Path) -> int:
    """How often any run has been started."""
    return sum(log.read_text().count("\n---") + 1 for log in (folder / "runs" / "default" / "logs").iterdir())


def test_job_that_dies(folder: Path) -> None:
    """A job that dies is a row and the same command runs it again."""
    words = [*crashing("none", "kill", "raise"), "hydra.launcher.n_jobs=1"]
    done = typed(folder, *words)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: 2 of 3 jobs failed (") and done.stderr.count("\n") == 1
    assert reasons(folder) == {
        "attention.tag=none": ("finished", ""),
        "attention.tag=kill": (
            "failed",
            "its process was killed by SIGKILL; the system does so when memory runs out",
        ),
        "attention.tag=raise": ("failed", "RuntimeError: out of luck"),
    }
    assert all(what in done.stdout for what in ("attention.tag=kill seed 0: its process", "RuntimeError: out of luck"))
    (raised,) = [entry for entry in entries(folder) if entry["label"] == "attention.tag=raise"]
    assert "Traceback" in (folder / "runs" / "default" / raised["log"]).read_text()
    assert attempts(folder) == 3
    again = typed(folder, *words)
    assert again.returncode == 0, again.stderr
    assert {status for status, _ in reasons(folder).values()} == {"finished"} and attempts(folder) == 5


@pytest.mark.slow
def test_added_lengths(folder: Path) -> None:
    """Lengths that are added to a sweep are judged without training anew."""
    words = ["-m", "attention=multi_head", "seed=0,1", "hydra.launcher.n_jobs=1"]
    assert typed(folder, *words).returncode == 0
    checkpoints = {path: path.stat().st_mtime_ns for path in folder.glob("runs/default/*/seed_*/checkpoints/*")}
    done = typed(folder, *words, "evaluation.lengths=[2]")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(path.read_text()) for path in folder.glob("runs/default/*/seed_*/summary.json")]
    assert [sorted(summary["extrapolation"]) for summary in summaries] == [["1", "2"]] * 2
    assert checkpoints == {path: path.stat().st_mtime_ns for path in checkpoints} and checkpoints
    again = typed(folder, *words, "evaluation.lengths=[2]")
    assert again.returncode == 0 and attempts(folder) == 4, "two were trained, two judged, and none a third time"


@pytest.mark.slow
def test_sixteen_jobs_of_which_four_die(folder: Path) -> None:
    tags = [str(i) for i in range(12)]
    for place, end in ((3, "raise"), (6, "exit"), (9, "kill"), (12, "notanumber")):
        tags.insert(place, end)
    done = typed(folder, *crashing(*tags))
    assert done.returncode == 1 and "4 of 16 jobs failed" in done.stderr
    found = {label.removeprefix("attention.tag="): row for label, row in reasons(folder).items()}
    assert sum(status == "finished" for status, _ in found.values()) == 12
    assert found["raise"] == ("failed", "RuntimeError: out of luck")
    assert found["exit"] == ("failed", "the job called sys.exit(3)")
    assert found["kill"][0] == "failed" and "SIGKILL" in found["kill"][1]
    assert found["notanumber"][0] == "diverged" and "nan" in found["notanumber"][1]
    for end in ("raise", "exit", "kill", "notanumber"):
        assert f"attention.tag={end} seed 0: {found[end][1]}" in done.stdout
    kept = {path: path.read_bytes() for path in folder.glob("runs/default/*/seed_0/summary.json")}
    again = typed(folder, *crashing(*tags))
    assert again.returncode == 0 and attempts(folder) == 16 + 4
    finished = [path for path in kept if json.loads(kept[path])["status"] == "finished"]
    assert len(finished) == 12 and all(path.read_bytes() == kept[path] for path in finished)
    assert {status for status, _ in reasons(folder).values()} == {"finished"}


@pytest.mark.slow
def test_warm_worker_is_bit_identical(folder: Path) -> None:
    """A job in a warm worker is bit identical to one in a fresh process."""
    words = ["attention=multi_head,gla", "seed=0,1", "model.dropout=0.2", "hydra.launcher.n_jobs=1"]
    assert typed(folder, "-m", *words, steps=20).returncode == 0
    warm = {path.relative_to(folder / "runs" / "default") for path in folder.glob("runs/default/*/seed_*")}
    assert len(warm) == 4
    for variant in ("multi_head", "gla"):
        for seed in (0, 1):
            single = [f"attention={variant}", f"seed={seed}", "model.dropout=0.2", "trainer.threads=1"]
            fresh = typed(folder, *single, "experiment_name=fresh", steps=20)
            assert fresh.returncode == 0, fresh.stderr
    for name in warm:
        assert same_results(folder / "runs" / "default" / name, folder / "runs" / "fresh" / name), name


def at_work(folder: Path) -> int:
    """How many runs have made steps and said so."""
    return sum(log.read_text().count("\nstep ") >= 3 for log in folder.glob("runs/default/logs/*.log"))


def of_folder(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and Path(os.readlink(process / "cwd")) == folder:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_ctrl_c_loses_nothing(folder: Path) -> None:
    words = ["attention=multi_head", "seed=0,1,2", "trainer.checkpoint_every=100000"]
    steps = 3000
    process = started(folder, *words, steps=steps)
    rows = folder / "runs" / "default"
    wait_for(lambda: at_work(folder) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=HANG)
    assert process.returncode == 130, said
    assert said == "error: stopped: 0 of 3 runs finished, 3 left; the same command goes on\n"
    assert of_folder(folder) == []
    stopped = [entry for entry in entries(folder) if entry["reason"].startswith("stopped after step")]
    assert len(stopped) == 2 and {entry["status"] for entry in entries(folder)} == {"planned"}
    again = typed(folder, "-m", *words, steps=steps)
    assert again.returncode == 0, again.stderr
    for entry in stopped:
        assert "continuing after step" in (rows / entry["log"]).read_text()


@pytest.mark.slow
def test_killed_driver(folder: Path) -> None:
    """A driver killed at random loses and doubles nothing."""
    chance, words, steps = random.Random(7), ["attention=multi_head,linear", "seed=0,1,2"], 400
    for _ in range(10):
        process = started(folder, *words, steps=steps)
        time.sleep(chance.uniform(1, 15))
        process.kill()
        process.communicate()
        wait_for(lambda: of_folder(folder) == [])
    assert typed(folder, "-m", *words, steps=steps).returncode == 0
    runs = entries(folder)
    assert len(runs) == 6 and {entry["status"] for entry in runs} == {"finished"}
    for entry in runs:
        run = folder / "runs" / "default" / entry["folder"]
        lines = (run / "metrics.csv").read_text().splitlines()
        steps_logged = [line.split(",")[0] for line in lines if "train/loss" in line]
        assert len(steps_logged) == len(set(steps_logged)) == steps
        fresh = [word for word in entry["overrides"] if not word.startswith(("data", "trainer.max_steps"))]
        assert json.loads((run / "summary.json").read_text())["status"] == "finished", fresh
    one = next(entry for entry in runs if entry["seed"] == 1 and entry["variant"] == "linear")
    single = ["attention=linear", "seed=1", "trainer.threads=1", "experiment_name=alone"]
    assert typed(folder, *single, steps=steps).returncode == 0
    assert same_results(folder / "runs" / "default" / one["folder"], folder / "runs" / "alone" / one["folder"])


@pytest.mark.slow
def test_two_commands(folder: Path) -> None:
    """Two commands on one folder do no work twice."""
    words, steps = ["attention=multi_head,linear", "seed=0,1,2"], 300
    both = [started(folder, *words, steps=steps) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=HANG)
        assert process.returncode == 0, said
    assert {entry["status"] for entry in entries(folder)} == {"finished"} and len(entries(folder)) == 6
    for log in (folder / "runs" / "default" / "logs").iterdir():
        assert log.read_text().count("step   0/300") == 1, "trained once, whoever did it"


@pytest.mark.slow
def test_workers_end_with_their_command(folder: Path) -> None:
    words = ["attention=multi_head", "seed=0,1,2,3", "trainer.checkpoint_every=100000"]
    process = started(folder, *words, steps=100_000)
    wait_for(lambda: at_work(folder) >= 2)
    assert len(of_folder(folder)) >= 2
    process.kill()
    process.communicate()
    wait_for(lambda: of_folder(folder) == [])
    assert list(folder.glob("runs/default/*/seed_*/checkpoints/*.ckpt")), "they saved their state first"
