"""Variants of equal budget: what was matched is counted again here, from built modules and by other means."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.launch import ROOT
from torch.utils.flop_counter import FlopCounterMode

from attnlab.attention.base import Shared
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.training.identity import identify
from attnlab.training.matching import TimingSite, describe_match, match_budget

SMALL = ("model.n_layers=2", "model.context=48")
FIXED = {"data.sha256": "d" * 64}


@cache
def composed(*words: str) -> RunConfig:
    return compose_config([*SMALL, *words])


def fitted(tmp_path: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return match_budget(composed(*words), TimingSite("cpu", "fp32", 1, tmp_path))


def build_to_measure(config: RunConfig, vocab_size: int = 11) -> GPT:
    return build_model(config, vocab_size)


@pytest.mark.parametrize("attention", ["mqa", "mla", "mamba2", "hybrid", "relu"])
@pytest.mark.parametrize("mlp", ["relu2", pytest.param("swiglu", marks=pytest.mark.slow)])
def test_match_parameters(tmp_path: Path, attention: str, mlp: str) -> None:
    """Matched parameters are those that the built models have."""
    words = (f"model.mlp={mlp}", "model.d_model=64")
    config, told = fitted(tmp_path, f"attention={attention}", "match=params", *words)
    ours = sum(p.numel() for p in build_to_measure(config).parameters())
    theirs = sum(p.numel() for p in build_to_measure(composed(*words)).parameters())
    assert told["left"] == ours - theirs
    assert abs(told["left_percent"]) <= 1
    assert told["mlp_width"] == build_to_measure(config).layers[0].mlp.down.in_features


def test_width_that_is_set(tmp_path: Path) -> None:
    """The setting that says how wide the MLP is, is the one that moves; without an MLP nothing can."""
    config, told = fitted(tmp_path, "attention=mqa", "match=params", "model.mlp_width=40", "model.mlp=geglu")
    assert list(told["moved"]) == ["model.mlp_width"] and abs(told["left_percent"]) <= 1
    assert config.model.mlp_width == told["mlp_width"] != 40
    with pytest.raises(UsageError, match=r"^match=params moves the width of the MLP, and model.mlp is none; choose"):
        fitted(tmp_path, "attention=mqa", "match=params", "model.mlp=none")
    assert fitted(tmp_path, "attention=mqa", "match=state", "model.mlp=none")[1]["mlp_width"] == 0


def test_no_other_width_comes_nearer(tmp_path: Path) -> None:
    config, told = fitted(tmp_path, "attention=mla", "match=params")
    for width in (told["mlp_width"] - 8, told["mlp_width"] + 8):
        other = replace(config, model=replace(config.model, mlp_ratio=width / config.model.d_model))
        count = sum(p.numel() for p in build_to_measure(other).blocks.parameters())
        assert abs(count - told["budget"]) >= abs(told["left"])


def flops_by_torch(model: GPT) -> int:
    """Forward and backward through the layers with real numbers, by torch's own counter."""
    x = torch.randn(1, 48, 128, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shared, y = Shared(), x
        for block in model.layers:
            y = block(y, shared)
        y.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("attention", ["linear", "mla", "talking_heads"])
def test_match_flops(tmp_path: Path, attention: str) -> None:
    """Matched FLOPs are those that torch counts in a real step."""
    config, told = fitted(tmp_path, f"attention={attention}", "match=flops")
    assert told["got"] == flops_by_torch(build_to_measure(config).train()) // 48
    assert told["budget"] == flops_by_torch(build_to_measure(composed()).train()) // 48
    assert abs(told["left_percent"]) <= 1


# Per layer and token, forward: 2 per multiply-add; T tokens, width d, hidden width w, heads h of size e.
FORMULAS = {
    "multi_head": lambda d, t, h, e, g: 8 * d * d + 4 * t * h * e,
    "gqa": lambda d, t, h, e, g: 4 * d * d + 4 * d * g * e + 4 * t * h * e,
    "mqa": lambda d, t, h, e, g: 4 * d * d + 4 * d * e + 4 * t * h * e,
    "identity": lambda d, t, h, e, g: 4 * d * d,
}


@pytest.mark.parametrize("attention", FORMULAS)
def test_training_flops(tmp_path: Path, attention: str) -> None:
    """Training FLOPs are three times the formula of the forward pass."""
    config, told = fitted(tmp_path, f"attention={attention}", "match=flops", f"match_to={attention}")
    d, t, w = 128, 48, 512
    forward = FORMULAS[attention](d, t, 4, 32, config.attention.get("n_kv_heads") or 4) + 4 * d * w
    assert told["got"] == 3 * 2 * forward


def test_convolution_counts_groups(tmp_path: Path) -> None:
    """A short convolution is counted by its groups."""
    plain, conv = (fitted(tmp_path, "match=flops", f"attention.conv={n}", "match_to=identity") for n in (0, 4))
    # q, k and v, 128 channels each with a filter of 4 of its own; the padding of 3 tokens is computed, too
    rows = 48 + 3
    per_layer = {2 * 4 * 128 * 3 * n * 3 / 48 for n in (48, rows)}
    width = (conv[1]["mlp_width"] - plain[1]["mlp_width"]) * 3 * 4 * 128
    extra = (conv[1]["got"] - plain[1]["got"]) / 2 - width
    assert min(per_layer) - 1 <= extra <= max(per_layer) + 1


@pytest.mark.parametrize("attention", ["linear", "mqa", "mla"])
def test_match_state(tmp_path: Path, attention: str) -> None:
    """Matched states are those that decoding token by token holds."""
    config, told = fitted(tmp_path, f"attention={attention}", "match=state")
    model = build_to_measure(config).eval()
    state = model.init_state(1, 48)
    with torch.no_grad():
        for token in range(48):
            _, state = model.step(torch.tensor([[token % 11]]), state)
    leaves = torch.utils._pytree.tree_leaves(state.layers)
    held = sum(x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor))
    assert held == told["got"]
    assert told["budget"] == 2 * 2 * 48 * 128 * 4  # layers, keys and values, tokens, width, bytes
    assert abs(told["left_percent"]) <= 1
    assert told["moved"]
    assert all("model.mlp" not in key for key in told["moved"])


