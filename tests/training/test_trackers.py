"""The real trackers, offline: a run that is killed and goes on holds one id and each number once in each of them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.limits import HANG
from tests.training.launch import ROOT, folder_of, run_there, tiny

from attnlab.store.names import METRICS
from attnlab.store.run_folder import RunFolder

TRACKERS = ("wandb", "mlflow", "trackio")
Held = dict[str, dict[tuple[int, str], int]]  # by run: how often each (step, tag) stands there; key "" counts configs
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*noload.*loader strategy is deprecated:DeprecationWarning"
    ),  # MLflow asks for it
]


def needs(name: str) -> None:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed (pip install 'attnlab[{name}]')")


def held(name: str, folder: Path) -> Held:
    """What a tracker holds of the runs below a folder, read as its own tools read it."""
    return {"wandb": in_wandb, "mlflow": in_mlflow, "trackio": in_trackio}[name](folder)


def count(runs: Held, run: str, step: int, tags: Any) -> None:
    for tag in tags:
        times = runs.setdefault(run, {})
        times[step, tag] = times.get((step, tag), 0) + 1


def in_wandb(folder: Path) -> Held:
    from wandb.proto.wandb_internal_pb2 import Record

    from attnlab.training.recorders.wandb import records_in

    runs: Held = {}
    for file in sorted(folder.glob("runs/*/*/*/wandb/offline-run-*/run-*.wandb")):
        run = file.stem.removeprefix("run-")
        for data in records_in(file.read_bytes()):
            record = Record.FromString(data)
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if row:
                count(runs, run, int(json.loads(row["trainer/global_step"])), row)
            if record.run.config.update:
                count(runs, run, -1, [entry.key for entry in record.run.config.update])
            count(runs, run, -1, [entry.key or "/".join(entry.nested_key) for entry in record.config.update])
    return runs


def in_mlflow(folder: Path) -> Held:
    from mlflow.tracking import MlflowClient

    client, runs = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db"), Held()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            assert run.info.status == "FINISHED" and run.data.tags["hash"]
            for tag in run.data.metrics:
                for entry in client.get_metric_history(run.info.run_id, tag):
                    count(runs, run.info.run_id, entry.step, [tag])
            count(runs, run.info.run_id, -1, run.data.params)
    return runs


def in_trackio(folder: Path) -> Held:
    code = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
project = "attnlab"
names = SQLiteStorage.get_runs(project)
rows = {name: SQLiteStorage.get_logs(project, name) for name in names}
configs = {name: list(SQLiteStorage.get_run_config(project, name) or {}) for name in names}
print(json.dumps([rows, configs], default=str))
"""
    there = {**os.environ, "TRACKIO_DIR": f"{folder}/trackio"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=there)
    rows, configs = json.loads(done.stdout.splitlines()[-1])
    runs: Held = {}
    for run, lines in rows.items():
        for line in lines:
            count(runs, run, line["step"], [key for key in line if key not in ("step", "timestamp")])
        count(runs, run, -1, configs[run])
    return runs


@pytest.mark.parametrize("moment", [("saved", 10), ("batch_end", 13)], ids=["saved", "training"])
@pytest.mark.parametrize("name", TRACKERS)
def test_killed(name: str, moment: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, every number of metrics.csv once, the settings, and what texts and pictures the tracker takes."""
    needs(name)
    monkeypatch.setenv("TRACKIO_DIR", f"{tmp_path}/trackio")
    assert run_there(tmp_path, f"logger={name}", kill=moment).returncode == -9
    done = run_there(tmp_path, f"logger={name}")
    assert done.returncode == 0 and "failed" not in done.stdout, done.stdout + done.stderr
    ((_, times),) = held(name, tmp_path).items()
    rows = {(row.step, row.metric) for row in RunFolder(folder_of(tmp_path)).read_metrics()}
    assert (folder_of(tmp_path) / METRICS).exists() and len(rows) > 200
    assert {pair for pair in rows if times.get(pair) != 1} == set()
    assert any("d_model" in tag or tag == "model" for step, tag in times if step == -1)
    if name != "mlflow":  # whose pictures and texts are files
        others = {pair for pair, n in times.items() if n > 1 and pair[0] >= 0}
        last = {
            "/".join(tag.split("/")[:2]) for step, tag in times if step == 24
        }  # W&B has a key for each of its parts
        assert others == set() and {"sample", "weights/layer_00"} <= {tag.removesuffix("/_type") for tag in last}
    else:
        assert len(list((tmp_path / "runs" / "mlflow").rglob("step_00000024.md"))) == 1


def test_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight jobs in warm workers beside each other are eight runs with whole configs in every tracker."""
    names = [name for name in TRACKERS if find_spec(name) is not None]
    if not names:
        needs(TRACKERS[0])
    monkeypatch.setenv("TRACKIO_DIR", f"{tmp_path}/trackio")
    overrides = [override for override in tiny(tmp_path) if not override.startswith("maps.steps=")]
    overrides += [f"logger=[{','.join(names)}]", "seed=0,1,2,3", "attention=multi_head,gqa", "maps.steps=0"]
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "-m",
        *overrides,
        "report.at_end=false",
        "hydra.launcher.n_jobs=4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * HANG, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.read_text() for path in (tmp_path / "runs" / "default" / "logs").glob("*.log")]
    assert len(logs) == 8 and not [log for log in logs if "failed" in log]
    for name in names:
        runs = held(name, tmp_path)
        assert len(runs) == 8, name
        configs = {tuple(sorted(tag for step, tag in times if step == -1)) for times in runs.values()}
        assert len(configs) <= 2, "the settings of multi_head, and those of gqa"
        for times in runs.values():
            assert all(times.get((step, "train/loss")) == 1 for step in range(1, 25)), name
