"""What happens beside training is timed apart, disturbs nothing, and saves between two steps only."""

import html
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.training.fits import (
    CONTEXT,
    language_model,
    same_tensors,
    tiny_data,
    tiny_model,
    trainer_like_a_run,
    weights,
)
from torch import Tensor

from attnlab.data.tokenizers import CharTokenizer
from attnlab.errors import Stopped
from attnlab.generation import generate
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.metrics_csv import read_metrics
from attnlab.store.run_folder import RunFolder
from attnlab.training.callbacks import Checkpoints, Samples, Speed, TimedCallback, network
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.checkpoint_io import VerifiedCheckpointIO
from attnlab.training.map_callback import LogMaps
from attnlab.training.module import LanguageModel
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import as_code
from attnlab.training.recorders.tensorboard import TensorBoardRecorder
from attnlab.training.stop import StopRequest, stop_request

LETTERS = CharTokenizer("char", [c.encode() for c in "abcdefghijklmno #"])


def table(folder: Path) -> MetricsRecorder:
    recorder = MetricsRecorder(folder)
    recorder.resume_at(None)
    return recorder


# Time


class Clock:
    """Stands still until it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("attnlab.training.callbacks.time", SimpleNamespace(perf_counter=lambda: self.now))


class Slow(LanguageModel):
    """A training batch takes 2 seconds, a validation batch 100."""

    clock: Clock

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += 2
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.clock.now += 100
        super().validation_step(batch, batch_idx)


class Looks(TimedCallback):
    """Keeps training waiting for 1000 seconds at every opportunity."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def wait(self, *args: Any) -> None:
        with self.timed():
            self.clock.now += 1000

    on_train_start = on_train_batch_start = on_train_batch_end = on_validation_end = wait  # type: ignore[assignment]


def rates(folder: Path) -> list[tuple[int, float]]:
    return [(row.step, row.value) for row in read_metrics(folder) if row.metric == "perf/tokens_per_second"]


