"""Maps during training: what is written when, that training is not disturbed, and that a resumed run goes on."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.inspection.event_records import read_heads, read_records
from tests.inspection.test_maps import Letters
from tests.laws.cases import NAMES, sampled, shipped
from torch import Tensor

from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.errors import UsageError
from attnlab.inspection.maps import collect
from attnlab.inspection.records import load_maps
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.store.run_folder import RunFolder
from attnlab.training import map_callback
from attnlab.training.map_callback import LogMaps
from attnlab.training.recorders.metrics import MetricsRecorder
from attnlab.training.recorders.recorder import Recorder, Recorders, recorder_of
from attnlab.training.recorders.tensorboard import TensorBoardRecorder

CONTEXT = 8
# Lightning 2.6 asks torch 2.13 in a way that torch will drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")


class NoMap(MultiHeadAttention):
    """Attention that has no map in its second layer."""

    def weights(self, x: Tensor, shared: Any = None) -> Any:
        return None if self.layer == 1 else super().weights(x, shared)


class Disturbed(MultiHeadAttention):
    """Attention that attends more sharply once its map was looked at."""

    looked = False

    def weights(self, x: Tensor, shared: Any = None) -> Any:
        self.looked = True
        return super().weights(x, shared)

    def forward(self, x: Tensor, shared: Any = None) -> Tensor:
        return super().forward(x, shared) * (1.001 if self.looked else 1.0)


def small(attention: type[MultiHeadAttention] = MultiHeadAttention) -> GPT:
    """Two layers that draw random numbers while they train."""
    factory = partial(attention, n_heads=2, dropout=0.2)
    return GPT(ModelConfig(context=CONTEXT, n_layers=2, d_model=8, dropout=0.2), vocab_size=27, attention=factory)


class Model(L.LightningModule):
    """The smallest training that draws random numbers."""

    def __init__(self, model: GPT | None = None) -> None:
        super().__init__()
        self.model = model or small()
        self.val_losses = iter([3.0, 2.0, 2.5, 1.5, 1.7])

    def put_together(self) -> GPT:
        return self.model

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.model(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.model(batch)

    def on_validation_epoch_end(self) -> None:
        self.log("val/loss", next(self.val_losses))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Batches:
    """Endless batches that depend on the step alone."""

    def __iter__(self) -> Iterator[Tensor]:
        step = 0
        while True:
            yield torch.randint(27, (2, CONTEXT), generator=torch.Generator().manual_seed(step))
            step += 1


class Validation:
    """One batch."""

    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(1, CONTEXT, dtype=torch.long)


def recorders(folder: Path) -> list[Recorder]:
    """A table and an event file, both empty."""
    table = MetricsRecorder(folder)
    table.resume_at(None)
    return [table, TensorBoardRecorder(folder, resume_at=None)]


def fit(
    folder: Path,
    *,
    callback: LogMaps | None,
    module: Model | None = None,
    steps: int = 10,
    accumulate: int = 1,
    val_every: int | None = None,
    ckpt_path: Path | None = None,
    loggers: bool = True,
) -> tuple[Model, L.Trainer]:
    L.seed_everything(0)
    module = module or Model()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=Recorders(recorders(folder)) if loggers else False,
        callbacks=[callback] if callback else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
        val_check_interval=val_every,
        check_val_every_n_epoch=None if val_every else 1,
        limit_val_batches=1 if val_every else 0,
    )
    trainer.fit(
        module,
        Batches(),
        Validation(),
        ckpt_path=ckpt_path,
        weights_only=True if ckpt_path else None,
    )
    recorder_of(trainer).close()
    return module, trainer


def log_maps(folder: Path, **settings: Any) -> LogMaps:
    probes = settings.pop("probes", [("probe", "abcab")])
    return LogMaps(probes, Letters(), folder=RunFolder(folder), **settings)


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    found.Reload()
    return found


def unchanged_by_looking(folder: Path, model: Callable[[], GPT], steps: int, val_every: int | None = None) -> bool:
    """Whether training with maps at every step ends in the weights and random state of training without, bit by bit."""
    ends = []
    for name, callback in (("with", log_maps(folder / "with", n_steps=steps + 2)), ("without", None)):
        L.seed_everything(0)
        module = Model(model())
        fit(folder / name, callback=callback, module=module, steps=steps, val_every=val_every)
        assert callback is None or callback.steps == list(range(steps + 1))
        ends.append((module.model.state_dict(), torch.get_rng_state()))
    (a, noise_a), (b, noise_b) = ends
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and torch.equal(noise_a, noise_b)


def test_map_steps(tmp_path: Path) -> None:
    """Pictures records and numbers are written at the map steps."""
    callback = log_maps(tmp_path, probes=[("probe", "abcab"), ("prompt", "hello you")], n_steps=5)
    with pytest.raises(UsageError, match=r"maps\.prompt \(9 tokens\) is longer than model\.context \(8\)"):
        fit(tmp_path, callback=callback)
    callback = log_maps(tmp_path, probes=[("probe", "abcab"), ("prompt", "you")], n_steps=5, run="mine")
    fit(tmp_path, callback=callback)
    assert callback.steps == [0, 1, 2, 5, 10]
    found = events(tmp_path)
    assert found.Tags()["images"] == [
        "weights/layer_00",
        "weights/layer_01",
        "weights_prompt/layer_00",
        "weights_prompt/layer_01",
    ]
    for tag in found.Tags()["images"]:
        assert [image.step for image in found.Images(tag)] == callback.steps
    numbers = read_heads(tmp_path)
    assert [tag for tag in sorted(found.PluginTagToContent("attention")) if not tag.startswith("heads/")] == [
        "maps/probe/layer_00",
        "maps/probe/layer_01",
        "maps/prompt/layer_00",
        "maps/prompt/layer_01",
    ]
    for head in ("L00H00", "L00H01", "L01H00", "L01H01"):
        for name in ("attention_entropy", "attention_first_token_mass", "attention_distance"):
            assert [step for step, _ in numbers[f"{name}/{head}"]] == callback.steps
    assert numbers["attention_entropy/uniform_causal"][0][1] == pytest.approx(sum(math.log(i) for i in range(1, 6)) / 5)
    assert callback.seconds > 0


def test_emergence_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A emergence step is the first map step at which a score was high."""
    monkeypatch.setattr(map_callback, "EMERGENCE_THRESHOLD", 0.2)  # what heads of a model that is hardly trained reach
    callback = log_maps(tmp_path, n_steps=5)
    fit(tmp_path, callback=callback)
    found, wanted = events(tmp_path), {}
    for tag, curve in read_heads(tmp_path).items():
        if tag.startswith(("attention_previous_token/", "attention_induction/")):
            high = [step for step, value in curve if value >= 0.2]
            wanted |= {tag: high[0]} if high else {}
    assert callback.emergence_steps == wanted != {}
    again = log_maps(tmp_path)
    again.load_state_dict(callback.state_dict())
    assert again.emergence_steps == wanted
    text = found.Tensors("maps/emergence/text_summary")[-1].tensor_proto.string_val[0].decode()
    for tag, step in wanted.items():
        score, head = tag.removeprefix("attention_").replace("_", " ").split("/")
        assert f"| {step} | {score} | {head} |" in text


