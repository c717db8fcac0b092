"""What a run takes is measured on models without numbers, and is what models with numbers take."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import NAMES

from attnlab.attention.cost import count_flops
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config, compose_job
from attnlab.config.run_config import RunConfig
from attnlab.model import GPT
from attnlab.training.optimizer import Recipe
from attnlab.training.resources import Counted, activation_bytes, autocast, device_memory, forward_flops, saved_bytes
from attnlab.training.run import run
from attnlab.training.run_plan import show_plan

PLAN = ("plan=true", "trainer.threads=1")
QUICK = ("multi_head", "gated_delta", "cross_layer")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def settled(*words: str) -> RunConfig:
    return compose_config(
        ["model=tiny", "batch_size=2", "trainer.attention_dtype=fp32", "trainer.precision=fp32", *words]
    )


def without_numbers(config: RunConfig) -> GPT:
    with torch.device("meta"):
        return build_model(config, 50).eval()


@pytest.mark.parametrize("name", EACH)
def test_as_with_numbers(name: str) -> None:
    """FLOPs of layers counted once are the whole model's; bytes without numbers are those that training keeps."""
    config = settled(f"attention={name}")
    meta, ids = without_numbers(config), torch.zeros(2, config.model.context, dtype=torch.long)
    assert forward_flops(meta, {}) == count_flops(lambda: meta(ids[:1].to("meta")))
    for precision in ("fp32", "bf16"):
        config = replace(config, trainer=replace(config.trainer, precision=precision))
        model = build_model(config, 50).train()
        with saved_bytes(list(model.parameters())) as count, autocast(precision, "cpu"):
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        assert activation_bytes(config, 50, 2) == count(), precision
        del loss


@pytest.mark.parametrize("name", EACH)
def test_layers_counted_once(name: str) -> None:
    """What was counted for few layers holds for more, and in whichever type the kernel works."""
    counted: Counted = {}
    for layers in (1, 2, 5):
        for dtype in ("fp32", "bf16"):
            config = settled(f"attention={name}", f"model.n_layers={layers}", f"trainer.attention_dtype={dtype}")
            model = without_numbers(config)
            assert forward_flops(model, counted) == forward_flops(model, {}), (layers, dtype)


class EvenLayers(MultiHeadAttention):
    """A class of a user's own, whose work depends on which layer it is."""

    def forward(self, x, shared=None):  # type: ignore[no-untyped-def]
        return super().forward(x, shared) if self.layer % 2 else super().forward(super().forward(x, shared), shared)


def test_layers_of_others() -> None:
    """What a class that is not ours does in a layer may depend on the layer: each is counted."""
    config = settled("attention=multi_head")
    with torch.device("meta"):
        model = GPT(config.model, vocab_size=50, attention=lambda d, **where: EvenLayers(d, n_heads=2, **where)).eval()
    ids = torch.zeros(1, model.context, dtype=torch.long, device="meta")
    counted: Counted = {}
    assert (
        forward_flops(model, counted) == count_flops(lambda: model(ids)) and len(counted) == 1 + config.model.n_layers
    )


def test_memory_of_processes() -> None:
    """Processes share a batch, but for masks and angles; with fsdp they share all else, too, and with ddp each has
    buckets of gradients besides."""
    config = settled()
    recipe = instantiate(config, "optimizer", Recipe)
    two = (replace(config.trainer, devices=2, strategy=strategy) for strategy in ("ddp", "fsdp"))
    configs = [config, *(replace(config, trainer=trainer) for trainer in two)]
    one, ddp, fsdp = (device_memory(each, 50, recipe) for each in configs)
    model = without_numbers(config)
    numbers = sum(p.numel() for p in model.parameters())
    apart = sum(p.numel() for block in model.layers[1:] for p in block.parameters())  # blocks that are not whole now
    assert fsdp.communication == 2 * 4 * (numbers - apart)
    assert one.weights == one.gradients == 4 * numbers and 8 * numbers <= one.optimizer < 8.1 * numbers
    assert ddp[:3] == one[:3] and (one.communication, ddp.communication) == (0, one.gradients)
    assert all(abs(2 * half - whole) <= 1 for half, whole in zip(fsdp[:3], one[:3], strict=True))
    assert ddp.activations == fsdp.activations and 0.5 <= ddp.activations / one.activations < 0.7
    assert ddp.total == sum(ddp) > fsdp.total == sum(fsdp)


THERE = ("trainer.accelerator=gpu", "assume.peak_flops=1e15")


@pytest.mark.parametrize(
    "more",
    [
        (),
        (*THERE, "trainer.devices=2"),
        (*THERE, "trainer.devices=2", "trainer.nodes=2", "trainer.strategy=fsdp", "trainer.precision=fp16"),
        (*THERE, "trainer.attention_backend=flex"),
    ],
)
def test_plan_of_one(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """plan=true says what a run takes, also on devices that are not here; no folder of a run comes of it."""
    if more and torch.cuda.device_count() > 1:
        pytest.skip("they are here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("All is said. " * 100)
    config, variant = compose_job(["model=tiny", "tokenizer=byte", "data=file", "data.path=text.txt", *PLAN, *more])
    assert run(config, variant=variant) == {}
    show_plan(config, variant)  # again: the first left nothing that changes it
    shown = capsys.readouterr().out
    for piece in ("parameters", "times the", "FLOPs", "optimizer", "activations", "FLOP/s"):
        assert piece in shown
    assert ("which is not here" in shown and "of 1e+15 FLOP/s" in shown) == bool(more)
    assert ("4 (GPU, which is not here), fp16, strategy fsdp" in shown) == ("trainer.nodes=2" in more)
    monkeypatch.setenv("RANK", "1")
    assert run(config, variant=variant) == {} and not capsys.readouterr().out, "one of several that torchrun starts"
    assert {path.name for path in tmp_path.iterdir()} <= {"text.txt", ".cache"}


def test_disk_of_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint in parts is as large as a whole one; weights of half the bytes are half of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("All is said. " * 100)
    words = ["model=tiny", "tokenizer=byte", "data=file", "data.path=text.txt", *PLAN, *THERE, "trainer.devices=2"]
    sizes = []
    for more in ("trainer.strategy=ddp", "trainer.strategy=fsdp", "trainer.precision=bf16-true"):
        config, variant = compose_job([*words, "maps.steps=0", more])
        show_plan(config, variant)
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("disk"))
        sizes.append(float(line.split()[1]))
    assert sizes[0] == sizes[1] == pytest.approx(2 * sizes[2], rel=0.02)