@pytest.mark.parametrize(("first", "accumulate"), [(True, 3), pytest.param(False, 1, marks=pytest.mark.slow)])
def test_speed_is_that_of_training_alone(
    first: bool, accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = language_model(kind=Slow, log_every=4)
    module.clock = clock = Clock(monkeypatch)
    speed, looks = Speed(tokens_per_batch=24), Looks(clock)
    trainer = trainer_like_a_run(
        steps=10,
        accumulate=accumulate,
        val_every=2,
        callbacks=[speed, looks] if first else [looks, speed],
        recorders=[table(tmp_path)],
    )
    data = tiny_data()
    trainer.validate(module, data, verbose=False)
    trainer.fit(module, datamodule=data)
    assert clock.now > 10_000, "training waited a lot"
    assert (speed.seconds, speed.tokens) == (2 * 10 * accumulate, 24 * 10 * accumulate)
    assert rates(tmp_path) == [(step, 12.0) for step in (1, 4, 8, 10)]


def test_totals_after_resume() -> None:
    """The totals of a resumed run go on from what was."""
    speed = Speed(tokens_per_batch=24)
    speed.load_state_dict({"seconds": 100.0, "tokens": 5000})
    trainer_like_a_run(steps=2, callbacks=[speed]).fit(language_model(), datamodule=tiny_data())
    assert speed.tokens == 5048 and 100 < speed.seconds < 160
    assert speed.state_dict() == {"seconds": speed.seconds, "tokens": 5048}


def test_time_counts_even_if_the_block_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, callback = Clock(monkeypatch), TimedCallback()
    for _ in range(2):
        with suppress(ValueError), callback.timed():
            clock.now += 3
            raise ValueError("trouble")
    assert callback.seconds == 6


# Samples


def samples(n_steps: int = 4, *, seed: int = 0, temperature: float = 1.0) -> Samples:
    return Samples(
        LETTERS, LETTERS.encode("abc #"), n_steps=n_steps, tokens=12, temperature=temperature, top_k=None, seed=seed
    )


def shown(folder: Path) -> list[tuple[int, str]]:
    """(step, Markdown) of every sample in TensorBoard."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    if "sample/text_summary" not in events.Tags()["tensors"]:
        return []
    return [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors("sample/text_summary")]


def fit_with_samples(folder: Path, callback: Samples, *, steps: int = 10, accumulate: int = 1) -> LanguageModel:
    board = TensorBoardRecorder(folder, resume_at=None)
    module = language_model(tiny_model(dropout=0.2))
    trainer = trainer_like_a_run(steps=steps, accumulate=accumulate, callbacks=[callback], recorders=[board])
    trainer.fit(module, datamodule=tiny_data())
    board.close()
    return module


@pytest.mark.parametrize(
    ("n_steps", "steps", "expected"),
    [(4, 10, [0, 3, 7, 10]), (2, 10, [0, 10]), (3, 10, [0, 5, 10]), (9, 3, [0, 1, 2, 3]), (0, 3, [])],
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_sample_steps(n_steps: int, steps: int, expected: list[int], accumulate: int, tmp_path: Path) -> None:
    """Samples are evenly spaced from the first step to the last."""
    fit_with_samples(tmp_path, samples(n_steps), steps=steps, accumulate=accumulate)
    assert [step for step, _ in shown(tmp_path)] == expected


def test_sample(tmp_path: Path) -> None:
    """A sample is what the model writes after the prompt."""
    callback = samples()
    model = fit_with_samples(tmp_path, callback).model
    ids = generate(model, torch.tensor(callback.prompt), tokens=12, temperature=1.0, top_k=None, seed=0)
    prompt, more = callback.text(model)
    assert (prompt, more) == ("abc #", LETTERS.decode(ids)) and len(more) == 12
    step, text = shown(tmp_path)[-1]
    assert (step, text) == (10, f"**after 10 steps**\n\n    abc #|{more}")


def test_sample_seed(tmp_path: Path) -> None:
    """The same seed writes the same text whatever was drawn before."""
    texts = []
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(len(texts))
        fit_with_samples(tmp_path / name, samples(seed=seed))
        texts.append(shown(tmp_path / name))
    assert texts[0] == texts[1] and texts[0] != texts[2]


def test_watching_changes_nothing(tmp_path: Path) -> None:
    """Training ends bit for bit the same with and without samples and maps."""
    results = []
    for name, callbacks in (
        ("without", []),
        ("with", [samples(5), LogMaps([("probe", "abcab")], LETTERS, folder=RunFolder(tmp_path), n_steps=6)]),
    ):
        board = TensorBoardRecorder(tmp_path / name, resume_at=None)
        module = language_model(tiny_model(dropout=0.3))
        trainer = trainer_like_a_run(steps=9, val_every=2, callbacks=callbacks, recorders=[board])
        trainer.fit(module, datamodule=tiny_data())
        board.close()
        assert module.training and module.model.training
        results.append((weights(module), torch.get_rng_state(), module.latest))
    assert same_tensors(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]
    assert shown(tmp_path / "with") and RunFolder(tmp_path).last_maps.exists()


def test_a_resumed_run_writes_no_sample_twice(tmp_path: Path) -> None:
    callback = samples()
    callback.load_state_dict({"last_step": 7, "seconds": 1.0})
    fit_with_samples(tmp_path, callback)
    assert [step for step, _ in shown(tmp_path)] == [10]
    assert callback.state_dict() == {"last_step": 10, "seconds": callback.seconds} and callback.seconds > 1


# Text as it is

HOSTILE = "# head\n- item\n<b>bold</b> <script>alert(1)</script>\n```\n**x** [a](http://b) &lt; &amp;\n| a |\n|--|\n> q"


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # of what TensorBoard brings along
def test_hostile_text_is_shown_as_it_is() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    page = markdown_to_safe_html("**before**\n\n" + as_code(HOSTILE))
    assert re.findall(r"<(\w+)", page) == ["p", "strong", "pre", "code"]
    (code,) = re.findall(r"<pre><code>(.*)</code></pre>", page, re.DOTALL)
    assert html.unescape(code).rstrip("\n") == HOSTILE


@settings(deadline=None, derandomize=True)
@example(HOSTILE)
@example("")
@example("\n\n")
@given(st.text())
def test_indented(text: str) -> None:
    """Every line of a text is indented and none is lost."""
    lines = as_code(text).split("\n")
    assert lines and all(line.startswith("    ") for line in lines)
    assert [line.removeprefix("    ") for line in lines] == (text.splitlines() or [""])


# Checkpoints


class Witness(VerifiedCheckpointIO):
    """Notes, for every checkpoint, what was done and what was on the disk when it was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module: Any = None
        self.seen: list[tuple[int, int, set[int]]] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        steps = {row.step for row in read_metrics(self.folder)}
        self.seen.append((checkpoint["global_step"], self.module.batches, steps))
        super().save_checkpoint(checkpoint, path, storage_options)


class Counts(LanguageModel):
    """Counts its training batches, and can be asked to stop during one of them."""

    batches = 0
    stop_in_batch = -1
    stop: StopRequest | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.batches += 1
        if self.batches == self.stop_in_batch and self.stop is not None:
            self.stop.signal = signal.SIGINT
        return super().training_step(batch, batch_idx)


def fit_with_checkpoints(
    folder: Path,
    *,
    every: int = 2,
    steps: int = 7,
    accumulate: int = 3,
    stop_in_batch: int = -1,
    ckpt_path: Path | None = None,
    more: Iterable[L.Callback] = (),
) -> tuple[Counts, Witness]:
    disk = Witness(folder)
    disk.module = module = language_model(tiny_model(dropout=0.3), kind=Counts)
    module.stop_in_batch = stop_in_batch
    with stop_request() as stop:
        module.stop = stop
        checkpoints = Checkpoints(RunFolder(folder).checkpoints, every=every, stop=stop, fingerprint={"seed": 3})
        trainer = trainer_like_a_run(
            steps=steps,
            accumulate=accumulate,
            val_every=2,
            callbacks=[*more, checkpoints],
            recorders=[table(folder)],
            disk=disk,
        )
        trainer.fit(module, datamodule=tiny_data(), ckpt_path=ckpt_path, weights_only=True)
    return module, disk


@pytest.mark.parametrize("accumulate", [1, 3])
def test_checkpoint_steps(accumulate: int, tmp_path: Path) -> None:
    """Checkpoints are taken between two steps with every row written."""
    _, disk = fit_with_checkpoints(tmp_path, accumulate=accumulate)
    assert [step for step, _, _ in disk.seen] == [2, 4, 6, 7], "every second step and the last"
    for step, batches, rows in disk.seen:
        assert batches == step * accumulate
        assert rows == set(range(1, step + 1))
    newest, problems = CheckpointFolder(tmp_path / "checkpoints").newest()
    assert newest == tmp_path / "checkpoints" / "step_00000007.ckpt" and problems == []


def test_the_last_step_is_saved_once(tmp_path: Path) -> None:
    _, disk = fit_with_checkpoints(tmp_path, steps=6, every=3)
    assert [step for step, _, _ in disk.seen] == [3, 6]


def test_checkpoint_contents(tmp_path: Path) -> None:
    """A checkpoint holds the fingerprint and no counters of Lightning's loops."""
    speed = Speed(tokens_per_batch=24)
    fit_with_checkpoints(tmp_path, more=[speed])
    saved = load_checkpoint(tmp_path / "checkpoints" / "step_00000007.ckpt")
    assert saved["fingerprint"] == {"seed": 3} and saved["global_step"] == 7
    assert "loops" not in saved
    assert saved["callbacks"]["Speed"] == {"seconds": speed.seconds, "tokens": 24 * 7 * 3}
    assert saved["callbacks"]["Checkpoints"].keys() == {"seconds"}


@pytest.mark.parametrize("stop_in_batch", [10, 11, 12])
def test_stop_between_steps(stop_in_batch: int, tmp_path: Path) -> None:
    """A request to stop in the middle of a step is granted at its end."""
    with pytest.raises(Stopped, match=r"^stopped after step 4 of 7; the same command continues$") as stop:
        fit_with_checkpoints(tmp_path, every=100, stop_in_batch=stop_in_batch)
    assert stop.value.exit_code == 130
    saved = load_checkpoint(tmp_path / "checkpoints" / "step_00000004.ckpt")
    assert saved["global_step"] == 4
    assert max(row.step for row in read_metrics(tmp_path)) == 4


def test_stop_before_first_step(tmp_path: Path) -> None:
    """A wish before the first step saves nothing."""

    class Early(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=r"^stopped after step 0 of 7") as stop:
        fit_with_checkpoints(tmp_path, more=[Early()])
    assert stop.value.exit_code == 143
    assert not (tmp_path / "checkpoints").exists()


def test_signal_in_training(tmp_path: Path) -> None:
    """A signal during training is a request to stop although lightning has handlers of its own."""

    class Interrupts(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
            if trainer.global_step == 3:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=r"^stopped after step 3 of 7") as stop:
        fit_with_checkpoints(tmp_path, accumulate=1, more=[Interrupts()])
    assert stop.value.exit_code == 143
    assert (tmp_path / "checkpoints" / "step_00000003.ckpt").exists()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_stop_and_continue(accumulate: int, tmp_path: Path) -> None:
    """A stopped run that is continued ends as if it had not been."""
    through, _ = fit_with_checkpoints(tmp_path / "through", accumulate=accumulate)
    with pytest.raises(Stopped):
        fit_with_checkpoints(tmp_path / "parts", accumulate=accumulate, every=100, stop_in_batch=3 * accumulate)
    checkpoint = tmp_path / "parts" / "checkpoints" / "step_00000003.ckpt"
    rest, disk = fit_with_checkpoints(tmp_path / "parts", accumulate=accumulate, ckpt_path=checkpoint)
    assert rest.batches == 4 * accumulate
    assert [step for step, _, _ in disk.seen] == [4, 6, 7]
    assert same_tensors(weights(through), weights(rest))
    assert through.latest == rest.latest
    ours, theirs = (load_checkpoint(tmp_path / n / "checkpoints" / "step_00000007.ckpt") for n in ("parts", "through"))
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    for a, b in zip(ours["optimizer_states"], theirs["optimizer_states"], strict=True):
        assert a["param_groups"] == b["param_groups"]
        assert all(same_tensors(a["state"][i], b["state"][i]) for i in a["state"] | b["state"])


def test_the_network_of_a_module_is_its_model() -> None:
    module = language_model()
    assert network(module) is module.model and network(module).context == CONTEXT
