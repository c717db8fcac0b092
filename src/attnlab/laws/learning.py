"""The law that a variant can learn: a tiny recall task that no model solves without moving information."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.laws.layer_in_stack import stack_depth
from attnlab.laws.subject import LawBroken, Subject, seeded
from attnlab.model import generator_for

KEYS, VALUES, PAIRS, ASKED = 5, 5, 3, 2
BATCH, STEPS, SOLVED = 32, 1000, 0.95  # every variant of ours needs at most 525, most of them 50


def recall_batch(step: int, batch: int) -> tuple[Tensor, Tensor]:
    """Fresh sequences and, where a value is asked for, what it is (-100 elsewhere).

    A token that says "key 3 has value 1" is one id; three of those with different keys come first, then two of the
    keys alone, and the model must say their values:

        3:1  0:4  2:2 | 0? 3?   ->   4 1

    Values are drawn anew for each sequence, so a model that sees the asking token alone is right in 1 of 5 cases.
    """
    draw = generator_for(step, "recall")
    keys = torch.rand(batch, KEYS, generator=draw).argsort(dim=1)[:, :PAIRS]
    values = torch.randint(VALUES, (batch, PAIRS), generator=draw)
    asked = torch.randint(PAIRS, (batch, ASKED), generator=draw)
    inputs = torch.cat([keys * VALUES + values, KEYS * VALUES + keys.gather(1, asked)], dim=1)
    targets = torch.cat([torch.full_like(keys, -100), values.gather(1, asked)], dim=1)
    return inputs, targets


def learns(subject: Subject) -> None:
    """A small GPT with this variant solves a recall task in 1000 steps, unless the variant says that it cannot."""
    sizes: dict[str, Any] = {"d_model": 32, "norm": "rms", "mlp": "gelu", "mlp_ratio": 2.0}
    model = subject.gpt(stack_depth(subject), vocab_size=KEYS * VALUES + KEYS, init="fan_in", tie=False, **sizes)
    claims = any(block.attention.traits.can_recall for block in model.layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    right, step = 0.0, 0
    with seeded(0):
        for step in range(1, STEPS + 1):
            inputs, targets = recall_batch(step, BATCH)
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 25 == 0 and (right := _share_right(model)) >= SOLVED:
                break
    if claims and right < SOLVED:
        raise LawBroken(
            f"recall of {PAIRS} pairs: {right:.0%} right after {step} steps, loss {loss.item():.2f} "
            f"(needed {SOLVED:.0%}; guessing gives {1 / VALUES:.0%}); a control says can_recall = False"
        )
    if not claims and right >= SOLVED:
        raise LawBroken(f"can_recall is False, but {right:.0%} are right after {step} steps")


@torch.no_grad()
def _share_right(model: torch.nn.Module) -> float:
    inputs, targets = recall_batch(0, 256)
    model.eval()
    asked = targets != -100
    right = (model(inputs).argmax(dim=-1) == targets)[asked].double().mean()
    model.train()
    return float(right)