def test_records_hold_the_map_of_their_step(tmp_path: Path) -> None:
    callback = log_maps(tmp_path, n_steps=3)
    untrained = collect(Model().model, [0, 1, 2, 0, 1])
    L.seed_everything(0)
    module, _ = fit(tmp_path, callback=callback)
    found = list(read_records(tmp_path))
    assert [(r.step, r.layer) for r in found] == [(s, layer) for s in callback.steps for layer in (0, 1)]
    trained = collect(module.model, [0, 1, 2, 0, 1])
    for record, layer in zip([*found[:2], *found[-2:]], [*untrained, *trained], strict=True):
        np.testing.assert_array_equal(record.weights, layer.weights.astype(np.float16))
        np.testing.assert_array_equal(record.value_norm, layer.value_norm.astype(np.float16))
        assert (record.tokens, record.kind, record.text) == (["a", "b", "c", "a", "b"], "probability", "abcab")


def test_maps_change_nothing(tmp_path: Path) -> None:
    """Training ends bit for bit the same with and without maps."""
    assert unchanged_by_looking(tmp_path, small, steps=10, val_every=4)


@pytest.mark.parametrize("name", sampled([(name,) for name in NAMES], every=12))
def test_every_variant_unchanged(name: str, tmp_path: Path) -> None:
    """Looking leaves the training of every variant as it was."""
    subject = shipped(name)
    model = partial(subject.gpt, subject.depth, vocab_size=27, context=CONTEXT, dropout=0.2)
    assert unchanged_by_looking(tmp_path, model, steps=4)


def test_a_layer_that_looking_disturbs_is_found_out(tmp_path: Path) -> None:
    assert not unchanged_by_looking(tmp_path, lambda: small(Disturbed), steps=4)


def test_the_last_and_the_best_maps_are_kept(tmp_path: Path) -> None:
    callback = log_maps(tmp_path, n_steps=3, run="mine")
    module, _ = fit(tmp_path, callback=callback, val_every=2)
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["best.safetensors", "last.safetensors"]
    best, last = load_maps(RunFolder(tmp_path).best_maps), load_maps(RunFolder(tmp_path).last_maps)
    assert (best.run, best.step, last.step) == ("mine", 8, 10)  # the losses are 3, 2, 2.5, 1.5, 1.7 at 2, 4, ..., 10
    (sentence,) = last.sentences
    assert (sentence.name, sentence.text, sentence.tokens) == ("probe", "abcab", ["a", "b", "c", "a", "b"])
    for layer, now in zip(sentence.layers, collect(module.model, [0, 1, 2, 0, 1]), strict=True):
        np.testing.assert_array_equal(layer.weights, now.weights)
    assert callback.best == 1.5


