"""What a seed fixes: every variant sees the same, starts alike, and each stream can be varied by itself."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from tests.training.launch import tiny
from torch import Tensor

from attnlab.config.compose import compose_config
from attnlab.training.run import run

# No update moves anything, so that what is seen depends on the streams alone.
STILL = ("optimizer.lr=1e-30", "model.dropout=0.2", "trainer.max_steps=6", "trainer.val_every=3", "maps.steps=2")
DATASETS = {"text": (), "task": ("data=recall", "tokenizer=task", "data.val_rows=64")}
ONE_FAST = ["text", pytest.param("task", marks=pytest.mark.slow)]


class Watch(L.Callback):
    """Takes down what each stream decides: batches, initial values, dropout, and what is written at the end."""

    def __init__(self) -> None:
        self.data, self.noise, self.judged = [hashlib.sha256() for _ in range(3)]
        self.init: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.init = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        note(self.data, batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        note(self.noise, [torch.default_generator.get_state()])

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        note(self.judged, batch)


def note(seen: Any, tensors: Iterable[Tensor | None]) -> None:
    for tensor in tensors:
        if tensor is not None:
            seen.update(tensor.numpy().tobytes())


def watched(folder: Path, *words: str, variant: str = "multi_head") -> dict[str, Any]:
    """What a run sees and draws, each as something to compare."""
    watch = Watch()
    typed = tiny(folder, f"attention={variant}", *words, *STILL)
    task = [word for word in words if word.startswith("data=")]
    config = compose_config([word for word in typed if not (task and word.startswith("data.path="))])
    run(config, variant=variant, callbacks=[watch])
    return {
        "data": watch.data.hexdigest(),
        "noise": watch.noise.hexdigest(),
        "judged": watch.judged.hexdigest(),
        "init": watch.init,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return bool(a == b)


@pytest.mark.parametrize("dataset", ONE_FAST)
@pytest.mark.parametrize(
    "stream", ["data", "init", *(pytest.param(s, marks=pytest.mark.slow) for s in ("noise", "eval"))]
)
def test_stream_set_apart(stream: str, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream set apart changes what it decides and nothing else."""
    usual = watched(tmp_path, *DATASETS[dataset])
    written = sample_of(capsys)
    apart = watched(tmp_path, *DATASETS[dataset], f"streams.{stream}=5")
    changed = {name for name in usual if not same(usual[name], apart[name])}
    assert changed == {"judged" if stream == "eval" else stream} - ({"judged"} if dataset == "text" else set())
    # The text at the end is drawn by streams.eval from the weights, which nothing but streams.init has moved.
    assert (sample_of(capsys) != written) == (stream in ("eval", "init"))


def sample_of(capsys: pytest.CaptureFixture[str]) -> str:
    _, _, after = capsys.readouterr().out.rpartition("\nsample: ")
    return after.split("\n\n")[0]


@pytest.mark.parametrize("dataset", ONE_FAST)
def test_variants_are_paired(dataset: str, tmp_path: Path) -> None:
    """For one seed every variant sees the same and starts alike."""
    usual = watched(tmp_path, *DATASETS[dataset])
    for variant in ("gqa", "gla"):
        other = watched(tmp_path, *DATASETS[dataset], variant=variant)
        assert (other["data"], other["judged"]) == (usual["data"], usual["judged"]), variant
        shared = [
            name
            for name, tensor in usual["init"].items()
            if name in other["init"] and other["init"][name].shape == tensor.shape
        ]
        assert len(shared) > 10
        assert all(torch.equal(usual["init"][name], other["init"][name]) for name in shared), variant
    again = watched(tmp_path, *DATASETS[dataset], "seed=1")
    assert again["data"] != usual["data"] and not same(again["init"], usual["init"])
    assert (again["judged"] == usual["judged"]) == (dataset == "text"), "a task has other validation rows"
