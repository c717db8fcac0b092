"""The first ten losses of two baselines, so that a change that must not move numbers can show that it did not.

In float64 and on made-up tokens, so that neither the machine's kernels nor the corpus are in the numbers. To write them
again after a change that is meant to move them: `python tests/golden/test_losses.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnlab.build import build_model, instantiate
from attnlab.config.compose import compose_config

FILE = Path(__file__).with_name("losses.json")
STEPS, VOCABULARY, BATCH, CONTEXT = 10, 64, 4, 24
VARIANTS = ("multi_head", "gated_delta")


def losses(variant: str) -> list[float]:
    """The training losses of the default model and optimizer, made small, over the first steps."""
    words = ["model.d_model=32", "model.n_layers=2", f"model.context={CONTEXT}", "model.dropout=0.0"]
    config = compose_config([f"attention={variant}", *words])
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_losses_are_what_they_were(variant: str) -> None:
    # 1e-9: sums in another order, on another processor, differ by 1e-14 at first and grow a little with each step.
    np.testing.assert_allclose(losses(variant), json.loads(FILE.read_text())[variant], rtol=1e-9)


if __name__ == "__main__":
    FILE.write_text(json.dumps({variant: losses(variant) for variant in VARIANTS}, indent=1) + "\n")