def test_accumulated(tmp_path: Path) -> None:
    """Accumulated gradients count updates not batches."""
    callback = log_maps(tmp_path, n_steps=4)
    fit(tmp_path, callback=callback, steps=5, accumulate=3)
    assert callback.steps == [0, 1, 2, 5]
    assert [i.step for i in events(tmp_path).Images("weights/layer_00")] == callback.steps


def test_resumed_run_takes_no_map_twice(tmp_path: Path) -> None:
    """A resumed run goes on and takes no maps twice."""
    first = log_maps(tmp_path / "a", n_steps=5)
    _, trainer = fit(tmp_path / "a", callback=first, steps=10)
    checkpoint = tmp_path / "model.ckpt"
    # A checkpoint as it is in the middle of a run.
    middle = log_maps(tmp_path / "b", n_steps=5)

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(checkpoint)
                trainer.should_stop = True

    L.seed_everything(0)
    trainer = L.Trainer(
        max_steps=10,
        accelerator="cpu",
        devices=1,
        callbacks=[middle, Stop()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        logger=Recorders(recorders(tmp_path / "b")),
    )
    trainer.fit(Model(), Batches(), Validation())
    recorder_of(trainer).close()
    assert middle.last_step == 5
    again = log_maps(tmp_path / "b", n_steps=5)
    fit(tmp_path / "b", callback=again, steps=10, ckpt_path=checkpoint)
    assert again.last_step == 10 and again.seconds > middle.seconds
    # Sorted: files of one second are read in the order of their names.
    assert sorted(i.step for i in events(tmp_path / "b").Images("weights/layer_00")) == first.steps


def test_state_is_plain_enough_for_a_checkpoint(tmp_path: Path) -> None:
    callback = log_maps(tmp_path)
    state = {"last_step": 3, "best": 1.25, "births": {"attention_induction/L01H00": 2}, "seconds": 0.5}
    callback.load_state_dict(json.loads(json.dumps(state)))
    assert callback.state_dict() == state


def test_layer_without_map(tmp_path: Path) -> None:
    """A layer without a map is left out and said once."""
    fit(tmp_path, callback=log_maps(tmp_path, n_steps=3), module=Model(small(NoMap)))
    found = events(tmp_path)
    assert found.Tags()["images"] == ["weights/layer_00"]
    assert not [tag for tag in read_heads(tmp_path) if "L01" in tag]
    (about,) = found.Tensors("maps/about/text_summary")
    text = about.tensor_proto.string_val[0].decode()
    assert "No map of layer 1: its output is not linear in its values" in text and "abcab" in text
    kinds = [
        (layer.kind, layer.weights is None) for layer in load_maps(RunFolder(tmp_path).last_maps).sentences[0].layers
    ]
    assert kinds == [("probability", False), ("probability", True)]


def test_maps_need_no_tensorboard(tmp_path: Path) -> None:
    fit(tmp_path, callback=log_maps(tmp_path, n_steps=3), loggers=False)
    assert load_maps(RunFolder(tmp_path).last_maps).step == 10


def test_validation_first(tmp_path: Path) -> None:
    """A validation before training does not get in the way."""
    callback = log_maps(tmp_path, n_steps=3)
    L.seed_everything(0)
    module = Model()
    trainer = L.Trainer(
        max_steps=3,
        accelerator="cpu",
        devices=1,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        logger=Recorders(recorders(tmp_path)),
    )
    trainer.validate(module, Validation(), verbose=False)
    assert callback.best == math.inf
    trainer.fit(module, Batches(), Validation())
    recorder_of(trainer).close()
    assert [i.step for i in events(tmp_path).Images("weights/layer_01")] == [0, 1, 3]


@pytest.mark.parametrize("probes", [[], [("probe", "a"), ("probe", "b")]])
def test_probes_need_different_names(probes: list[tuple[str, str]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one probe and different names"):
        log_maps(tmp_path, probes=probes)


def test_best_of_its_own(tmp_path: Path) -> None:
    """A run that continues another one in its own folder keeps a best of its own."""
    callback = log_maps(tmp_path, n_steps=3)
    callback.load_state_dict({"last_step": -1, "best": 0.5, "births": {}, "seconds": 0.0})
    fit(tmp_path, callback=callback, val_every=2)
    assert callback.best == 1.5 and load_maps(RunFolder(tmp_path).best_maps).step == 8
    callback = log_maps(tmp_path, n_steps=3)
    callback.load_state_dict({"last_step": -1, "best": 0.5, "births": {}, "seconds": 0.0})
    fit(tmp_path, callback=callback, val_every=2)
    assert callback.best == 0.5, "in the same folder the best of all parts stays"
