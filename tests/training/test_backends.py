"""Which code computes the attention of a run: chosen once, stored, and refused by name where it cannot be."""

from pathlib import Path

import pytest
import torch
import yaml
from tests.training.launch import folder_of, run_here
from tests.training.test_hardware import machine

from attnlab.attention import backends
from attnlab.attention.backends import best_backends, missing, use_backends
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.config.keys import settings_of
from attnlab.config.run_config import RunConfig
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training import prepare

WORDS = ("trainer.max_steps=1", "model.n_layers=1")


def model_of(*words: str) -> GPT:
    with torch.device("meta"):
        return build_model(compose_config(["model.n_layers=2", "model.dropout=0.0", *words]), 7)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ("attention=multi_head", "torch torch"),
        ("attention=multi_head position=alibi", "flex flex"),
        ("attention=sliding_window", "flex flex"),
        ("attention=sliding_window attention.dropout=0.1", "torch torch"),
        ("attention=sliding_window attention.head_dim=8", "torch torch"),
        ("attention=sigmoid", "torch torch"),
        ("attention=gated_delta", "fla fla"),
        ("attention=ttt", "torch torch"),
        ("attention=based model.d_model=256", "torch torch"),  # 1 + 64 + 64^2 features
    ],
)
def test_first_that_can(words: str, chosen: str) -> None:
    """Each layer by the first that can; what torch's own kernel computes as it is stays with it."""
    model = model_of(*words.split())
    assert use_backends(model, "flex+fla+torch", "bf16") == chosen.split()
    assert use_backends(model, "torch", "bf16") == ["torch"] * 2
    assert all(block.attention.kernel is None for block in model.layers)


def test_cost_is_that_of_the_rule() -> None:
    """Counted on a device that no kernel knows."""
    model = model_of("attention=sliding_window")
    cost = model.cost(64)
    use_backends(model, "flex", "bf16")
    assert model.cost(64) == cost


@pytest.mark.parametrize(
    ("words", "setting", "reason"),
    [
        ("attention=linear", "flex", r"\(RecurrentAttention\): it has no softmax over scores; use auto or torch"),
        ("attention=multi_head attention.dropout=0.1", "flex", r"attention.dropout \(0.1\) drops weights"),
        ("attention=multi_head", "fla", "no recurrence that has a kernel"),
        ("attention=sigmoid", "flex", r"attention/normalizer \(Sigmoid\) is no softmax"),
    ],
)
def test_refused_by_name(words: str, setting: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"^trainer.attention_backend \({setting}\) cannot serve layer 0 .*{reason}"):
        use_backends(model_of(*words.split()), setting, "bf16")


def test_kernels_are_no_float32() -> None:
    with pytest.raises(UsageError, match="multiply in 16 bits, and trainer"):
        use_backends(model_of("attention=gla"), "fla", "fp32")


def test_best(monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto comes to, by device and by what is installed; what a machine lacks is said."""
    assert best_backends("cpu") == best_backends("mps") == "torch"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert best_backends("cuda") == "flex+torch" and "pip install 'attnlab[gpu]'" in missing("fla", "cuda")
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    assert best_backends("cuda") == "flex+fla+torch" and missing("flex+fla+torch", "cuda") == ""
    assert "no backward pass on a CPU" in missing("flex+torch", "cpu") and "CUDA" in missing("fla", "cpu")


@pytest.mark.parametrize("setting", ["flex", pytest.param("flex+fla+torch", marks=pytest.mark.slow)])
def test_refused_on_a_cpu(setting: str, tmp_path: Path) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=r"^trainer.attention_backend \(.*\): .*; use auto or torch$"):
        run_here(tmp_path, *WORDS, f"trainer.attention_backend={setting}")
    assert not list(tmp_path.glob("runs/*/*/seed_0"))


def test_chosen_elsewhere(tmp_path: Path) -> None:
    """An experiment whose first run had a GPU's kernels is not continued without one."""
    folder = ExperimentFolder(tmp_path / "runs" / "default")
    folder.resolve_once("trainer.attention_backend", lambda: {"value": "flex+torch"})
    with pytest.raises(UsageError, match=r"trainer.attention_backend \(auto\) came to flex\+torch for all runs of"):
        run_here(tmp_path, *WORDS)


def test_stored(tmp_path: Path) -> None:
    """The run's config holds what auto came to, and a run by that name is the same run."""
    first = run_here(tmp_path, *WORDS)
    stored = yaml.safe_load((folder_of(tmp_path) / "config.yaml").read_text())
    assert stored["trainer"]["attention_backend"] == "torch"
    assert run_here(tmp_path, *WORDS, "trainer.attention_backend=torch")["started"] == first["started"]


def test_identity() -> None:
    """At torch, and where it is not settled, a run is called what it was called before; kernels make another one."""
    keys = [
        {k: v for k, v in settings_of(config_with(backend).as_dict(), besides=()).items() if "backend" in k}
        for backend in ("auto", "torch", "flex+torch")
    ]
    assert keys == [{}, {}, {"trainer.attention_backend": "flex+torch"}]
    assert prepare.BACKEND_KEY in keys[-1]


def config_with(backend: str) -> RunConfig:
    return compose_config([f"trainer.attention_backend={backend}"])


@pytest.mark.slow
def test_kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An auto that nothing can serve is torch, layer by layer: nothing is refused where a GPU is there."""
    machine(monkeypatch, cuda=1)
    for name in ("multi_head", "gated_delta", "hybrid", "head_mix", "ttt"):
        assert len(use_backends(model_of(f"attention={name}"), best_backends("cuda"), "bf16")) >= 2
