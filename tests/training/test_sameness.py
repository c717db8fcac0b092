"""Variants that are the baseline at the sizes given are named before they train, and no others."""

from pathlib import Path

import pytest
import torch
from tests.training.launch import run_here
from torch import Tensor

from attnlab.attention.heads import Heads
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.training.sameness import computes_the_same, plain

LONG = ("model.context=128",)  # beyond each window, chunk and number of chosen keys
BEYOND = {
    **dict.fromkeys(("sliding_window", "chunked", "window_sinks", "hybrid", "llama4", "moba", "dsa"), LONG),
    **dict.fromkeys(("gqa", "smollm3"), ("model.n_heads=4",)),
}
OTHERS = (
    *("attention/score=[scaled,softcap]", "attention.score.scaled.temperature=1.01", "attention/normalizer=softmax1"),
    *("attention.dropout=0.1", "attention.n_kv_heads=1", "attention.head_dim=16", "attention.qkv_bias=true"),
    *("attention=frozen_qk", "attention=ssmax", "attention=gated", "attention=value_residual", "attention=linear"),
)


class Detached(MultiHeadAttention):
    """Multi-head attention whose keys teach nothing to what is below."""

    def project(self, x: Tensor, start: int = 0, tail: Tensor | None = None) -> Heads:
        heads = super().project(x, start, tail)
        return heads._replace(k=heads.k.detach())


class Noisy(MultiHeadAttention):
    """Multi-head attention that draws noise while it trains."""

    def merge(self, o: Tensor, heads: Heads) -> Tensor:
        return super().merge(o + self.training * torch.randn_like(o), heads)


def config(*words: str) -> RunConfig:
    return compose_config(["model=tiny", *words])


def is_plain(*words: str) -> bool:
    composed = config(*words)
    return computes_the_same(composed, plain(composed))


@pytest.mark.parametrize("variant", BEYOND)
def test_same_at_tiny_only(variant: str) -> None:
    """A window that is longer than the context is none, and two key heads for two heads are one each."""
    assert is_plain(f"attention={variant}")
    assert not is_plain(f"attention={variant}", *BEYOND[variant])


@pytest.mark.parametrize("word", OTHERS)
def test_other(word: str) -> None:
    """What computes something else is not named, be its parameters alike, or start where they change nothing."""
    assert not is_plain(word)


@pytest.mark.parametrize("name", ["Detached", "Noisy"])
def test_other_while_it_learns(name: str) -> None:
    """What gives the same outputs but learns otherwise is not the same."""
    assert not is_plain("allow_targets=[tests]", f"attention._target_=tests.training.test_sameness.{name}")


def test_positions_count() -> None:
    """The layers of SmolLM3 without positions are those of the baseline only where nobody has positions in them."""
    assert not is_plain("attention=smollm3", "model.n_layers=4")
    assert is_plain("attention=smollm3", "model.n_layers=4", "position=learned")


def test_too_large_is_not_tried() -> None:
    """A comparison that would be felt is left out."""
    assert not is_plain("attention=gqa", "model.context=8192")


def test_draws_from_no_stream() -> None:
    """The comparison leaves the state of torch's generator as it was."""
    state = torch.get_rng_state()
    assert is_plain("attention=gqa")
    assert torch.equal(torch.get_rng_state(), state)


def test_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line before the first step, and a fact of the summary; nothing of the baseline itself."""
    summary = run_here(tmp_path, "trainer.max_steps=1", variant="gqa")
    told = capsys.readouterr().out
    line = "gqa computes what multi_head does at these sizes (model.n_layers 2, model.n_heads 2, model.context 32)"
    assert told.count(line) == 1 and told.index(line) < told.index("baseline loss")
    assert summary["computes"] == "multi_head"
    run_here(tmp_path, "trainer.max_steps=1")
    assert "computes what" not in capsys.readouterr().out
