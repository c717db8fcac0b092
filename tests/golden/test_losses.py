"""The first ten losses of two baselines, and of a model under each of its settings, so that a change that must not move
numbers can show that it did not.

In float64 and on made-up tokens, so that neither the machine's kernels nor the corpus are in the numbers. To write them
again after a change that is meant to move them: `python tests/golden/test_losses.py`.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config
from attnlab.config.run_config import RunConfig

FILE = Path(__file__).with_name("losses.json")
STEPS, VOCABULARY, BATCH, CONTEXT = 10, 64, 4, 24
VARIANTS = ("multi_head", "gated_delta")
SETTINGS: dict[str, dict[str, Any]] = {
    "norm_eps": {"norm_eps": 0.01},
    "norm_gain": {"norm_gain": False},
    "norm_unit_offset": {"norm": "rms", "norm_unit_offset": True},
    "norm_bias": {"norm_bias": True},
    "norm_place=post": {"norm_place": "post"},
    "norm_place=sandwich": {"norm_place": "sandwich"},
    "parallel": {"parallel": True},
    "norm_shared": {"parallel": True, "norm_shared": True},
    "residual_scale": {"residual_scale": 0.5},
    "mlp=gelu_tanh": {"mlp": "gelu_tanh", "bias": True},
    "mlp=relu": {"mlp": "relu"},
    "mlp=silu": {"mlp": "silu"},
    "mlp=xielu": {"mlp": "xielu"},
    "mlp=reglu": {"mlp": "reglu"},
    "mlp=geglu": {"mlp": "geglu"},
    "mlp=geglu_tanh": {"mlp": "geglu_tanh"},
    "mlp=none": {"mlp": "none"},
    "mlp_width": {"mlp_width": 40},
    "embed_scale": {"embed_scale": 8.0},
    "embed_norm": {"embed_norm": True},
    "head_bias": {"head_bias": True},
    "logit_scale": {"logit_scale": 4.0},
    "final_softcap": {"final_softcap": 0.5},
    "canon": {"canon": "acd"},
    "smear": {"smear": True},
    "residual=attention": {"residual": "attention"},
    "init=fan_in": {"init": "fan_in"},
    "init=torch": {"init": "torch"},
}


def losses(variant: str, **settings: Any) -> list[float]:
    """The training losses of the default model and optimizer, made small, over the first steps."""
    config = composed(variant)
    config = replace(config, model=replace(config.model, **settings))
    model = build_model(config, VOCABULARY).double()
    recipe = instantiate(config, "optimizer")
    optimizer = recipe.optimizer(model)
    raw = np.random.Philox(key=7).random_raw(BATCH * (CONTEXT + 1)) % np.uint64(VOCABULARY)
    ids = torch.from_numpy(raw.astype(np.int64)).reshape(BATCH, CONTEXT + 1)
    found = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.factor(step, 100)
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
        optimizer.step()
        found.append(loss.item())
    return found


@cache
def composed(variant: str) -> RunConfig:
    words = ["model.d_model=32", "model.n_layers=2", f"model.context={CONTEXT}", "model.dropout=0.0"]
    return compose_config([f"attention={variant}", *words])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_losses_are_what_they_were(variant: str) -> None:
    # 1e-9: sums in another order, on another processor, differ by 1e-14 at first and grow a little with each step.
    np.testing.assert_allclose(losses(variant), json.loads(FILE.read_text())[variant], rtol=1e-9)


@pytest.mark.parametrize("name", SETTINGS)
def test_setting(name: str) -> None:
    """A setting of the model trains as it did, and not as the model does without it."""
    recorded = json.loads(FILE.read_text())
    np.testing.assert_allclose(losses("multi_head", **SETTINGS[name]), recorded[f"model.{name}"], rtol=1e-9)
    assert np.abs(np.subtract(recorded[f"model.{name}"], recorded["multi_head"])).max() > 1e-6


if __name__ == "__main__":
    every = {variant: losses(variant) for variant in VARIANTS}
    every |= {f"model.{name}": losses("multi_head", **settings) for name, settings in SETTINGS.items()}
    FILE.write_text(json.dumps(every, indent=1) + "\n")
