"""A run that is cut off and continued is the run that was not, bit for bit; what cannot be continued is refused."""

import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.launch import STEPS, command, environment, folder_of, run_here, run_there

from attnlab.errors import NoUsableCheckpoint, UsageError
from attnlab.inspection.records import load_maps
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.metrics_csv import Row, read_metrics
from attnlab.training.checkpoint import load_checkpoint

VARIANTS = ("multi_head", "gated_delta")
LAST = f"step_{STEPS:08d}.ckpt"


def same(a: Any, b: Any) -> bool:
    """Equal to the last bit, whatever is nested in what."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def numbers(run: Path) -> list[Row]:
    """Every logged number that does not measure time."""
    return [row for row in read_metrics(run) if not row.metric.startswith("perf/")]


def assert_identical(run: Path, reference: Path) -> None:
    ours, theirs = (load_checkpoint(r / "checkpoints" / LAST) for r in (run, reference))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "fingerprint"):
        assert same(ours[part], theirs[part]), part
    assert numbers(run) == numbers(reference)
    for name in ("best", "last"):
        # The order of a file's metadata is not defined, so its content is compared.
        maps = [load_maps(r / "maps" / f"{name}.safetensors") for r in (run, reference)]
        assert maps[0].step == maps[1].step
        for mine, other in zip(maps[0].sentences[0].layers, maps[1].sentences[0].layers, strict=True):
            assert np.array_equal(mine.weights, other.weights) and np.array_equal(mine.value_norm, other.value_norm)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run of each variant that nobody disturbed."""
    found = {}
    for variant in VARIANTS:
        folder = tmp_path_factory.mktemp(variant)
        summary = run_here(folder, variant=variant)
        assert summary["status"] == "finished"
        found[variant] = folder_of(folder, variant)
    return found


@pytest.mark.parametrize(
    ("variant", "kills"), [("multi_head", 1), *(pytest.param(name, 3, marks=pytest.mark.slow) for name in VARIANTS[:2])]
)
def test_killed_anywhere(variant: str, kills: int, references: dict[str, Path], tmp_path: Path) -> None:
    """A run killed anywhere, once or three times, is the run that was not."""
    chance = random.Random(f"kill {variant}")
    steps = sorted(chance.sample(range(3, STEPS), kills))
    places = chance.sample(["batch_start", "clipping", "batch_end", "validation", "saved", "flushed"], kills)
    for place, step in zip(places, steps, strict=True):
        done = run_there(tmp_path, f"attention={variant}", kill=(place, step))
        assert done.returncode == -signal.SIGKILL, (place, step, done.stderr)
    done = run_there(tmp_path, f"attention={variant}")
    assert done.returncode == 0, done.stderr
    assert "continuing after step" in done.stdout
    assert_identical(folder_of(tmp_path, variant), references[variant])


