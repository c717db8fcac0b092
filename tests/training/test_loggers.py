"""logger=: what a run records reaches every tracker once, whatever dies, and no tracker changes or ends a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.inspection.event_records import read_records
from tests.training.launch import folder_of, run_here, tiny
from tests.training.spies import FileLogger, Killed

import attnlab
from attnlab.config.compose import compose_config
from attnlab.config.keys import settings_of
from attnlab.errors import UsageError
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.names import EVENTS
from attnlab.store.run_folder import RunFolder

QUICK = (
    "trainer.max_steps=10",
    "trainer.val_every=4",
    "trainer.checkpoint_every=4",
    "trainer.precision=fp32",
    "model.n_layers=1",
    "sample.steps=0",
    "maps.steps=3",
    "evaluation.lengths=[2]",
)


def overrides(folder: Path, *more: str, fails_at: int = -1) -> list[str]:
    """A tiny run with a logger of the user's, by YAML alone."""
    yaml = folder / "yaml" / "logger"
    yaml.mkdir(parents=True, exist_ok=True)
    (yaml / "file.yaml").write_text(
        "file:\n  _target_: tests.training.spies.FileLogger\n"
        f"  path: {folder}/tracked\n  id: '{{id}}'\n  fails_at: {fails_at}\n"
    )
    return [*QUICK, "logger=[tensorboard,file]", "allow_targets=[tests]", *more]


def train(folder: Path, *more: str, fails_at: int = -1) -> dict[str, Any]:
    return run_here(folder, *overrides(folder, *more, fails_at=fails_at), config_dirs=[folder / "yaml"])


def tracked(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "tracked").read_text().splitlines()]


def numbers(folder: Path) -> list[tuple[int, str]]:
    return [(line["step"], tag) for line in tracked(folder) for tag in line.get("metrics", ())]


def test_no_result() -> None:
    """Loggers enter no identity, and neither does that there are none; the hash of a plain run is what it was."""
    plain = settings_of(compose_config([]).as_dict(), besides=())
    assert not [key for key in plain if key.startswith(("logger", "callbacks"))]
    for override in ("logger=[]", "logger=[tensorboard,wandb,mlflow,trackio]", "callbacks=device_stats"):
        assert settings_of(compose_config([override]).as_dict(), besides=()) == plain
    assert settings_of(compose_config(["callbacks=early_stopping"]).as_dict(), besides=()) != plain


@pytest.mark.parametrize("moment", ["write", pytest.param("feed", marks=pytest.mark.slow)])
def test_killed(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a checkpoint was written, or while a step was handed over: one id, and each number once."""
    usual = CheckpointFolder.write

    def dies(self: CheckpointFolder, name: str, step: int, *rest: Any) -> None:
        usual(self, name, step, *rest)
        if step == 8:
            raise Killed

    with monkeypatch.context() as patch:
        if moment == "write":
            patch.setattr(CheckpointFolder, "write", dies)
        else:
            patch.setattr(FileLogger, "dies_at", 6)
        with pytest.raises(Killed):
            train(tmp_path)
    assert max(step for step, _ in numbers(tmp_path)) == (4 if moment == "write" else 6)
    train(tmp_path)
    pairs = numbers(tmp_path)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {(row.step, row.metric) for row in RunFolder(folder_of(tmp_path)).read_metrics()}
    configs = [line for line in tracked(tmp_path) if "config" in line]
    assert len(configs) == 1 and configs[0]["config"]["model"]["d_model"] == 32
    assert len({line["id"] for line in tracked(tmp_path)}) == 1
    assert tracked(tmp_path)[-1]["status"] == "success"


def test_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tracker that fails says so once, and the run ends well."""
    summary = train(tmp_path, fails_at=2)
    printed = capsys.readouterr().out
    assert summary["status"] == "finished"
    assert printed.count("warning: logger file failed (ConnectionError: nobody listens)") == 1
    assert printed.count("logger file takes no texts or pictures or maps") == 1
    assert max(step for step, _ in numbers(tmp_path)) == 1


def test_handed_over(tmp_path: Path) -> None:
    """attnlab.train takes loggers as they are, beside those of the config."""
    attnlab.train([*tiny(tmp_path, *QUICK), "maps.steps=0"], loggers=[FileLogger(f"{tmp_path}/tracked", id="mine")])
    assert set(numbers(tmp_path)) == {(row.step, row.metric) for row in RunFolder(folder_of(tmp_path)).read_metrics()}
    assert {line["id"] for line in tracked(tmp_path)} == {"mine"}


@pytest.mark.slow
def test_anew(tmp_path: Path) -> None:
    """overwrite=true is another run for a tracker that goes by ids."""
    train(tmp_path)
    train(tmp_path, "overwrite=true")
    ids = [line["id"] for line in tracked(tmp_path) if "config" in line]
    assert len(set(ids)) == 2 and RunFolder(folder_of(tmp_path)).trackers.exists()


@pytest.mark.parametrize(("more", "events", "maps"), [("maps.steps=3", True, True), ("maps.steps=0", False, False)])
def test_event_files(more: str, events: bool, maps: bool, tmp_path: Path) -> None:
    """Event files with maps are written without any logger, too, unless there are no maps."""
    summary = run_here(tmp_path, *QUICK, "logger=[]", more)
    folder = folder_of(tmp_path)
    assert bool(list(folder.glob(f"{EVENTS}*"))) is events
    assert bool(list(read_records(folder))) is maps and (folder / "maps" / "last.safetensors").exists() is maps
    assert summary["status"] == "finished" and summary["weights"] == "raw"
    assert {row.metric for row in RunFolder(folder).read_metrics()} >= {"val/loss", "train/loss"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x:\n  _target_: lightning.pytorch.loggers.CSVLogger\n  save_dir: '{where}'\n",
            r"logger\.x\.save_dir.*\{id\}",
        ),
        ("x:\n  _target_: lightning.pytorch.loggers.CSVLogger\n  save_dir: a\n  nmae: b\n", r"logger\.x\.nmae.*'name'"),
        ("x:\n  _target_: lightning.pytorch.callbacks.Timer\n", r"logger\.x\._target_.*Logger or Tracker"),
        ("_target_: lightning.pytorch.loggers.CSVLogger\n", r"logger\._target_ .* begins with a name"),
        (
            "x:\n  _target_: attnlab.training.recorders.tensorboard.TensorBoardRecorder\n  suffix: b\n",
            r"x\.suffix is not",
        ),
        ("x:\n  _target_: os.system\n", r"logger\.x\._target_ \(os\.system\) is not allowed"),
    ],
)
def test_refused(text: str, message: str, tmp_path: Path) -> None:
    """What a YAML says wrongly is refused in one line, before there is a run."""
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        run_here(tmp_path, *QUICK, "logger=mine", config_dirs=[tmp_path])
    assert not (tmp_path / "runs" / "default").exists() or not list((tmp_path / "runs" / "default").glob("multi*"))


@pytest.mark.parametrize("override", ["+loger=x", "+position/more=x", "+notes={a: 1}"])
def test_unknown_group(override: str, tmp_path: Path) -> None:
    """A group that nothing reads is refused as a key is, also where a YAML file of the user's brings it along."""
    for group in ("loger", "position/more"):
        (tmp_path / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / group / "x.yaml").write_text("a: 1\n")
    with pytest.raises(UsageError, match=r"^(loger|position\.more|notes) is not a key of the config"):
        compose_config([override], [tmp_path])
