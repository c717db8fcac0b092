"""The law that a kernel of others computes a layer's own rule."""

import copy

import torch

from attnlab.attention.base import HeadedAttention
from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import BATCH, SAME, LawBroken, Skipped, Subject, gap, tokens


@torch.no_grad()
def backend_equals_mix(subject: Subject) -> Skipped | None:
    """Where FlexAttention can serve, it gives what the layer's own code gives; on a CPU it has a forward pass alone."""
    from attnlab.attention.flex import FlexMix, flex_refusal

    served = 0
    for placed in layers_in_stack(subject):
        twin = copy.deepcopy(placed)
        layers = [module for module in twin.layer.modules() if isinstance(module, HeadedAttention)]
        able = [layer for layer in layers if flex_refusal(layer) is None]
        for layer in able:
            layer.kernel = FlexMix()
        served += len(able)
        for t in (3, placed.lengths()[-1]) if able else ():
            x = tokens(BATCH, t)
            if (off := gap(twin(x), placed(x))) > SAME:
                raise LawBroken(
                    f"{placed.label}T={t}: forward by FlexAttention differs from the rule by {off:.1e} "
                    f"(allowed {SAME:.0e})"
                )
    return None if served else Skipped("FlexAttention cannot serve this variant")
