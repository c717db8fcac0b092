"""The LightningModule around a GPT: loss, optimizer, gradient clipping, and the numbers that are logged.

A step, in order, with what does each part; Lightning's loop calls them:

    batch           data/datamodule.py  TrainBatches.__iter__  rows by (corpus, seed, step)
    checkpoint      training/callbacks.py  Checkpoints.on_train_batch_start  of the step before; stops if a signal came
    reseed          training/module.py  LanguageModel.on_train_batch_start  by (seed, step)
    forward         training/module.py  LanguageModel.training_step  the loss of a batch
    backward        training/module.py  LanguageModel.backward  Lightning's own; batches of one update add up
    clip or stop    training/module.py  LanguageModel.configure_gradient_clipping  stops if anything is not finite
    update          training/optimizer.py  Recipe.optimizer  a torch Optimizer
    next rate       training/optimizer.py  Recipe.factor  the course of the learning rate
    measure speed   training/callbacks.py  Speed.on_train_batch_end
    draw maps       training/map_callback.py  LogMaps.on_train_batch_end
    write samples   training/callbacks.py  Samples.on_train_batch_end
    log             training/module.py  LanguageModel.on_train_batch_end  if `is_logged_step`
    validate        training/module.py  LanguageModel.validation_step  batch by batch
    log             training/module.py  LanguageModel.on_validation_epoch_end  over all of them
    keep best maps  training/map_callback.py  LogMaps.on_validation_end
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from attnlab.data.dataset import IGNORED, Batch
from attnlab.errors import Diverged
from attnlab.model import GPT
from attnlab.training.compiled import compile_network
from attnlab.training.optimizer import Recipe
from attnlab.training.process_group import gathered
from attnlab.training.scoring import (
    SEGMENT_LOSS,
    SEGMENTS,
    at_least_float32,
    by_row,
    numbers,
    score_answers,
    segment_losses,
    segments,
    tally,
)
from attnlab.training.sharding import Sharded, average, clip, keep_whole, local, put_together, shard, spread, total_norm

REMEDY = "try a smaller optimizer.lr or a larger optimizer.warmup_fraction"


class LanguageModel(L.LightningModule):
    """Next-token prediction: `training_step` gives the mean loss in nats per token, validation the exact total.

    `recipe` makes the optimizer and its schedule. `noise_seed` reseeds the generators at every batch, so that dropout
    depends on (seed, step) and not on history. `val_scored_bytes` are the bytes of the predicted validation tokens.
    Logged: train/loss, optim/lr and optim/grad_norm every `log_every` steps, val/loss and val/bits_per_byte; of a task,
    which has `slice_names`, also val/accuracy, accuracy and loss of each slice,
    and the loss of each quarter of the row.
    """

    def __init__(
        self,
        model: GPT,
        recipe: Recipe,
        *,
        noise_seed: int,
        log_every: int,
        val_scored_bytes: int | None,
        slice_names: Sequence[str] = (),
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe, self.noise_seed, self.log_every = recipe, noise_seed, log_every
        self.val_scored_bytes, self.slice_names = val_scored_bytes, slice_names
        # In a list so that it is no submodule. Only training is compiled: its batches have one shape.
        self._network: list[Callable[[Tensor, Tensor | None], Tensor]] = [] if compile else [model]
        self._whole: list[GPT | None] = [model]  # where it is looked at; in a list so that it is no submodule
        self._trained = [p for p in model.parameters() if p.requires_grad]  # walking the modules costs time
        self._losses: list[Tensor] = []  # of the batches since the last update, each times its share of scored tokens
        self._shares: list[Tensor] = []  # empty where one batch makes the update
        self._loss = torch.zeros(())  # of the last update
        self._grad_norm = math.nan
        self.latest: dict[str, float] = {}  # of each number that was logged
        self.draws = False  # whether training draws random numbers, such as dropout's
        self._before: list[Tensor] | None = None  # the random streams as the first batch finds them
        self._nats = self._tokens = torch.zeros(())
        self._answers, self._rows, self._segments = torch.zeros(0, 3), torch.zeros(4), torch.zeros(SEGMENTS, 3)

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of each hook before and after it, and the bookkeeping of nn.Module makes that dear.
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def step_ended(self) -> bool:
        """Whether the last batch made an update, or none came yet: False between the batches of one update."""
        return len(self._losses) in (0, self.trainer.accumulate_grad_batches)

    @property
    def is_logged_step(self) -> bool:
        """Whether an update was just made whose numbers are logged: the first, every `log_every`th and the last."""
        step = self.trainer.global_step
        return self.step_ended and (step % self.log_every == 0 or step in (1, self.trainer.max_steps))

    @property
    def whole(self) -> GPT:
        """The network as one process has it, whatever its weights are now; where it lies in parts, in the first."""
        return self._whole[0] or self.model

    def put_together(self) -> GPT:
        """The network with its weights as they are now; where they lie in parts, all processes must take part."""
        if self._whole[0] is not self.model:
            put_together(self.model, self._whole[0])
        return self.whole

    def configure_model(self) -> None:
        """Cut the parameters where several processes share them; Lightning calls this before each of its loops."""
        strategy = self.trainer.strategy
        if isinstance(strategy, Sharded) and self._whole[0] is self.model:
            self.trainer.precision_plugin.convert_module(self)  # before: a copy is made, and parts are cut
            self._whole = [keep_whole(self.model) if self.trainer.is_global_zero else None]
            empty = any(p.is_meta for p in self.model.parameters())
            if not empty:
                self.model.to(strategy.root_device)
            shard(self.model, strategy.mesh)
            if strategy.group.largest(int(empty)):
                spread(self.model, self._whole[0], strategy.root_device)
            self._trained = [p for p in self.model.parameters() if p.requires_grad]

    def forward(self, ids: Tensor, documents: Tensor | None = None) -> Tensor:
        """(b, t) token ids, and of which document each is -> (b, t, vocab) logits."""
        logits: Tensor = self.model(ids, documents)
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.step_ended:
            self._losses, self._shares = [], []
        moment = (self.trainer.global_step, len(self._losses), self.trainer.global_rank)
        word = f"{self.noise_seed}/{moment}".encode()
        reseed(int.from_bytes(hashlib.sha256(word).digest()[:8], "little"), self.device)
        if self._before is None:
            self._before = streams(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        targets = batch.targets
        if not self._network:
            self._network.append(compile_network(self.model, batch.ids, batch.documents))
        loss = F.cross_entropy(self._network[0](batch.ids, batch.documents).flatten(0, 1), targets.flatten())
        if self._shares_an_update:
            # The update is the mean over all scored tokens, of which batches of a task hold different numbers: each
            # counts by the share of its tokens that are scored, and `_mean_over_tokens` divides by the sum of shares.
            share = (targets != IGNORED).sum().to(loss.dtype) / targets.numel()
            loss = loss * share
            self._shares.append(share)
        self._losses.append(loss.detach())
        return loss

    @property
    def _shares_an_update(self) -> bool:
        """Whether several batches make one update: one after the other, or on several devices."""
        return self.trainer.accumulate_grad_batches * self.trainer.world_size > 1

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip, and stop before the update if anything is not finite."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # which a fused optimizer would do in its step, after the clipping
        self._loss = self._mean_over_tokens() if self._shares else self._losses[0]
        norm = total_norm([p.grad for p in self._trained if p.grad is not None])
        loss, self._grad_norm = float(self._loss), float(norm)
        if scaler is not None and math.isfinite(loss) and not math.isfinite(self._grad_norm) and scaler.get_scale() > 1:
            return  # the scale of fp16 is too large: this update is left out, and the next scale is smaller
        if not (math.isfinite(self._grad_norm) and math.isfinite(loss)):
            raise Diverged(
                f"step {self.trainer.global_step + 1}: the loss is {loss:g} and the gradient norm {self._grad_norm:g}; "
                f"stopped before the update ({REMEDY})"
            )
        bound = self.recipe.grad_clip
        if bound is not None and self._grad_norm + 1e-6 > 0.999 * bound:  # else torch would multiply by 1
            clip(self._trained, bound, norm)

    def _mean_over_tokens(self) -> Tensor:
        """The loss of the update, whose gradients are made those of it: Lightning and the devices took the mean over
        batches. Every token of a text is scored, so that nothing changes there, to the last bit."""
        sums = torch.stack([torch.stack(self._losses), torch.stack(self._shares)])
        if self.trainer.world_size > 1:
            sums = gathered(sums).transpose(0, 1).flatten(1)
        loss, share = sums.mean(dim=1)
        if isinstance(self.trainer.strategy, Sharded):
            average([p.grad for p in self._trained if p.grad is not None and not p.ndim])  # which FSDP2 does not take
        for p in self._trained:
            if p.grad is not None:
                local(p.grad).div_(share.to(p.grad.dtype))
        return loss / share

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._before:
            self.draws = not all(map(torch.equal, self._before, streams(self.device)))
            self._before = []
        if self.is_logged_step:
            # The scheduler has already moved on: this is the rate of the update that was just made.
            rate = self.recipe.lr * self._factor(self.trainer.global_step - 1)
            self.record({"train/loss": float(self._loss), "optim/lr": rate, "optim/grad_norm": self._grad_norm})

    def on_validation_epoch_start(self) -> None:
        self._nats, self._tokens = torch.zeros(2, dtype=torch.float64).unbind()
        self._answers = torch.zeros(len(self.slice_names), 3, dtype=torch.float64)
        self._rows, self._segments = torch.zeros(4, dtype=torch.float64), torch.zeros(SEGMENTS, 3, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        targets = batch.targets
        logits = self(batch.ids, batch.documents)
        if batch.slices is not None:
            scored, parts = score_answers(logits, targets), segments(targets, -(-targets.shape[1] // SEGMENTS))
            self._answers += tally(scored, batch.slices, len(self.slice_names))
            self._segments += tally(scored, parts, SEGMENTS)
            self._rows += by_row(logits, targets)
        flat_logits = at_least_float32(logits.flatten(0, 1))
        nats = F.cross_entropy(flat_logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")
        self._nats = self._nats + nats.cpu().double()
        self._tokens = self._tokens + (targets != IGNORED).sum().cpu()

    def on_validation_epoch_end(self) -> None:
        totals = torch.stack([self._nats, self._tokens])
        if self.trainer.world_size > 1:
            totals = gathered(totals.to(self.device)).sum(dim=0)
        nats, tokens = totals.tolist()
        metrics = {"val/loss": nats / tokens}
        if self.val_scored_bytes is not None:
            metrics["val/bits_per_byte"] = nats / math.log(2) / self.val_scored_bytes
        if self.slice_names:
            sums = [self._answers, self._rows, self._segments]
            if self.trainer.world_size > 1:  # MPS has no double, but no second device either
                sums = [gathered(part.to(self.device)).sum(dim=0).cpu() for part in sums]
            metrics |= numbers(sums[0], sums[1], self.slice_names) | segment_losses(sums[2], SEGMENT_LOSS)
        self.record(metrics)
        self.log_dict(metrics, logger=False, batch_size=1)  # for callbacks that stop early or keep the best
        if not math.isfinite(metrics["val/loss"]):  # the last update may be the one that spoils the weights
            raise Diverged(f"step {self.trainer.global_step}: val/loss is {metrics['val/loss']:g} ({REMEDY})")

    def record(self, numbers: Mapping[str, float]) -> None:
        """Log numbers under the step they belong to: how many updates were made.

        Lightning's own `log` counts one less, and takes most of a millisecond for each number.
        """
        self.latest.update(numbers)
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(numbers), self.trainer.global_step)

    def _factor(self, step: int) -> float:
        return self.recipe.factor(step, self.trainer.max_steps)

    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.optimizer(self.model)
        # A plain function: LambdaLR would put what a method or an object holds into every checkpoint.
        scheduler = LambdaLR(optimizer, lambda step: self._factor(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def streams(device: torch.device) -> list[Tensor]:
    """The states of the random streams that training on this device draws from."""
    states = [torch.default_generator.get_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def reseed(seed: int, device: torch.device) -> None:
    """Set the random streams that training on this device draws from.

    torch.manual_seed would set those of all devices there could be, which takes a millisecond, and does not forget it.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