@pytest.mark.slow
@pytest.mark.parametrize("order", ["random", "epoch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_among_documents(variant: str, order: str, tmp_path: Path) -> None:
    """A run on packed documents, too, is after three kills the run that was not killed."""
    (tmp_path / "whole").mkdir()
    words = ("data.documents=true", r'data.separator="\n"', f"data.order={order}")
    summary = run_here(tmp_path / "whole", *words, variant=variant)
    assert summary["status"] == "finished"
    for place, step in (("clipping", 4), ("validation", 8), ("saved", 15)):
        done = run_there(tmp_path, f"attention={variant}", *words, kill=(place, step))
        assert done.returncode == -signal.SIGKILL, (place, step, done.stderr)
    done = run_there(tmp_path, f"attention={variant}", *words)
    assert done.returncode == 0 and "continuing after step 15" in done.stdout, done.stderr
    assert_identical(folder_of(tmp_path, variant), folder_of(tmp_path / "whole", variant))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("value_embedding", ("model.smear=true", "model.canon=acd")),
        ("canon", ("model.residual=attention", "model.init=torch")),
        ("inkling", ("model.start=published", "model.norm_place=sandwich")),
    ],
)
def test_killed_with_settings_of_the_model(variant: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """What a model is beside its attention is after two kills what it would have been without."""
    (tmp_path / "whole").mkdir()
    assert run_here(tmp_path / "whole", *words, variant=variant)["status"] == "finished"
    for place, step in (("clipping", 7), ("saved", 15)):
        done = run_there(tmp_path, f"attention={variant}", *words, kill=(place, step))
        assert done.returncode == -signal.SIGKILL, (place, step, done.stderr)
    done = run_there(tmp_path, f"attention={variant}", *words)
    assert done.returncode == 0 and "continuing after step 15" in done.stdout, done.stderr
    assert_identical(folder_of(tmp_path, variant), folder_of(tmp_path / "whole", variant))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("place", ["batch_start", "clipping", "batch_end", "validation", "saved", "flushed"])
def test_killed_at_any_moment(place: str, variant: str, references: dict[str, Path], tmp_path: Path) -> None:
    """A run killed at any moment is the run that was not."""
    for step in (1, 5, 8, 16, STEPS - 1):
        done = run_there(tmp_path, f"attention={variant}", kill=(place, step))
        assert done.returncode == -signal.SIGKILL, (place, step, done.stderr)
    assert run_there(tmp_path, f"attention={variant}").returncode == 0
    assert_identical(folder_of(tmp_path, variant), references[variant])


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_stop_saves(number: signal.Signals, code: int, references: dict[str, Path], tmp_path: Path) -> None:
    """A run that is asked to stop saves and continues."""
    with subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("step  8"):
                process.send_signal(number)
                break
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == code, said
    assert said.startswith("error: stopped after step") and said.count("\n") == 1
    again = run_there(tmp_path)
    assert again.returncode == 0 and "continuing after step" in again.stdout
    assert_identical(folder_of(tmp_path), references["multi_head"])


@pytest.fixture
def cut_off(tmp_path: Path) -> Path:
    """A folder in which a run died at step 13, with checkpoints of the steps 5 and 10."""
    assert run_there(tmp_path, kill=("clipping", 13)).returncode == -signal.SIGKILL
    checkpoints = folder_of(tmp_path) / "checkpoints"
    assert sorted(p.name for p in checkpoints.glob("*.ckpt")) == ["step_00000005.ckpt", "step_00000010.ckpt"]
    return tmp_path


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "words"), [(flip, "was changed"), pytest.param(truncate, "bytes instead of", marks=pytest.mark.slow)]
)
def test_damaged_checkpoint(
    harm: Any, words: str, cut_off: Path, references: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged checkpoint is named and the one before it used."""
    harm(folder_of(cut_off) / "checkpoints" / "step_00000010.ckpt")
    run_here(cut_off)
    out, err = capsys.readouterr()
    assert err.startswith("warning: step_00000010.ckpt") and words in err
    assert "continuing after step 5 of 24" in out
    assert_identical(folder_of(cut_off), references["multi_head"])


@pytest.mark.slow
def test_no_checkpoint_left(cut_off: Path) -> None:
    """A run whose checkpoints are all damaged is not started over in silence."""
    for path in (folder_of(cut_off) / "checkpoints").glob("*.ckpt"):
        flip(path)
    with pytest.raises(NoUsableCheckpoint, match=r"no usable checkpoint.*overwrite=true") as refusal:
        run_here(cut_off)
    assert refusal.value.exit_code == 5
    assert run_here(cut_off, "overwrite=true")["status"] == "finished"


@pytest.mark.slow
def test_checkpoint_of_another_variant(references: dict[str, Path], tmp_path: Path) -> None:
    """Another variant's checkpoint is refused by key."""
    run_there(tmp_path, "attention=sliding_window", kill=("clipping", 13))
    here = folder_of(tmp_path, "sliding_window") / "checkpoints"
    shutil.rmtree(here)
    shutil.copytree(references["multi_head"] / "checkpoints", here)
    shutil.copy(references["multi_head"] / "metrics.csv", here.parent)
    with pytest.raises(
        UsageError, match=r"belongs to another run.*attention\.mask\._target_ \(.*Window here, .*Causal"
    ):
        run_here(tmp_path, variant="sliding_window")


def test_more_steps(references: dict[str, Path], tmp_path: Path) -> None:
    """More steps continue a finished run when asked."""
    source = references["multi_head"]
    text = source.parents[3] / "text.txt"
    more = [f"data.path={text}", f"trainer.max_steps={STEPS + 8}", f"resume_from={source}"]
    summary = run_here(tmp_path, *more)
    assert summary["step"] == STEPS + 8
    longer = folder_of(tmp_path)
    assert longer.parent.name != source.parent.name, "another identity"
    assert numbers(longer)[: len(numbers(source))] == numbers(source)
    with pytest.raises(UsageError, match=r"batch_size \(2 here, 4 there\)"):
        run_here(tmp_path, *more, "batch_size=2")
    with pytest.raises(UsageError, match=r"resume_from .* must be the folder of a finished run"):
        run_here(tmp_path, *more, f"resume_from={tmp_path}")


def test_the_manifest_lists_what_is_there(references: dict[str, Path]) -> None:
    folder = references["multi_head"] / "checkpoints"
    assert set(CheckpointFolder(folder).listed()) == {p.name for p in folder.glob("*.ckpt")} >= {LAST}
