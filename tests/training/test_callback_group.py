"""callbacks=: which of them make another run, that a kill changes nothing, and what the summary says."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from tests.training.launch import folder_of, run_here, tiny
from tests.training.spies import Halve, Hoards, Killed, Stops, Watch

import attnlab
import attnlab.training.run
from attnlab.errors import UsageError
from attnlab.inspection.records import load_maps
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.run_folder import RunFolder
from attnlab.training.callback_group import describe_callback, weights_evaluated
from attnlab.training.checkpoint import network_weights

QUICK = (
    "trainer.max_steps=12",
    "trainer.val_every=3",
    "trainer.checkpoint_every=5",
    "trainer.precision=fp32",
    "model.n_layers=1",
    "sample.steps=0",
    "maps.steps=3",
)
STOPPING = (  # nothing is that much better, so the third validation is the last
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=2",
    "callbacks.early_stopping.min_delta=100",
)
AVERAGING = ("callbacks=weight_averaging", "callbacks.weight_averaging.decay=0.8")


def content(folder: Path) -> tuple[Any, ...]:
    """Everything that a run comes to, but for seconds."""
    run = folder_of(folder)
    rows = [row for row in RunFolder(run).read_metrics() if not row.metric.startswith("perf/")]
    checkpoint, _ = CheckpointFolder(run / "checkpoints").newest()
    assert checkpoint is not None
    weights = {name: tensor.tolist() for name, tensor in network_weights(checkpoint).items()}
    return rows, weights, load_maps(run / "maps" / "last.safetensors").step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("callbacks", "moment"),
    [
        pytest.param(STOPPING, "summary", id="stopping-summary"),
        pytest.param(AVERAGING, "checkpoint", id="averaging-checkpoint"),
        pytest.param(STOPPING, "checkpoint", id="stopping-checkpoint", marks=pytest.mark.slow),
        pytest.param(AVERAGING, "summary", id="averaging-summary", marks=pytest.mark.slow),
    ],
)
def test_killed(callbacks: tuple[str, ...], moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed comes to what one comes to that nobody disturbed, bit for bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run_here(whole, *QUICK, *callbacks)

    def dies(*_: Any, **__: Any) -> None:
        raise Killed

    usual = CheckpointFolder.write

    def writes_and_dies(self: CheckpointFolder, *args: Any) -> None:
        usual(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "summary":
            patch.setattr(attnlab.training.run, "summarise", dies)
        else:
            patch.setattr(CheckpointFolder, "write", writes_and_dies)
        with pytest.raises(Killed):
            run_here(cut, *QUICK, *callbacks)
    run_here(cut, *QUICK, *callbacks)
    assert content(cut) == content(whole)


def test_summary(tmp_path: Path) -> None:
    """The summary names the weights that were evaluated and the steps that were run."""
    stopped, averaged = tmp_path / "stopped", tmp_path / "averaged"
    stopped.mkdir()
    averaged.mkdir()
    summary = run_here(stopped, *QUICK, *STOPPING)
    assert (summary["weights"], summary["max_steps"], summary["step"]) == ("raw", 12, 9)
    assert content(stopped)[2] == summary["step"], "the last maps are those of the last step"
    summary = run_here(averaged, *QUICK, *AVERAGING)
    assert (summary["weights"], summary["max_steps"], summary["step"]) == ("averaged", 12, 12)
    model, _ = attnlab.load(folder_of(averaged))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_identity(tmp_path: Path) -> None:
    """A callback handed over makes another run by its class, its values and its code; one that watches makes none."""
    overrides = [*tiny(tmp_path, *QUICK), "trainer.max_steps=4"]
    watch = Watch()
    plain = attnlab.train(overrides, callbacks=[watch])
    assert watch.steps == [0, 1, 2, 3]
    assert attnlab.train(overrides)["hash"] == plain["hash"], "and is finished"
    halved = attnlab.train(overrides, callbacks=[Halve()])
    later = attnlab.train(overrides, callbacks=[Halve(first=2)])
    assert len({plain["hash"], halved["hash"], later["hash"]}) == 3
    assert len({plain["val_loss"], halved["val_loss"], later["val_loss"]}) == 3
    again = attnlab.train(overrides, callbacks=[Halve()])
    assert again["started"] == halved["started"]
    folders = list((tmp_path / "runs" / "default").glob("multi_head-*/seed_0"))
    modules = [set((RunFolder(folder).read_code() or {})["modules"]) for folder in folders]
    assert sum("tests.training.spies" in names for names in modules) == 2


@pytest.mark.parametrize(
    ("callbacks", "overrides", "message"),
    [
        ([EarlyStopping("val/loss")], ["match=params"], r"match \(params\).*callbacks\.EarlyStopping.*leave one"),
        ([ModelCheckpoint()], [], r"callbacks \(ModelCheckpoint\).*checkpoint"),
        ([EarlyStopping("val/loss"), EarlyStopping("val/loss")], [], r"callbacks \(EarlyStopping, EarlyStopping_2\)"),
        ([Hoards()], [], r"state of Hoards must be numbers"),
        ([Stops()], ["match=params"], r"match \(params\).*after step 5 of 12"),
    ],
)
def test_refused(callbacks: list[L.Callback], overrides: list[str], message: str, tmp_path: Path) -> None:
    """What cannot work is one line."""
    with pytest.raises(UsageError, match=message):
        attnlab.train([*tiny(tmp_path, *QUICK), *overrides], callbacks=callbacks)


@pytest.mark.slow
def test_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a user's own callback is in the checkpoint: what it does later depends on it."""
    results = []
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        overrides = tiny(folder, *QUICK)
        if name == "cut":
            with monkeypatch.context() as patch:
                patch.setattr(Halve, "on_train_batch_end", dies_at_8, raising=False)
                with pytest.raises(Killed):
                    attnlab.train(overrides, callbacks=[Halve()])
        attnlab.train(overrides, callbacks=[Halve()])
        results.append(content(folder))
    assert results[0] == results[1]


def dies_at_8(self: Any, trainer: L.Trainer, *rest: Any) -> None:
    if trainer.global_step == 8:
        raise Killed


def test_typed(tmp_path: Path) -> None:
    """A slip in the words of attnlab.train is a UsageError with the right word."""
    with pytest.raises(UsageError, match=r"attention=gqua does not exist; did you mean 'gqa'"):
        attnlab.train(["attention=gqua"])
    assert torch.is_grad_enabled()


def test_description() -> None:
    """Two callbacks that do the same are described alike, whatever order a set has; another number is another one."""
    described = describe_callback(Halve(3))
    assert described == {"class": "tests.training.spies.Halve", "first": 3, "halved": 0}
    one, other, third = Halve(), Halve(), Halve()
    for callback, names, tensor in ((one, ["a", "b"], 1.0), (other, ["b", "a"], 1.0), (third, ["a", "b"], 2.0)):
        vars(callback).update(names=set(names), tensor=torch.tensor([tensor]), nested={"f": (len, torch.device("cpu"))})
    assert describe_callback(one) == describe_callback(other) != describe_callback(third)
    assert describe_callback(one)["names"] == ["a", "b"]
    assert describe_callback(one)["nested"] == {"f": ["builtins.len", "cpu"]}


def test_weights_evaluated() -> None:
    """Averaged where any callback averages them."""
    assert weights_evaluated([]) == weights_evaluated([EarlyStopping("val/loss")]) == "raw"
    assert weights_evaluated([EarlyStopping("val/loss"), EMAWeightAveraging()]) == "averaged"
