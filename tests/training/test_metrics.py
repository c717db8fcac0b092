"""Numbers come back from metrics.csv exactly, and neither it nor TensorBoard shows what a resumed run will do again."""

import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tests.training.fits import language_model, tiny_data, trainer_like_a_run

from attnlab.errors import UsageError
from attnlab.store.damage import Damaged
from attnlab.store.digests import digest
from attnlab.store.metrics_csv import COLUMNS, Row, read_metrics
from attnlab.store.names import METRICS
from attnlab.store.run_folder import RunFolder
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import Recorders
from attnlab.training.recorders.tensorboard import TensorBoardRecorder, shown_as


def table(folder: Path, *, last: int = 0) -> MetricsRecorder:
    """A new table with one row per step up to the last."""
    recorder = MetricsRecorder(folder)
    recorder.resume_at(None)
    for step in range(last + 1):
        recorder.scalars({"train/loss": float(step)}, step)
    recorder.save()
    return recorder


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


# metrics.csv

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@settings(deadline=None, derandomize=True, max_examples=60)
@example([math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2])
@given(st.lists(st.floats(), min_size=1))
def test_numbers_are_exact(values: list[float]) -> None:
    """A number comes back as exactly the number it was."""
    with tempfile.TemporaryDirectory() as folder:
        writer = table(Path(folder))
        for step, value in enumerate(values, start=1):
            writer.scalars({"val/loss": value}, step)
        writer.close()
        _, *rows = read_metrics(Path(folder))
    # repr tells nan from nan and -0.0 from 0.0, and is exact for all others.
    assert [repr(row.value) for row in rows] == [repr(value) for value in values]
    assert [row.step for row in rows] == list(range(1, len(values) + 1))