def test_what_cannot_be_met_is_refused_in_one_line(tmp_path: Path) -> None:
    for words, message in (
        (("attention=rwkv7", "match=params", "model.mlp_ratio=0.1"), "even with an MLP 8 wide"),
        (("attention=identity", "match=state"), "keeps nothing while decoding"),
        (("attention=simple", "match=state"), "neither head_dim nor kv_rank"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            fitted(tmp_path, *words)
        assert "\n" not in str(caught.value)
    for words, message in (
        (("match=parameters",), r"match \(parameters\) must be null or params \| flops"),
        (("match=params", "match_to=multihead"), r"match_to \(multihead\) is no attention; did you mean 'multi_head'"),
    ):
        with pytest.raises(UsageError, match=message):
            compose_config(words)


def test_baseline_unchanged(tmp_path: Path) -> None:
    """Words of the variant do not change the baseline."""
    plain = fitted(tmp_path, "attention=linear", "match=params")[1]
    words = ("attention=linear", "attention/output_norm=rms", "attention.chunk=16", "match=params")
    assert fitted(tmp_path, *words)[1]["budget"] == plain["budget"]
    assert fitted(tmp_path, *words, "model.d_model=64")[1]["budget"] < plain["budget"]


def test_match_twice(tmp_path: Path) -> None:
    """Matching again what was matched changes nothing."""
    for mode in ("params", "flops", "state"):
        config, told = fitted(tmp_path, "attention=mqa", f"match={mode}")
        again, retold = match_budget(config, TimingSite("cpu", "fp32", 1, tmp_path))
        assert again == config and retold["got"] == told["got"] and retold["budget"] == told["budget"]


def test_mode_in_identity() -> None:
    """A mode is another configuration and none is the old one."""

    def name(*words: str) -> str:
        return identify(compose_config(words), "multi_head", FIXED, "c0de").hash8

    modes = [name(), *(name(f"match={mode}") for mode in ("params", "flops", "state", "tokens", "time"))]
    assert len(set(modes)) == len(modes)
    assert name("match=params", "match_to=gqa") != name("match=params")
    assert name("match_to=gqa") == name(), "with match=null nothing is matched, whatever match_to says"
    old = compose_config()
    without = {key: value for key, value in old.as_dict().items() if key not in ("match", "match_to", "tuned")}
    assert identify(RunConfig.of(without), "multi_head", FIXED, "c0de").hash8 == name()


def test_tokens_moves_nothing_and_names_itself(tmp_path: Path) -> None:
    config, told = fitted(tmp_path, "attention=mqa", "match=tokens")
    assert config.model.mlp_ratio == 4 and told["moved"] == {}
    assert told["got"] == told["budget"] == 16 * 48 * 600
    assert "match=tokens to multi_head: nothing had to move" in describe_match(told)


@pytest.mark.slow
def test_a_measured_width_is_measured_once(tmp_path: Path) -> None:
    words = ("attention=identity", "match=time", "model.d_model=32", "batch_size=2")
    first, told = fitted(tmp_path, *words)
    assert told["mlp_width"] > 128 and told["mlp_width"] % 8 == 0
    assert fitted(tmp_path, *words) == (first, told), "another seed would get another model"


@pytest.mark.slow
def test_match_is_reported(tmp_path: Path) -> None:
    """A run says what was matched before it trains and in its summary."""
    words = ["attention=mqa", "match=params", "data=file", "tokenizer=byte", "model.n_layers=1", "model.d_model=32"]
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question. " * 200)
    words += [f"data.path={text}", "trainer.max_steps=2", "sample.tokens=2", f"paths.runs={tmp_path / 'runs'}"]
    words += [f"paths.cache={tmp_path / 'cache'}", "model.context=32", "trainer.threads=1", "sample.steps=0"]
    done = subprocess.run([sys.executable, ROOT / "train.py", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"match=params to multi_head: model.mlp_ratio 4 -> 4.\d+ \(MLP \d+ wide\)", done.stdout)
    assert done.stdout.index("match=params") < done.stdout.index("val/loss")
    (summary,) = (tmp_path / "runs").glob("*/*/*/summary.json")
    assert '"mode": "params"' in summary.read_text()
