"""Takes attention maps while training, on fixed sentences, and writes them where they can be looked at."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from attnlab.errors import UsageError
from attnlab.inspection.figures import to_png
from attnlab.inspection.head_metrics import (
    EMERGENCE_THRESHOLD,
    ENTROPY,
    INDUCTION,
    PREVIOUS,
    head_metrics,
    repeat_metrics,
    repeated_sequence,
    uniform_causal_entropy,
)
from attnlab.inspection.maps import MAX_PROBE_TOKENS, Labeller, Probe, check_probe, collect, map_steps
from attnlab.inspection.overview import draw_overview
from attnlab.inspection.records import LayerMap, Record, Sentence, half, save_maps
from attnlab.inspection.task_metrics import TaskRows, sink_rate_of, task_metrics
from attnlab.model import GPT
from attnlab.store.run_folder import RunFolder
from attnlab.training.callbacks import TimedCallback, network, whole
from attnlab.training.recorders.recorder import Recorder, recorder_of


class LogMaps(TimedCallback):
    """Before the first update, at log-spaced steps and after the last, show what every head attends to.

    At each map step: a picture per layer (`weights/layer_00`, for the second sentence `weights_prompt/layer_00`)
    and the raw map (`maps/probe/layer_00`), and the numbers of every head: on the first sentence, on a random sequence
    that is followed by itself, and of a task on `rows`. `emergence_steps` says at which of these steps a head's
    induction or previous-token score was first high. The last maps and those at the best validation loss are kept in
    the run's `folder`. Training is not disturbed: the model is in eval mode for that moment and no random stream moves.

    `probes` are (name, text); "probe" is the default sentence, any other name is the user's own (see `check_probe`).
    `seconds` is the time spent here so far, over all parts of a run that was resumed.
    """

    def __init__(
        self,
        probes: Sequence[tuple[str, str]],
        tokenizer: Labeller,
        *,
        folder: RunFolder,
        n_steps: int = 12,
        run: str = "",
        rows: TaskRows | None = None,
        max_probe_tokens: int = MAX_PROBE_TOKENS,
        monitor: str = "val/loss",
    ) -> None:
        super().__init__()
        if len({name for name, _ in probes}) != len(probes) or not probes:
            raise UsageError(f"maps need at least one probe and different names (got {[name for name, _ in probes]})")
        self.sentences, self.tokenizer = list(probes), tokenizer
        self.folder, self.n_steps, self.run, self.rows = folder, n_steps, run, rows
        self.max_probe_tokens, self.monitor = max_probe_tokens, monitor
        self.probes: list[Probe] = []
        self.steps: list[int] = []
        self.last_step, self.best = -1, math.inf
        self.emergence_steps: dict[str, int] = {}  # the first step at which a score reached its threshold, by its tag
        self._repeated: list[int] = []
        self._taken: tuple[int, list[list[LayerMap]]] = (-1, [])  # the newest maps, after their step

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a sentence that does not fit before anything is computed."""
        model = network(pl_module)
        context, self._repeated = model.context, repeated_sequence(model.vocab_size, model.context)
        self._taken, self._looked_at = (-1, []), model
        self.probes = [
            check_probe(name, text, self.tokenizer, context, max_tokens=self.max_probe_tokens)
            for name, text in self.sentences
        ]
        if stage == TrainerFn.FITTING:
            self.steps = map_steps(trainer.max_steps, self.n_steps)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The maps of the untrained model; nothing if the run is resumed."""
        if not self.folder.best_maps.exists():
            self.best = math.inf  # a run that continues another one in a folder of its own starts without a best
        self._log_if_due(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The maps after an update, if this is one of the steps for it."""
        self._log_if_due(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The last maps, where a callback has ended the run before its time."""
        self._log_if_due(trainer, pl_module, last=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the maps of the best step so far."""
        if trainer.sanity_checking or trainer.global_step == 0:
            return
        loss = trainer.callback_metrics.get(self.monitor)
        if loss is not None and float(loss) < self.best:
            with self.timed():
                self.best = float(loss)
                maps = self._maps(trainer, pl_module)
                if trainer.is_global_zero:
                    self._keep(self.folder.best_maps, trainer.global_step, maps)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, so that it takes no maps twice and keeps the best."""
        return {
            "last_step": self.last_step,
            "best": self.best,
            "births": dict(self.emergence_steps),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_step, self.best = state_dict["last_step"], state_dict["best"]
        self.emergence_steps, self.seconds = dict(state_dict["births"]), state_dict["seconds"]

    def _log_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule, last: bool = False) -> None:
        # With accumulated gradients several batches end at the same step; only the first of them is after the update.
        step = trainer.global_step
        if not (last or step in self.steps) or step <= self.last_step:
            return
        first, self.last_step = self.last_step < 0, step
        with self.timed():
            maps = self._maps(trainer, pl_module)
            if not trainer.is_global_zero:
                return
            self._log_numbers(recorder_of(trainer), self._looked_at, maps[0], step)
            self._log_pictures(recorder_of(trainer), maps, step, first)
            if last or step == self.steps[-1]:
                self._keep(self.folder.last_maps, step, maps)

    def _maps(self, trainer: L.Trainer, pl_module: L.LightningModule) -> list[list[LayerMap]]:
        """The maps of every sentence at this step, in the first process; a step of both kinds takes them once."""
        step = trainer.global_step
        if self._taken[0] != step:
            model = self._looked_at = whole(pl_module)
            probes = self.probes if trainer.is_global_zero else []
            self._taken = (step, [collect(model, probe.ids) for probe in probes])
        return self._taken[1]

    def _log_numbers(self, recorder: Recorder, model: GPT, maps: list[LayerMap], step: int) -> None:
        numbers = {f"{ENTROPY}/uniform_causal": uniform_causal_entropy(len(self.probes[0].ids))}
        for layer in maps:
            if layer.weights is not None:
                numbers |= head_metrics(layer.weights, layer.kind, layer.layer)
        for layer in collect(model, self._repeated) if self._repeated else []:
            if layer.weights is not None:
                scores = repeat_metrics(layer.weights, layer.kind, layer.layer)
                numbers |= scores
                for tag, score in scores.items():
                    if score >= EMERGENCE_THRESHOLD and tag.startswith((f"{INDUCTION}/", f"{PREVIOUS}/")):
                        self.emergence_steps.setdefault(tag, step)
        numbers |= sink_rate_of(numbers) if self.rows is None else task_metrics(model, self.rows)
        recorder.scalars(numbers, step)

    def _log_pictures(self, recorder: Recorder, maps: list[list[LayerMap]], step: int, first: bool) -> None:
        if first:
            recorder.text("maps/about", self._about(maps[0]), step)
        if self.emergence_steps:
            recorder.text("maps/emergence", self._emergence_table(), step)
        for i, (probe, layers) in enumerate(zip(self.probes, maps, strict=True)):
            group = "weights" if i == 0 else f"weights_{probe.name}"  # after the losses, where names are sorted
            for layer in layers:
                if layer.weights is None:
                    continue
                title = " · ".join([*filter(None, [self.run]), f"layer {layer.layer}", f"step {step}"])
                picture = draw_overview(layer.weights, layer.kind, title, probe.text)
                recorder.image(f"{group}/layer_{layer.layer:02d}", to_png(picture), step)
                norms = None if layer.value_norm is None else half(layer.value_norm)
                weights = half(layer.weights)
                recorder.map(
                    Record(step, layer.layer, layer.kind, probe.name, probe.text, probe.labels, weights, norms)
                )

    def _about(self, layers: list[LayerMap]) -> str:
        """What is mapped, as Markdown."""
        lines = ["The sentences whose attention is shown:", ""]
        for probe in self.probes:
            note = f" ({probe.note})" if probe.note else ""
            lines.append(f"- {probe.name}{note}, {len(probe.ids)} tokens:")
            lines += ["", *(f"      {line}" for line in probe.text.splitlines()), ""]
        missing = [str(layer.layer) for layer in layers if layer.weights is None]
        if missing:
            lines.append(
                f"No map of layer {', '.join(missing)}: its output is not linear in its values, so no weights exist."
            )
        return "\n".join(lines)

    def _emergence_table(self) -> str:
        """Which heads began to do what, as Markdown."""
        least = EMERGENCE_THRESHOLD
        lines = [f"The first of the map steps at which a head's score on a repeated sequence was at least {least}:", ""]
        lines += ["| step | score | head |", "|---:|---|---|"]
        for tag, step in sorted(self.emergence_steps.items(), key=lambda item: (item[1], item[0])):
            score, head = tag.removeprefix("attention_").split("/")
            lines.append(f"| {step} | {score.replace('_', ' ')} | {head} |")
        return "\n".join(lines)

    def _keep(self, path: Path, step: int, maps: list[list[LayerMap]]) -> None:
        sentences = [Sentence(p.name, p.text, p.labels, layers) for p, layers in zip(self.probes, maps, strict=True)]
        save_maps(path, sentences, step=step, run=self.run)
