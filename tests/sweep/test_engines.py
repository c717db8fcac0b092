"""Engines that are not ours: the same checks before, the same folders, manifest and report after."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tests.sweep.crashing_runs import crashing, entries, prepare, typed

RAY = [f"+hydra.launcher.ray.init.{word}" for word in ("include_dashboard=false", "_node_ip_address=127.0.0.1")]
NEEDS_RAY = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'attnlab[ray]'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to train in."""
    prepare(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        pytest.param(["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"], marks=pytest.mark.slow),
        pytest.param(["hydra/launcher=ray", *RAY], marks=[pytest.mark.slow, NEEDS_RAY]),
    ],
    ids=lambda words: words[0],
)
def test_joblib_runs_what_is_missing(folder: Path, engine: list[str]) -> None:
    """Another launcher runs what is missing and nothing twice."""
    words = ["attention=multi_head,linear", "seed=0,1"]
    done = typed(folder, "-m", *engine, *words)
    assert done.returncode == 0, done.stderr
    assert "linear" in done.stdout.partition("4 of 4 runs finished")[2], "the report names it"
    assert [entry["status"] for entry in entries(folder)] == ["finished"] * 4
    summaries = sorted(folder.glob("runs/default/*/seed_*/summary.json"))
    kept = [(path, path.read_bytes()) for path in summaries]
    again = typed(folder, "-m", *engine, *words)
    assert again.returncode == 0 and len(kept) == 4
    assert all(path.read_bytes() == content for path, content in kept)
    assert all(json.loads(content)["threads"] == 1 for _, content in kept), "as many runs at once as there are cores"


@pytest.mark.slow
def test_a_run_that_raises_elsewhere_is_a_row(folder: Path) -> None:
    done = typed(folder, *crashing("none", "raise"), "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")
    assert done.returncode == 1, done.stderr
    found = {entry["label"]: (entry["status"], entry["reason"]) for entry in entries(folder)}
    assert found["attention.tag=none"] == ("finished", "")
    assert found["attention.tag=raise"][0] == "failed" and "out of luck" in found["attention.tag=raise"][1]


@pytest.mark.slow
def test_optuna_in_warm_workers(folder: Path) -> None:
    """Optuna looks for a learning rate in warm workers."""
    search = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3"]
    done = typed(folder, "-m", *search, "optimizer.lr=tag(log, interval(1e-4, 1e-2))")
    assert done.returncode == 0, done.stderr
    losses = [json.loads(path.read_text())["val_loss"] for path in folder.glob("runs/default/*/seed_0/summary.json")]
    (results,) = folder.rglob("optimization_results.yaml")
    best = yaml.safe_load(results.read_text())
    assert len(losses) == 3 and best["best_value"] == pytest.approx(min(losses))
