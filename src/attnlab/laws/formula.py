"""The law that a variant computes what its author says it does: the only one that sees a fault all its code shares."""

import torch
from torch import nn

from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import BATCH, SAME, LawBroken, Skipped, Subject, gap, tokens


@torch.no_grad()
def stated_formula(subject: Subject) -> Skipped | None:
    """Where a class has a method formula(x), plainly written by its author, forward gives the same in float64.

    It takes tokens (b, t, c) and gives outputs (b, t, o), by the layer's parameters but without its code: loops over
    tokens, say. Training, map and decoding are one code, so a wrong number in it keeps every other law.
    """
    judged = False
    for placed in layers_in_stack(subject):
        formula = getattr(placed.layer, "formula", None)
        if formula is None or isinstance(formula, nn.Module):
            continue
        judged = True
        for length in placed.lengths():
            x = tokens(BATCH, length)
            stated, computed = formula(x), placed(x)
            if stated.shape != computed.shape:
                raise LawBroken(f"{placed.label}T={length}: formula gives {tuple(stated.shape)}, not {computed.shape}")
            if (miss := gap(computed, stated)) > SAME:
                raise LawBroken(
                    f"{placed.label}T={length}: forward differs from formula by {miss:.1e} (allowed {SAME})"
                )
    return None if judged else Skipped("no method formula(x): with one, a fault that all its code shares is seen")
