"""The maps of a text in the shape that BertViz and CircuitsVis take, for those who know these views.

    from attnlab.inspection.export import for_bertviz, for_circuitsvis
    from attnlab.runs import maps_of

    maps = maps_of("runs/default/multi_head-1a2b3c4d/seed_0", "Nobody opens the box.")
    bertviz.head_view(**for_bertviz(maps))  # or model_view
    circuitsvis.attention.attention_heads(**for_circuitsvis(maps, layer=0))

Both packages write tokens into a script as they are, where the text `</script>` would end it: `<` becomes `‹`.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.errors import UsageError
from attnlab.inspection.prompt_maps import PromptMaps

ANGLE = "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"  # looks like <, and is no markup


def for_bertviz(maps: PromptMaps) -> dict[str, Any]:
    """The arguments of bertviz.head_view and bertviz.model_view: `attention` and `tokens`.

    `attention` is a list with a tensor (1, heads, queries, keys) per layer, as BertViz wants them. It numbers layers
    and heads by their places in these, from 0 on. It can neither show layers with different numbers of heads nor
    weights below 0, which it would draw as nothing: both are refused.
    """
    counts = {len(layer.heads) for layer in maps.layers}
    if len(counts) > 1:
        raise UsageError(
            f"layers have {' or '.join(map(str, sorted(counts)))} heads, but BertViz needs the same number in each; "
            "choose some with layers=[...] or heads=[...]"
        )
    if maps.keys is not None:
        raise UsageError("these maps read other tokens than their own, which for_bertviz does not hand on")
    signed = [layer.layer for layer in maps.layers if layer.kind == "signed"]
    if signed:
        raise UsageError(
            f"layer {signed[0]} has weights below 0, which BertViz cannot draw; CircuitsVis and attnlab maps can"
        )
    attention: list[Float[Tensor, "1 h t s"]] = [torch.from_numpy(layer.weights.copy())[None] for layer in maps.layers]
    return {"attention": attention, "tokens": _harmless(maps.tokens)}


def for_circuitsvis(maps: PromptMaps, layer: int) -> dict[str, Any]:
    """The arguments of circuitsvis.attention.attention_heads for one layer, by its number in the model.

    The colours reach from -top to top, where top is 1 or the largest weight beyond it; weights below 0 get the other
    colour. Heads keep their numbers in the model.
    """
    layer_map = next((one for one in maps.layers if one.layer == layer), None)
    if layer_map is None:
        has = ", ".join(str(one.layer) for one in maps.layers)
        raise UsageError(f"layer ({layer}) is not among the layers of these maps ({has})")
    if maps.keys is not None:
        raise UsageError("these maps read other tokens than their own, which CircuitsVis cannot draw")
    top = max(1.0, float(np.abs(np.nan_to_num(layer_map.weights)).max()))
    return {
        "attention": layer_map.weights.copy(),
        "tokens": _harmless(maps.tokens),
        "attention_head_names": [f"L{layer:02d}H{head:02d}" for head in layer_map.heads],
        "max_value": top,
        "min_value": -top,
        "mask_upper_tri": maps.causal and not np.triu(layer_map.weights, 1).any(),
    }


def _harmless(tokens: list[str]) -> list[str]:
    return [token.replace("<", ANGLE).encode("utf-8", errors="replace").decode() for token in tokens]
