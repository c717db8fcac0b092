"""Every variant under torch.compile: the same numbers at two lengths, whatever the compiler may leave out."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.attention.plain_layers import Sum
from torch import Tensor

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.keys import options
from attnlab.model import GPT
from attnlab.options.model_config import ModelConfig
from attnlab.training.compiled import compile_network

SIZES = ("model.n_layers=1", "model.n_heads=2", "model.d_model=16", "model.context=128", "model.dropout=0.0")
CLOSE = {"rtol": 1e-3, "atol": 1e-5}  # of float32: fused kernels add in another order


def compare(variant: str) -> None:
    """First 67 tokens, then 33: a length that was not compiled for."""
    model = build_model(compose_config([f"attention={variant}", *SIZES]), 64).eval()
    network, parameters = torch.compile(model), list(model.parameters())
    for length in (67, 33):
        ids = torch.randint(64, (2, length), generator=torch.Generator().manual_seed(length))
        plain, compiled = model(ids), network(ids)
        torch.testing.assert_close(compiled, plain, **CLOSE)
        wanted, got = (torch.autograd.grad(y.square().sum(), parameters, allow_unused=True) for y in (plain, compiled))
        for name, a, b in zip(dict(model.named_parameters()), got, wanted, strict=True):
            assert (a is None) == (b is None), name
            if a is not None and b is not None:
                scale = b.abs().max().clamp(min=1e-6)
                torch.testing.assert_close(a / scale, b / scale, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("variant", options("attention"))
def test_compiled_is_plain(variant: str) -> None:
    """In a process of its own, without the checks of shapes, which the compiler cannot see through."""
    probe = "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"
    if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode:
        pytest.skip("there is no compiler")
    done = subprocess.run([sys.executable, __file__, variant], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def refuses(model: GPT) -> Callable[[Tensor], Tensor]:
    """What a compiler that is not there gives: it says so where the model is called."""

    def network(ids: Tensor) -> Tensor:
        torch.rand(3)  # whatever it draws before
        raise RuntimeError("no compiler\nand a page of advice")

    return network


@pytest.mark.parametrize("works", [True, False])
def test_tried_first(works: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both passes are tried before there is a run; where they fail the model is its own, with one line on why."""
    compiled = torch.nn.Sequential if works else refuses
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: compiled(model))
    model = GPT(ModelConfig(n_layers=1, d_model=4, context=8), vocab_size=5, attention=partial(Sum, n_heads=2))
    before = torch.get_rng_state()
    network = compile_network(model, torch.zeros(2, 8, dtype=torch.long))
    assert torch.equal(torch.get_rng_state(), before) and all(p.grad is None for p in model.parameters())
    lines = capsys.readouterr().out.splitlines()
    if works:
        assert isinstance(network, torch.nn.Sequential) and len(lines) == 1
    else:
        assert network is model and lines[1].endswith("so it trains uncompiled (RuntimeError: no compiler)")


if __name__ == "__main__":
    compare(sys.argv[1])
