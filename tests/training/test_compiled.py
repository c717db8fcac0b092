"""Every variant under torch.compile: the same numbers at two lengths, whatever the compiler may leave out."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tests.attention.plain_layers import Sum
from torch import Tensor

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.keys import options
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training import compile_trial
from attnlab.training.compile_trial import resolve_compile, try_compiler
from attnlab.training.compiled import compile_network, compiled

SIZES = ("model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.context=128", "model.dropout=0.0")
CLOSE = {"rtol": 1e-3, "atol": 1e-5}  # of float32: fused kernels add in another order


def compare(variant: str) -> None:
    """First 67 tokens, then 33, which is compiled anew."""
    model = build_model(compose_config([f"attention={variant}", *SIZES]), 64).eval()
    network, parameters = compiled(model, torch.device("cpu")), list(model.parameters())
    for length in (67, 33):
        ids = torch.randint(64, (2, length), generator=torch.Generator().manual_seed(length))
        plain, fused = model(ids), network(ids, None)
        torch.testing.assert_close(fused, plain, **CLOSE)
        right, got = (torch.autograd.grad(y.square().sum(), parameters, allow_unused=True) for y in (plain, fused))
        for name, a, b in zip(dict(model.named_parameters()), got, right, strict=True):
            assert (a is None) == (b is None), name
            if a is not None and b is not None:
                scale = b.abs().max().clamp(min=1e-6)
                torch.testing.assert_close(a / scale, b / scale, **CLOSE)


def by_itself(*words: str) -> None:
    """This file as a program."""
    command = [sys.executable, "-m", "tests.training.test_compiled", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("variant", options("attention"))
def test_compiled_is_plain(variant: str) -> None:
    """In a process of its own, without the checks of shapes, which the compiler cannot see through."""
    probe = "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
        pytest.skip("there is no compiler")
    by_itself(variant)


def many() -> None:
    """Models of several shapes one after the other in one process, as a warm worker has them: graphs of each."""
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor], **options: Any) -> Callable[..., Any]:
        graphs[-1] += 1
        return graph.forward

    with mock.patch.object(torch, "compile", partial(torch.compile, backend=backend)):
        with torch._dynamo.config.patch(recompile_limit=1):  # 8 by default, which would take long to reach
            for variant in ("multi_head", "gqa", "multi_head"):
                graphs.append(0)
                model = build_model(compose_config([f"attention={variant}", *SIZES]), 64)
                assert compile_network(model, torch.zeros(2, 128, dtype=torch.long)) is not model
    assert graphs[0] > 0 and graphs[2] == graphs[0] and graphs[1] > 0, graphs


@pytest.mark.slow
def test_many_in_one_process() -> None:
    """A run is compiled however many others its process has compiled before."""
    by_itself()


Network = Callable[[Tensor, Tensor | None], Tensor]


def works_well(model: GPT) -> Network:
    """What a compiler gives."""
    return lambda ids, documents: model(ids, documents)


def refuses(model: GPT) -> Network:
    """What a compiler that is not there gives: it says so where the model is called."""

    def network(ids: Tensor, documents: Tensor | None) -> Tensor:
        torch.rand(3)  # whatever it draws before
        raise RuntimeError("no compiler\nand a page of advice")

    return network


@pytest.mark.parametrize("works", [True, False])
def test_tried_first(works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both passes are tried before there is a run; where they fail the model is its own, with one line on why."""
    compiler = works_well if works else refuses
    monkeypatch.setattr(torch, "compile", lambda model, dynamic, options: compiler(model))
    model = GPT(ModelConfig(n_layers=1, d_model=4, context=8), vocab_size=5, attention=partial(Sum, n_heads=2))
    before = torch.get_rng_state()
    network = compile_network(model, torch.zeros(2, 8, dtype=torch.long))
    assert torch.equal(torch.get_rng_state(), before) and all(p.grad is None for p in model.parameters())
    lines = capsys.readouterr().out.splitlines()
    if works:
        assert network is not model and len(lines) == 1
    else:
        assert network is model and lines[1].endswith("so it trains uncompiled (RuntimeError: no compiler)")


@pytest.mark.parametrize(
    ("steps", "plain", "faster", "compiles", "pays"),
    [
        (100, 0.1, 0.05, "no", False),  # so short that no compiler could pay
        (10_000, 0.1, 0.05, "yes", True),
        (10_000, 0.1, 0.11, "yes", False),
        (10_000, 0.1, 0.05, "cannot", False),
    ],
)
def test_pays(
    steps: int, plain: float, faster: float, compiles: str, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved over the run decides, and where not even the largest gain could pay nothing is compiled."""
    asked: list[GPT] = []

    def compile(model: GPT, ids: Tensor) -> object:
        asked.append(model)
        return model if compiles == "cannot" else object()

    monkeypatch.setattr(compile_trial, "compile_network", compile)
    monkeypatch.setattr(compile_trial, "_seconds", lambda network, model, *_: plain if network is model else faster)
    words = ("trainer.precision=fp32", "trainer.attention_backend=torch")
    config = compose_config([*SIZES, f"trainer.max_steps={steps}", *words])
    record = try_compiler(config, 64, "cpu")
    assert record["value"] is pays and record["seconds_plain"] == plain
    assert len(asked) == (compiles != "no")


def test_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is that of real steps; nothing is drawn, and no gradient is left."""
    model = build_model(compose_config([*SIZES]), 64)
    before = torch.get_rng_state()
    assert 0 < compile_trial._seconds(model, model, torch.zeros(2, 128, dtype=torch.long), bf16=True) < float("inf")
    assert torch.equal(torch.get_rng_state(), before) and all(p.grad is None for p in model.parameters())


def test_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run of an experiment chooses for all; a machine that cannot compile refuses what has begun compiled."""
    folder = ExperimentFolder(tmp_path)
    monkeypatch.setattr(compile_trial, "_no_compiler", lambda: None)
    assert [resolve_compile(s, lambda: {"value": True}, folder) for s in (False, True)] == [False, True]
    assert not folder.resolved.exists()
    assert resolve_compile("auto", lambda: {"value": True}, folder) is True
    assert resolve_compile("auto", lambda: {"value": False}, folder) is True
    monkeypatch.setattr(compile_trial, "_no_compiler", lambda: "RuntimeError: no g++")
    assert resolve_compile(False, lambda: {"value": True}, folder) is False
    with pytest.raises(UsageError, match=r"^trainer.compile \(auto\) came to true .* here \(RuntimeError: no g"):
        resolve_compile("auto", lambda: {"value": True}, folder)


if __name__ == "__main__":
    compare(sys.argv[1]) if sys.argv[1:] else many()
