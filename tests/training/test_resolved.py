"""Settings that are `auto` come to one thing for all runs of an experiment, wherever they run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.training.launch import folder_of, run_here
from tests.training.test_hardware import machine

from attnlab.errors import UsageError
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training import hardware, prepare
from attnlab.training.hardware import accelerator_of
from attnlab.training.resolved import resolve, resolved_before

WORDS = ("trainer.max_steps=1", "model.n_layers=1")


def able(patch: pytest.MonkeyPatch, bf16: bool) -> None:
    """A processor that multiplies bfloat16 itself, or does not, and on which attention in it is faster."""
    patch.setattr(hardware, "has_native_bfloat16", lambda accelerator: bf16)
    patch.setattr(hardware, "measure_dtypes", lambda sizes: {"value": "bf16"})


def test_experiment_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run made on another processor is found finished, and another run of the experiment trains in its precision."""
    able(monkeypatch, bf16=True)
    first = run_here(tmp_path, *WORDS)
    stored = yaml.safe_load((folder_of(tmp_path) / "config.yaml").read_text())["trainer"]
    assert (stored["precision"], stored["attention_dtype"]) == ("bf16", "bf16")
    able(monkeypatch, bf16=False)
    assert run_here(tmp_path, *WORDS)["started"] == first["started"]
    assert run_here(tmp_path, *WORDS, "seed=1")["precision"] == "bf16"
    assert run_here(tmp_path, *WORDS, "experiment_name=other")["precision"] == "fp32"


def test_by_name(tmp_path: Path) -> None:
    """A setting that is made by name asks nobody and writes nothing."""
    folder = ExperimentFolder(tmp_path / "e")
    assert resolve("trainer.precision", "fp32", dict, folder) == "fp32"
    assert resolved_before("trainer.precision", "auto", folder) == "auto"
    assert not folder.path.exists()


@pytest.mark.parametrize("record", [[], {}, {"value": "auto"}, {"value": "fp65"}, {"value": 3}])
def test_damaged(record: Any, tmp_path: Path) -> None:
    """A record that says nothing is no answer."""
    folder = ExperimentFolder(tmp_path)
    folder.resolved.write_text(json.dumps({"trainer.precision": record}))
    with pytest.raises(UsageError, match=r"resolved.json must say what trainer.precision came to \(.*fp32.*\); delete"):
        resolve("trainer.precision", "auto", dict, folder)


def test_device_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment that began on a GPU is not continued on a machine without one, unless that is what was asked."""
    folder = ExperimentFolder(tmp_path)
    machine(monkeypatch, cuda=1)
    assert accelerator_of("auto", 1, folder) == "cuda" and not folder.resolved.exists()
    folder.resolve_once("trainer.accelerator", lambda: {"value": "gpu", "device": "NVIDIA H100"})
    machine(monkeypatch)
    with pytest.raises(
        UsageError, match=r"^trainer.accelerator \(auto\) came to gpu for all runs of .* no such device"
    ):
        accelerator_of("auto", 1, folder)
    assert accelerator_of("cpu", 1, folder) == "cpu"
    machine(monkeypatch, cuda=1)
    folder.resolved.unlink()
    folder.resolve_once("trainer.accelerator", lambda: {"value": "cpu"})
    assert accelerator_of("auto", 1, folder) == "cpu"


def test_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused for another reason leaves no experiment behind."""
    able(monkeypatch, bf16=True)
    with pytest.raises(UsageError, match=r"data\.path|context"):
        run_here(tmp_path, *WORDS, "model.context=2000000")
    assert prepare.resolve is resolve and not (tmp_path / "runs").exists()
