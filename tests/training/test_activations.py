"""Blocks that are computed again on the way back give the same numbers, and keep less."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.laws.cases import NAMES
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnlab import model as model_module
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.training.resources import saved_bytes

QUICK = ("multi_head", "cross_layer", "value_residual")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def trained(name: str, *, again: bool) -> tuple[list[Tensor], int]:
    """Loss, gradients and the next random number after one training step with dropout; bytes kept for going back."""
    words = [f"attention={name}", "model=tiny", "model.n_layers=3", "model.dropout=0.2", "trainer.attention_dtype=fp32"]
    config = compose_config([*words, "trainer.precision=fp32", f"trainer.checkpoint_activations={str(again).lower()}"])
    model = build_model(config, 50).train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ids = torch.randint(50, (2, config.model.context))
        with saved_bytes(list(model.parameters())) as count:
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [loss.detach(), *gradients, torch.rand(1)], count()


def agree(name: str) -> bool:
    (plain, _), (again, _) = (trained(name, again=again) for again in (False, True))
    return len(plain) == len(again) and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("name", EACH)
def test_same_to_the_last_bit(name: str) -> None:
    """Also where layers read what earlier ones published, and with dropout, which is drawn alike both times."""
    assert agree(name)


def test_other_dropout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random streams that are not put back for the second pass give other gradients."""
    monkeypatch.setattr(model_module, "checkpoint", partial(checkpoint, preserve_rng_state=False))
    assert not agree("multi_head")


def test_less_is_kept() -> None:
    """Of each block, what went in: less than half of all."""
    kept, less = (trained("gated_delta", again=again)[1] for again in (False, True))
    assert less < kept / 2