@settings(deadline=None, derandomize=True, max_examples=60)
@example('a,b "c"')
@given(names)
def test_any_name_comes_back(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        writer = table(Path(folder))
        writer.scalars({name: 1.0}, 3)
        writer.save()
        assert read_metrics(Path(folder))[-1] == Row(3, name, 1.0)


def test_file_format(tmp_path: Path) -> None:
    """The file is a header and a line per number."""
    writer = table(tmp_path)
    writer.scalars({"val/loss": 0.25, "val/bits_per_byte": 2}, 7)
    assert "7," not in writer.path.read_text(), "rows wait until they are saved"
    writer.save()
    writer.save()
    assert writer.path.name == METRICS
    assert writer.path.read_text().splitlines() == [
        ",".join(COLUMNS),
        "0,train/loss,0.0",
        "7,val/loss,0.25",
        "7,val/bits_per_byte,2.0",
    ]


def test_a_row_without_a_step_is_our_own_mistake(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="belongs to a step"):
        Recorders([table(tmp_path)]).log_metrics({"a": 1.0})


@pytest.mark.parametrize("cut", range(1, len("2,train/loss,2.0\n") + 1))
def test_a_last_line_that_was_cut_off_is_left_out(cut: int, tmp_path: Path) -> None:
    writer = table(tmp_path, last=2)
    writer.path.write_bytes(writer.path.read_bytes()[:-cut])
    assert read_metrics(tmp_path) == [Row(0, "train/loss", 0.0), Row(1, "train/loss", 1.0)]


def test_no_rows(tmp_path: Path) -> None:
    """Where nothing was logged there are no rows."""
    with pytest.raises(Damaged, match=r"no metrics\.csv"):
        read_metrics(tmp_path)
    MetricsRecorder(tmp_path).resume_at(None)
    assert read_metrics(tmp_path) == []


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that cannot be read is refused by name."""
    (tmp_path / METRICS).write_bytes(b"step,metric,value\n1,\xff,1.0\n")
    with pytest.raises(UsageError, match=r"metrics\.csv cannot be read.*utf-8"):
        read_metrics(tmp_path)
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).mkdir()
    with pytest.raises(UsageError, match=r"metrics\.csv cannot be read \(Is a directory\)"):
        read_metrics(tmp_path)


def test_resumed_rows(tmp_path: Path) -> None:
    """A resumed run keeps the rows up to its step and goes on."""
    table(tmp_path, last=5)
    again = MetricsRecorder(tmp_path)
    again.resume_at(3)
    assert [row.step for row in read_metrics(tmp_path)] == [0, 1, 2, 3]
    again.scalars({"train/loss": 40.0}, 4)
    again.save()
    assert read_metrics(tmp_path)[-2:] == [Row(3, "train/loss", 3.0), Row(4, "train/loss", 40.0)]


def test_rows_of_that_step(tmp_path: Path) -> None:
    """What stands at that very step is not written twice."""
    table(tmp_path, last=3)
    table_again = MetricsRecorder(tmp_path)
    again = Recorders([table_again], 3, table_again.resume_at(3))
    again.scalars({"train/loss": 99.0, "val/loss": 1.0}, 3)
    again.scalars({"train/loss": 4.0}, 4)
    again.scalars({"train/loss": 98.0}, 2)
    again.save()
    rows = [row for row in read_metrics(tmp_path) if row.step >= 3]
    assert rows == [Row(3, "train/loss", 3.0), Row(3, "val/loss", 1.0), Row(4, "train/loss", 4.0)]


def test_a_run_that_starts_anew_forgets_what_was(tmp_path: Path) -> None:
    writer = table(tmp_path, last=3)
    writer.resume_at(3)
    writer.resume_at(None)
    assert read_metrics(tmp_path) == []
    writer.scalars({"train/loss": 7.0}, 3)
    writer.save()
    assert read_metrics(tmp_path) == [Row(3, "train/loss", 7.0)]


def test_rows_of_another_run(tmp_path: Path) -> None:
    """A run that continues another one's starts with its rows and leaves it alone."""
    source, own = tmp_path / "source", tmp_path / "own"
    source.mkdir()
    before = table(source, last=5).path.read_bytes()
    writer = MetricsRecorder(own)
    writer.resume_at(4, RunFolder(source))
    writer.scalars({"train/loss": 50.0}, 5)
    writer.save()
    assert [(row.step, row.value) for row in read_metrics(own)] == [*((i, float(i)) for i in range(5)), (5, 50.0)]
    assert (source / METRICS).read_bytes() == before


# TensorBoard


def test_one_event_file(tmp_path: Path) -> None:
    """The board is one event file and nothing else."""
    board = TensorBoardRecorder(tmp_path, resume_at=None)
    for step in range(3):
        board.scalars({"val/loss": float(step)}, step)
        board.save()
    board.close()
    (file,) = tmp_path.rglob("*")
    assert file.parent == tmp_path and file.name.startswith("events.out.tfevents.")
    assert scalars(tmp_path, "val/loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert scalars(tmp_path, "best/val_loss") == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_every_number_is_an_event(tmp_path: Path) -> None:
    """Validating and training leave one event file with every number."""
    rows, board = MetricsRecorder(tmp_path), TensorBoardRecorder(tmp_path, resume_at=None)
    rows.resume_at(None)
    trainer = trainer_like_a_run(steps=4, val_every=2, recorders=[rows, board], folder=tmp_path)
    module, data = language_model(), tiny_data()
    trainer.validate(module, data, verbose=False)
    trainer.fit(module, datamodule=data)
    trainer.validate(module, data, verbose=False)
    board.close()
    assert sorted(path.name.split(".")[0] for path in tmp_path.rglob("*")) == ["events", "metrics"]
    for tag in ("train/loss", "val/loss", "val/bits_per_byte", "optim/lr", "optim/grad_norm"):
        written = [(row.step, row.value) for row in read_metrics(tmp_path) if row.metric == tag]
        assert written
        # TensorBoard is a view: it keeps single precision.
        assert scalars(tmp_path, shown_as(tag)) == [(step, pytest.approx(value, rel=1e-7)) for step, value in written]


def test_later_events_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged after the step of a resumed run is hidden."""
    clock = SimpleNamespace(time=lambda: 1_700_000_000.0)  # event files are ordered by the second in their names
    monkeypatch.setattr(event_file_writer, "time", clock)
    first = TensorBoardRecorder(tmp_path, resume_at=None)
    for step in range(10):
        first.scalars({"train/loss": float(step)}, step)
    first.close()
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == list(range(10))

    clock.time = lambda: 1_700_000_001.0
    second = TensorBoardRecorder(tmp_path, resume_at=5)
    for step in range(6, 8):
        second.scalars({"train/loss": 100.0 + step}, step)
    second.close()
    kept, again = [(step, float(step)) for step in range(6)], [(6, 106.0), (7, 107.0)]
    assert scalars(tmp_path, "train/loss") == [*kept, *again]
    assert len(list(tmp_path.iterdir())) == 2


def test_resumed_at_step_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run resumed at step 0 hides all but step 0."""
    clock = SimpleNamespace(time=lambda: 1_700_000_000.0)
    monkeypatch.setattr(event_file_writer, "time", clock)
    first = TensorBoardRecorder(tmp_path, resume_at=None)
    for step in range(3):
        first.scalars({"train/loss": float(step)}, step)
    first.close()
    clock.time = lambda: 1_700_000_001.0
    second = TensorBoardRecorder(tmp_path, resume_at=0)
    second.scalars({"train/loss": 100.0}, 2)
    second.close()
    assert scalars(tmp_path, "train/loss") == [(0, 0.0), (2, 100.0)]


def test_resumed_hooks(tmp_path: Path) -> None:
    """A hook that runs again at the step of a checkpoint records nothing twice, in metrics.csv and TensorBoard."""
    for again in (False, True):
        rows, board = MetricsRecorder(tmp_path), TensorBoardRecorder(tmp_path, resume_at=4 if again else None)
        digests = {METRICS: digest((tmp_path / METRICS).read_bytes())} if again else None
        recorders = Recorders([rows, board], 4, rows.resume_at(4 if again else None, digests=digests))
        recorders.log_metrics({"memory": 4.0}, 4)
        recorders.log_metrics({"memory": 4.5, "val/loss": 2.0}, 4)
        recorders.save()
        recorders.close()
    assert read_metrics(tmp_path) == [Row(4, "memory", 4.0), Row(4, "val/loss", 2.0)]
    assert scalars(tmp_path, "vitals/memory") == [(4, 4.0)] and scalars(tmp_path, "val/loss") == [(4, 2.0)]
