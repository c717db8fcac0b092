"""A sweep through Slurm: what is preempted saves its state, is queued again and goes on, and nothing is lost."""

import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.limits import HANG
from tests.sweep.cluster import asked, missing, slurm
from tests.sweep.crashing_runs import command, entries, prepare, same_results, started, typed, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()),
        reason=f"Slurm is not installed ({', '.join(missing())}): apt-get install slurmctld slurmd slurm-client munge",
    ),
]
ENGINE = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=20", "hydra.launcher.partition=yields"]
STEPS = 3000  # long enough to be preempted in the middle
# Rare validations, so that the steps are quick, and checkpoints that tell when a run is in the middle.
SETTINGS = ["trainer.val_every=1000", "trainer.log_every=100", "trainer.checkpoint_every=500"]
SWEEP = ["attention=multi_head,gla", "model.dropout=0.1", *SETTINGS]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to train in."""
    prepare(tmp_path)
    return tmp_path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Slurm that the commands of a test find."""
    with slurm() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


def jobs(cluster: dict[str, str], *states: str) -> list[str]:
    """The jobs of the sweep in these states."""
    return asked(cluster, "squeue", "-h", "-r", "-p", "yields", "-t", ",".join(states), "-o", "%i").split()


def test_preempted_job(folder: Path, cluster: dict[str, str]) -> None:
    """What is preempted is queued again and ends as if nothing had been."""
    sweep = started(folder, *ENGINE, *SWEEP, steps=STEPS)
    wait_for(lambda: len(list(folder.glob("runs/default/*/seed_0/checkpoints/*.ckpt"))) >= 2)
    subprocess.run(["sbatch", "-p", "first", "-n", "2", "-o", "/dev/null", "--wrap", "sleep 1"], check=True)
    wait_for(lambda: len(jobs(cluster, "PENDING")) == 2)
    saved = [int(path.stem.rpartition("_")[2]) for path in folder.glob("runs/default/*/seed_0/checkpoints/*.ckpt")]
    assert any(step % 500 for step in saved) and max(saved) < STEPS, "each saved its state when it was told to go"
    for job in jobs(cluster, "PENDING"):  # Slurm lets them wait for two minutes
        subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=True)
    said, complaints = sweep.communicate(timeout=HANG)
    assert sweep.returncode == 0, complaints
    assert "2 of 2 runs finished" in said
    assert [(entry["status"], entry["reason"]) for entry in entries(folder)] == [("finished", "")] * 2
    logs = [path.read_text() for path in folder.rglob("*_log.out")]
    assert sum("continuing after step" in log for log in logs) == 2
    undisturbed = typed(folder, "-m", *SWEEP, "experiment_name=undisturbed", steps=STEPS)
    assert undisturbed.returncode == 0, undisturbed.stderr
    runs = [path.relative_to(folder / "runs" / "default") for path in folder.glob("runs/default/*/seed_0")]
    assert len(runs) == 2
    for run in runs:
        assert same_results(folder / "runs" / "default" / run, folder / "runs" / "undisturbed" / run), run


def test_nothing_is_run_twice_through_slurm(folder: Path, cluster: dict[str, str]) -> None:
    words = ["-m", *ENGINE, "attention=multi_head", "seed=0,1"]
    done = typed(folder, *words)
    assert done.returncode == 0 and "2 of 2 runs finished" in done.stdout, done.stderr
    kept = {path: path.read_bytes() for path in folder.glob("runs/default/*/seed_*/summary.json")}
    again = typed(folder, *words)
    assert again.returncode == 0, again.stderr
    assert len(kept) == 2 and all(path.read_bytes() == content for path, content in kept.items())
    assert len(list(folder.rglob("*_submitted.pkl"))) == 2, "the second command handed Slurm nothing"


def test_tasks_of_one_job(folder: Path, cluster: dict[str, str]) -> None:
    """Two tasks of one job are two processes of one run, which ends as it does with the processes it starts itself."""
    words = ["attention=multi_head", "trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=fp32"]
    script = folder / "job.sh"
    line = shlex.join(command(folder, *words))
    script.write_text(f"#!/bin/bash\nexport OMP_NUM_THREADS=1\nsrun --ntasks=2 {line}\n")
    done = subprocess.run(
        ["sbatch", "--wait", "--ntasks=2", f"--chdir={folder}", f"--output={folder}/job.out", str(script)],
        check=False,
        timeout=HANG,
    )
    assert done.returncode == 0, (folder / "job.out").read_text()
    (run,) = folder.glob("runs/default/*/seed_0")
    assert json.loads((run / "summary.json").read_text())["devices"] == 2
    alone = typed(folder, *words, "experiment_name=alone")
    assert alone.returncode == 0, alone.stderr
    assert same_results(run, folder / "runs" / "alone" / run.relative_to(folder / "runs" / "default"))
