"""The loss, the update and the noise of training, each computed a second time by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from tests.training.fits import (
    ADAMW,
    CONTEXT,
    VOCAB,
    Descent,
    language_model,
    same_tensors,
    tiny_data,
    tiny_model,
    tiny_splits,
    trainer_like_a_run,
    weights,
)
from torch import Tensor, nn

from attnlab.data.batches import train_batch
from attnlab.data.dataset import IGNORED, Batch
from attnlab.data.task import Task
from attnlab.data.tasks.counting import Counting
from attnlab.data.tasks.recall import Recall
from attnlab.errors import Diverged
from attnlab.store.metrics_csv import Row, read_metrics
from attnlab.training.module import LanguageModel, reseed
from attnlab.training.recorders.metrics import MetricsRecorder


class Given:
    """Batches from a list, again and again."""

    def __init__(self, *batches: tuple[Tensor, Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        while True:
            yield from self.batches


class Gradients(L.Callback):
    """Keeps what the gradients were before and after clipping, per update."""

    def __init__(self) -> None:
        self.raw: list[list[Tensor]] = []
        self.used: list[list[Tensor]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.raw.append(self._of(pl_module))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        self.used.append(self._of(pl_module))

    def _of(self, module: nn.Module) -> list[Tensor]:
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def table(folder: Path) -> MetricsRecorder:
    recorder = MetricsRecorder(folder)
    recorder.resume_at(None)
    return recorder


def rows(folder: Path, metric: str) -> list[tuple[int, float]]:
    return [(row.step, row.value) for row in read_metrics(folder) if row.metric == metric]


def batch(number: int, size: int = 2) -> Batch:
    splits = tiny_splits()
    return train_batch(splits.train, corpus_sha256="", seed=0, step=number, batch_size=size, context=CONTEXT)


# Validation


@pytest.mark.parametrize("n_val", [2, 7, 8, 9, 10, 25, 29, 64])
@pytest.mark.parametrize(("batch_size", "least"), [(1, 1), (3, 1), (3, 8192)])
def test_validation_loss_is_a_mean(n_val: int, batch_size: int, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation loss is the mean over all predicted tokens."""
    monkeypatch.setattr("attnlab.data.datamodule.VAL_TOKENS", least)
    splits = tiny_splits(n_val)
    model = tiny_model(dropout=0.5)
    nn.init.normal_(model.embedding.weight)  # losses that differ from token to token
    module = language_model(model)
    trainer_like_a_run(steps=1, val_every=1).validate(module, tiny_data(batch_size, splits), verbose=False)

    ids = torch.from_numpy(splits.val.astype("int64"))
    nats: list[float] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, n_val - 1, CONTEXT):
            window = ids[start : start + CONTEXT + 1]
            logits = model(window[None, :-1])[0].double()
            nats += F.cross_entropy(logits, window[1:], reduction="none").tolist()
    assert len(nats) == n_val - 1
    # Single precision in the model, in batches of other sizes: a few units in the last place per token.
    assert module.latest["val/loss"] == pytest.approx(math.fsum(nats) / len(nats), rel=1e-6)
    expected = math.fsum(nats) / math.log(2) / splits.scored_bytes
    assert module.latest["val/bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_a_second_validation_starts_from_nothing() -> None:
    module, data = language_model(), tiny_data()
    for _ in range(2):
        trainer_like_a_run(steps=1, val_every=1).validate(module, data, verbose=False)
        first = module.latest.setdefault("first", module.latest["val/loss"])
        assert module.latest["val/loss"] == first


def test_bits_of_uniform_model() -> None:
    """A uniform model needs log 2 of the vocabulary bits per token."""
    model = tiny_model()
    nn.init.zeros_(model.embedding.weight)
    splits = tiny_splits(n_val=29, scored_bytes=28)  # a byte per token
    module = language_model(model, val_scored_bytes=28)
    trainer_like_a_run(steps=1, val_every=1).validate(module, tiny_data(splits=splits), verbose=False)
    assert module.latest["val/loss"] == pytest.approx(math.log(VOCAB), rel=1e-6)
    assert module.latest["val/bits_per_byte"] == pytest.approx(math.log2(VOCAB), rel=1e-6)


def test_callbacks_see_validation_loss() -> None:
    """Other callbacks can watch the validation loss."""
    module, trainer = language_model(), trainer_like_a_run(steps=2, val_every=1)
    trainer.fit(module, datamodule=tiny_data())
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(module.latest["val/loss"], rel=1e-6)


# The update


@pytest.mark.parametrize("bound", [0.05, 1e6, None])
def test_gradients_are_clipped_as_torch_clips_them(bound: float | None, tmp_path: Path) -> None:
    seen = Gradients()
    module = language_model(recipe=Descent(grad_clip=bound))
    trainer_like_a_run(steps=3, callbacks=[seen], recorders=[table(tmp_path)]).fit(module, datamodule=tiny_data())
    norms = rows(tmp_path, "optim/grad_norm")
    assert [step for step, _ in norms] == [1, 2, 3]
    for raw, used, (_, norm) in zip(seen.raw, seen.used, norms, strict=True):
        parameters = [nn.Parameter(torch.zeros_like(g)) for g in raw]
        for parameter, gradient in zip(parameters, raw, strict=True):
            parameter.grad = gradient.clone()
        total = nn.utils.clip_grad_norm_(parameters, math.inf if bound is None else bound)
        assert norm == float(total), "what is logged is the norm before clipping"
        assert all(torch.equal(p.grad, g) for p, g in zip(parameters, used, strict=True))  # type: ignore[arg-type]
        assert all(map(torch.equal, raw, used)) is (bound != 0.05)


class Breaks(LanguageModel):
    """Goes wrong in one micro-batch, in a way of its choice."""

    how, when = "nan_loss", (3, 0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        now = (self.trainer.global_step, len(self._losses))
        loss = super().training_step(batch, batch_idx)
        if now != self.when:
            return loss
        if self.how == "nan_loss":  # with gradients as usual
            self._losses[-1] = loss.detach() * math.nan
        elif self.how == "inf_loss":
            self._losses[-1] = loss.detach() + math.inf
        elif self.how == "nan_everywhere":
            loss = loss * math.nan
        else:
            self.model.norm.weight.register_hook(lambda g: torch.cat([g[1:], g.new_tensor([math.inf])]))
        return loss


class BeforeStep(L.Callback):
    """Copies weights and optimizer state before each update."""

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        self.step, self.weights = trainer.global_step, weights(pl_module)
        self.moments = [m.clone() for state in optimizer.state.values() for m in state.values()]


@pytest.mark.parametrize("micro", [0, 1])
@pytest.mark.parametrize("how", ["nan_loss", "inf_loss", "nan_everywhere", "inf_gradient"])
def test_not_finite_stops(how: str, micro: int) -> None:
    """What is not finite stops the run before the update."""
    module, before = language_model(kind=Breaks), BeforeStep()
    module.how, module.when = how, (3, micro)
    trainer = trainer_like_a_run(steps=8, accumulate=2, callbacks=[before])
    with pytest.raises(Diverged, match=r"^step 4: the loss is .* and the gradient norm .*; stopped before") as error:
        trainer.fit(module, datamodule=tiny_data())
    assert error.value.exit_code == 4
    assert ("inf" if how.startswith("inf") else "nan") in str(error.value)
    assert before.step == 3 and same_tensors(before.weights, weights(module))
    (optimizer,) = trainer.optimizers
    moments = [m for state in optimizer.state.values() for m in state.values()]
    assert moments and all(map(torch.equal, before.moments, moments))


def trained_in_double(
    module: LanguageModel, batches: list[Any], accumulate: int, folder: Path
) -> dict[str, torch.Tensor]:
    """The weights after three updates, whose numbers are logged in a folder."""
    trainer = trainer_like_a_run(steps=3, accumulate=accumulate, precision="64-true", recorders=[table(folder)])
    trainer.fit(module, Given(*batches))
    return weights(module)


def assert_equal_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-13)  # double precision


@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation(parts: int, tmp_path: Path) -> None:
    """Accumulated micro-batches are one large batch."""
    large = [batch(number, size=6) for number in range(3)]
    small = [Batch(*pair) for whole in large for pair in zip(whole[0].chunk(parts), whole[1].chunk(parts), strict=True)]
    results = []
    for name, batches, accumulate in (("large", large, 1), ("small", small, parts)):
        module = language_model(recipe=Descent(grad_clip=0.5))
        results.append(trained_in_double(module, batches, accumulate, tmp_path / name))
    assert_equal_weights(*results)
    for metric in ("train/loss", "optim/grad_norm"):
        expected = [(step, pytest.approx(value, abs=1e-13)) for step, value in rows(tmp_path / "large", metric)]
        assert rows(tmp_path / "small", metric) == expected and len(expected) == 3


@pytest.mark.parametrize("task", [Counting(), Recall(4, 4, 4, 0.2)])
def test_accumulated_rows_count_by_what_they_ask(task: Task, tmp_path: Path) -> None:
    """2 x 8 rows are 16, though they ask for different numbers of answers; the plain mean of means is another."""
    context, results = 24, []
    whole = [task.train_batch(seed=0, step=step, batch_size=16, context=context) for step in range(3)]
    halves = [Batch(ids[rows], targets[rows]) for ids, targets, *_ in whole for rows in (slice(8), slice(8, 16))]
    asked = [int((targets != IGNORED).sum()) for _, targets, *_ in halves]
    assert asked[::2] != asked[1::2], "else this shows nothing"
    for name, batches, accumulate in (("16", whole, 1), ("2x8", halves, 2)):
        torch.manual_seed(0)
        module = language_model(tiny_model(vocab_size=task.n_vocab, context=context), Descent(grad_clip=0.5))
        results.append(trained_in_double(module, batches, accumulate, tmp_path / name))
    assert_equal_weights(*results)
    for metric in ("train/loss", "optim/grad_norm"):
        expected = [(step, pytest.approx(value, abs=1e-13)) for step, value in rows(tmp_path / "16", metric)]
        assert rows(tmp_path / "2x8", metric) == expected


# What is logged


def test_step_of_training_loss(tmp_path: Path) -> None:
    """The training loss stands under the number of updates made."""

    class Seen(LanguageModel):
        seen: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.seen.append(loss.item())
            return loss

    module = language_model(kind=Seen, log_every=3)
    trainer_like_a_run(steps=8, accumulate=2, recorders=[table(tmp_path)]).fit(module, datamodule=tiny_data())
    assert len(module.seen) == 16
    losses = rows(tmp_path, "train/loss")
    assert [step for step, _ in losses] == [1, 3, 6, 8], "the first, every third, and the last"
    for step, loss in losses:
        # The loss that led to update number `step`: the mean over its micro-batches, rounded once.
        assert loss == pytest.approx(sum(module.seen[2 * step - 2 : 2 * step]) / 2, rel=1e-7)


def test_logged_rate(tmp_path: Path) -> None:
    """The rate that is logged is the rate of the update."""

    class Rates(L.Callback):
        used: list[float] = []

        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
            self.used.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    trainer_like_a_run(steps=7, callbacks=[rates], recorders=[table(tmp_path)]).fit(
        language_model(), datamodule=tiny_data()
    )
    assert rows(tmp_path, "optim/lr") == list(enumerate(rates.used, start=1))
    assert rates.used == [ADAMW.lr * ADAMW.factor(step, 7) for step in range(7)]


def test_step_of_validation(tmp_path: Path) -> None:
    """Validations stand under the number of updates made from 0 on."""
    module, data = language_model(), tiny_data()
    trainer = trainer_like_a_run(steps=5, accumulate=2, val_every=2, recorders=[table(tmp_path)])
    trainer.validate(module, data, verbose=False)
    trainer.fit(module, datamodule=data)
    assert [step for step, _ in rows(tmp_path, "val/loss")] == [0, 2, 4]
    trainer.validate(module, data, verbose=False)
    assert [step for step, _ in rows(tmp_path, "val/bits_per_byte")] == [0, 2, 4, 5]
    last = read_metrics(tmp_path)[-1]
    assert last == Row(5, "val/bits_per_byte", module.latest["val/bits_per_byte"])


# Noise


class Draws(LanguageModel):
    """Notes the first random numbers of every micro-batch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.__dict__.setdefault("numbers", []).append(torch.rand(3).tolist())
        return super().training_step(batch, batch_idx)


class Disturbs(L.Callback):
    """Draws random numbers wherever it can."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        torch.rand(5)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *rest: Any) -> None:
        torch.manual_seed(9)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        torch.rand(5)


def draws(*, seed: int = 0, batch_size: int = 3, steps: int = 4, **settings: Any) -> list[list[float]]:
    module = language_model(tiny_model(dropout=0.5), kind=Draws, noise_seed=seed)
    trainer_like_a_run(steps=steps, accumulate=2, **settings).fit(module, datamodule=tiny_data(batch_size))
    found: list[list[float]] = module.numbers  # type: ignore[assignment]
    return found


def test_noise_is_a_function() -> None:
    """Noise depends on seed step and micro-batch only."""
    usual = draws()
    assert len({tuple(numbers) for numbers in usual}) == len(usual) == 4 * 2
    assert draws(callbacks=[Disturbs()], val_every=1) == usual
    assert draws(batch_size=5, steps=6)[: len(usual)] == usual
    assert not {tuple(numbers) for numbers in draws(seed=1)} & {tuple(numbers) for numbers in usual}


def test_dropout_by_step(tmp_path: Path) -> None:
    """Dropout repeats for the same step and differs between steps."""
    losses = []
    for name in ("first", "again"):
        module = language_model(tiny_model(dropout=0.5), recipe=Descent(lr=1e-12))
        trainer = trainer_like_a_run(steps=4, recorders=[table(tmp_path / name)])
        trainer.fit(module, Given(batch(0)))
        losses.append([loss for _, loss in rows(tmp_path / name, "train/loss")])
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4, "the weights stand still and the batch is the same: only dropout differs"


def test_reseeding_is_manual_seed() -> None:
    """Reseeding is manual seed for what the CPU draws."""
    for seed in (0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1):
        reseed(seed, torch.device("cpu"))
        ours = (torch.rand(3), torch.randn(20), torch.randint(100, (5,)), F.dropout(torch.ones(20)))
        torch.manual_seed(seed)
        theirs = (torch.rand(3), torch.randn(20), torch.randint(100, (5,)), F.dropout(torch.ones(20)))
        assert all(map(torch.equal, ours, theirs))


def test_reseeding_queues_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reseeding leaves nothing waiting for devices that are not used."""
    waiting: list[Any] = []
    monkeypatch.setattr(torch.cuda.random, "_lazy_call", lambda call, **settings: waiting.append(call))
    reseed(1, torch.device("cpu"))
    assert waiting == []
    torch.manual_seed(1)
    assert waiting, "this is where it would be seen"


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_reseeding_of_a_device(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reseeding sets the stream of the device in use."""
    seeds: dict[str, list[int]] = {"cuda": [], "mps": []}
    for name, given in seeds.items():
        monkeypatch.setattr(getattr(torch, name), "manual_seed", given.append)
    reseed(7, torch.device(kind))
    assert seeds == {"cuda": [], "mps": []} | {kind: [7]}
    assert torch.initial_seed() == 7


# Compiled


@pytest.mark.parametrize("fails", ["never", "forward", "backward"])
def test_compiled_training(fails: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Training is compiled, nothing else; where that fails, the same losses come out plain, and a line says so."""
    shapes: list[tuple[int, ...]] = []

    def refuse(*_: Any) -> None:
        raise RuntimeError("no working C++ compiler\nat line 7")

    def compile(plain: nn.Module, *, dynamic: bool, options: dict[str, bool]) -> Callable[[Tensor], Tensor]:
        def network(ids: Tensor, documents: None = None) -> Tensor:
            shapes.append(tuple(ids.shape))
            if fails == "forward":
                refuse()
            logits: Tensor = plain(ids)
            if fails == "backward":
                logits.register_hook(refuse)
            return logits

        return network

    def losses(compile: bool) -> dict[str, float]:
        module = language_model(tiny_model(dropout=0.3), compile=compile)
        assert list(module.state_dict()) == list(language_model().state_dict())
        trainer_like_a_run(steps=2).fit(module, datamodule=tiny_data())
        return module.latest

    plain = losses(False)
    monkeypatch.setattr(torch, "compile", compile)
    assert losses(True) == plain, "trying it moved the random streams"
    assert len(shapes) == {"never": 3, "forward": 1, "backward": 1}[fails] and len(set(shapes)) == 1
    said = capsys.readouterr().out
    assert ("trains uncompiled (RuntimeError: no working C++ compiler)" in said) == (fails != "never")
