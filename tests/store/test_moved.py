"""Run folders recorded by an earlier attnlab live on: they load, generate, report, continue, and keep their names.

`tests/fixtures/runs_2026` holds six, with what was said of them then. A user's own rule among them lies beside the
archive as text: it is theirs to bring up to date where a base class has changed.
"""

import contextlib
import io
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import get_class
from tests.fixtures.runs_2026 import record
from tests.fixtures.runs_2026.record import ARCHIVE, CUT, EXPECTED, HERE, MORE_STEPS, RUNS, run_of, words_of

from attnlab.analysis.reading import read_experiment
from attnlab.cli import main
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.options import is_abstract
from attnlab.runs import load, read_config
from attnlab.store import moved
from attnlab.store.digests import is_sealed, seal
from attnlab.store.names import SUMMARY
from attnlab.store.run_folder import RunFolder
from attnlab.training.prepare import prepare
from attnlab.training.run import run

# Losses of a few steps, by other kernels: sums in another order differ in the last digits of float32.
RTOL = 1e-5
SAID: dict[str, Any] = json.loads(EXPECTED.read_text())


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    shutil.copytree(HERE / "configs", folder / "configs")
    shutil.copy(HERE / "distance_rule.py", folder)
    return folder


@pytest.fixture
def home(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the recorded folder, as the folder one is in."""
    shutil.copytree(archive, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.syspath_prepend(str(tmp_path / "home"))
    yield tmp_path / "home"
    sys.modules.pop("distance_rule", None)


def config_of(name: str, *more: str) -> RunConfig:
    return compose_config(words_of(name, *more), ["configs"])


def variant_of(home: Path, name: str) -> str:
    return run_of(home, name).parent.name.rpartition("-")[0]


def said_by(*words: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(list(words))
    return out.getvalue()


@pytest.mark.parametrize("name", RUNS)
def test_generate(name: str, home: Path) -> None:
    """The same seed writes the same text with the same weights."""
    words = [f"run=runs/{name}", f"prompt={RUNS[name][1]}", "tokens=24", "code=any"]
    assert said_by("generate", *words, "allow_targets=distance_rule") == SAID[name]["text"]


@pytest.mark.parametrize("name", RUNS)
def test_hash(name: str, home: Path) -> None:
    """What was asked is called what it was called."""
    prepared = prepare(config_of(name), variant_of(home, name))
    assert prepared.identity.hash8 == SAID[name]["hash"]


def continued(home: Path, name: str) -> dict[str, Any]:
    """The summary of a recorded run, carried on by the code of today."""
    more = ["code=any"]
    if name != CUT:
        more += [f"resume_from={run_of(home, name)}", f"trainer.max_steps={MORE_STEPS}", "experiment_name=continued"]
    return run(config_of(name, *more), variant=variant_of(home, name))


def test_continue(home: Path) -> None:
    """A run that was cut off ends where it would have ended, and in the folder where it began."""
    folder = run_of(home, CUT)
    assert RunFolder(folder).read_summary() == {}
    summary = continued(home, CUT)
    assert RunFolder(folder).read_summary()["status"] == "finished"
    np.testing.assert_allclose(summary["val_loss"], SAID[CUT]["val_loss_continued"], rtol=RTOL)
    steps = [row.step for row in RunFolder(folder).read_metrics() if row.metric == "train/loss"]
    assert steps == sorted(set(steps))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != CUT])
def test_continue_finished(name: str, home: Path) -> None:
    """More steps from a finished run lead where they would have led."""
    np.testing.assert_allclose(continued(home, name)["val_loss"], SAID[name]["val_loss_continued"], rtol=RTOL)


def test_report(home: Path) -> None:
    """The verdicts on the recorded sweep, number by number."""
    said_by("report", "experiment=runs/sweep", "out=again")
    for name in ("verdicts", "runs"):
        rows = record.table((home / "again" / f"{name}.csv").read_text())
        assert [list(row) for row in rows] == [list(row) for row in SAID["sweep"][name]]
        for row, then in zip(rows, SAID["sweep"][name], strict=True):
            for key, value in then.items():
                if isinstance(value, float):
                    np.testing.assert_allclose(row[key], value, rtol=1e-9, atol=1e-12, err_msg=key)
                else:
                    assert row[key] == value, key


# Names of today that stand in the recorded folders, as if they had just been given.
OLD, NEW = "attnlab.attention.recurrent.RecurrentAttention", "attnlab.attention.linear_family.StateAttention"


def test_moved_class(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that moved and was renamed: old folders give the new one, and the hash keeps the first name."""
    monkeypatch.setitem(moved.MODULES, "attnlab.attention.recurrent", "attnlab.attention.linear_family")
    monkeypatch.setitem(moved.CLASSES, "attnlab.attention.linear_family.RecurrentAttention", NEW)
    config = read_config(RunFolder(run_of(home, "recurrent")))
    assert config.attention["_target_"] == NEW
    assert moved.first_name(NEW) == "RecurrentAttention"
    assert moved.current(NEW) == NEW
    assert moved.current("attnlab.position.RoPE") == "attnlab.attention.rotary.RoPE"
    assert moved.current("attnlab.position.Position") == "attnlab.attention.position.NoPE"


@pytest.mark.parametrize("old", moved.CLASSES)
def test_renamed_class(old: str) -> None:
    """There and back: the class exists, is found by its old name, and enters a hash under it."""
    from attnlab.config.keys import stable

    new = moved.CLASSES[old]
    assert moved.current(old) == moved.current(new) == new and not is_abstract(get_class(new))
    assert stable("attention.slot._target_", new) == stable("attention.slot._target_", old) == old.rpartition(".")[2]
    stored = {"attention": {"slots": [{"_target_": old, "_partial_": True}]}}
    assert moved.with_current_targets(stored)["attention"]["slots"][0]["_target_"] == new


@pytest.mark.parametrize("slot", ["gate", "decay", "write", "feature_map", "output_norm"])
def test_old_name_of_slot(slot: str, tmp_path: Path) -> None:
    """A user's YAML that names the base of a slot, which once was the option that changes nothing, is told its name."""
    ((old, new),) = [(o, n) for o, n in moved.CLASSES.items() if o.startswith(f"attnlab.attention.{slot}.")]
    (tmp_path / "attention" / slot).mkdir(parents=True)
    (tmp_path / "attention" / slot / "mine.yaml").write_text(f"_target_: {old}\n_partial_: true\n")
    with pytest.raises(UsageError, match=rf"attention\.{slot}\._target_ \({old}\) has moved: write {new}"):
        compose_config(["attention=gated_delta", f"attention/{slot}=mine"], [tmp_path])


def test_moved_class_hash(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with the new name of a class are the settings with the old one."""
    from attnlab.config.keys import stable

    monkeypatch.setitem(moved.CLASSES, OLD, NEW)
    assert stable("attention._target_", NEW) == stable("attention._target_", OLD) == "RecurrentAttention"


def test_moved_class_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's YAML with an old name is answered with the new one."""
    monkeypatch.setitem(moved.MODULES, "attnlab.attention.memory", "attnlab.attention.recurrent")
    (tmp_path / "attention").mkdir()
    old = "attnlab.attention.memory.RecurrentAttention"
    (tmp_path / "attention" / "mine.yaml").write_text(f"defaults: [linear, _self_]\n_target_: {old}\n")
    with pytest.raises(UsageError, match=rf"attention._target_ \({old}\) has moved: write {OLD}") as refused:
        compose_config(["attention=mine"], [tmp_path])
    assert refused.value.exit_code == 2


def test_moved_target_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old name that is typed, not read from a file."""
    monkeypatch.setitem(moved.MODULES, "attnlab.data.old", "attnlab.data.corpus")
    with pytest.raises(UsageError, match=r"data\._target_ \(attnlab\.data\.old\.Stories\) has moved: write attnlab"):
        compose_config(["data._target_=attnlab.data.old.Stories"])


def test_renamed_numbers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of summaries and names of metrics are read by their names of today, in runs and in reports."""
    monkeypatch.setitem(moved.SUMMARY_KEYS, "best_step", "step_of_best")
    monkeypatch.setitem(moved.METRICS, "val/bits_per_byte", "val/text_bits_per_byte")
    folder = run_of(home, "recurrent")
    assert "step_of_best" in RunFolder(folder).read_summary()
    assert "best_step" in json.loads((folder / SUMMARY).read_text())
    assert {"val/text_bits_per_byte"} <= {row.metric for row in RunFolder(folder).read_metrics()}
    experiment = read_experiment(home / "runs" / "sweep", "val/text_bits_per_byte")
    assert all(each.status == "finished" and each.curve is not None for each in experiment.runs)
    assert all("step_of_best" in each.summary for each in experiment.runs)


@pytest.mark.parametrize(("old", "new"), moved.SUMMARY_KEYS.items())
def test_renamed_key(old: str, new: str, home: Path) -> None:
    """A summary of an earlier version is read by the keys of today."""
    folder = run_of(home, "recurrent")
    stored, summary = json.loads((folder / SUMMARY).read_text()), RunFolder(folder).read_summary()
    assert summary[new] == stored[old] and new not in stored and old not in summary


def test_load_refuses_other_code(home: Path) -> None:
    """Without code=any an old run is refused where its code has changed since, and names what changed."""
    path = run_of(home, "recurrent") / "code.json"
    content = json.loads(path.read_text())
    content["modules"]["attnlab.model"] = "0" * 16
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"trained by other code \(changed: .*attnlab"):
        load(path.parent)


def test_renamed_key_keeps_seal(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of a summary is that of its first keys, so that a renamed one is not damage."""
    folder = run_of(home, "recurrent")
    RunFolder(folder).write_summary(RunFolder(folder).read_summary(), {})
    monkeypatch.setitem(moved.SUMMARY_KEYS, "best_step", "step_of_best")
    summary = RunFolder(folder).read_summary()
    assert "step_of_best" in summary and is_sealed(summary)
    assert seal(summary) == summary["sha256"]
