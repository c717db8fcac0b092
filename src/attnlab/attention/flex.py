"""Softmax attention through torch's FlexAttention: masks, biases and modifiers of single scores in one kernel.

Source: arXiv 2412.05496. On a GPU the kernel is compiled for each layer's rule and skips blocks of keys that nobody
may read; on a CPU it has no backward pass, and is written out only to hold it to the rule.
"""

import warnings
from collections.abc import Callable, Hashable
from functools import reduce
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from attnlab.attention.base import HeadedAttention
from attnlab.attention.documents import Documents
from attnlab.attention.heads import Heads
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.masked import MaskedAttention
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.precision import full_precision
from attnlab.attention.score_context import KeyRows
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.attention.uncompiled import uncompiled

NARROWEST = 16  # numbers of a query, key or value that its kernel on a GPU multiplies at once


class KeyBlocks(NamedTuple):
    """The blocks of a map that hold visible keys, and how many keys each query sees."""

    blocks: Any
    counts: Int[Tensor, "#b t"]


_compiled: list[Callable[..., Any]] = []


def flex_refusal(layer: HeadedAttention) -> str | None:
    """Why FlexAttention cannot compute what a layer mixes; None if it can."""
    if not isinstance(layer, SoftmaxAttention):
        return "it has no softmax over scores"
    kind = type(layer)
    inherited = (
        (kind.mix, MaskedAttention.mix),
        (kind.explicit_weights, SoftmaxAttention.explicit_weights),
        (kind.scores, SoftmaxAttention.scores),
        (kind.content_mask, SoftmaxAttention.content_mask),
        (kind.visible, MaskedAttention.visible),
    )
    if not layer.fusable or any(own is not usual for own, usual in inherited):
        return "its rule is more than a softmax of masked scores"
    if not layer.normalizer.fusable and type(layer.normalizer).phantom is Normalizer.phantom:
        return f"attention/normalizer ({type(layer.normalizer).__name__}) is no softmax"
    if "bias" in layer.position.hooks and not layer.position.of_distance:
        return f"position.inside ({type(layer.position).__name__}) adds biases that depend on more than the distance"
    for mod in layer.score_mods:
        if not (mod.fusable or mod.by_score):
            return f"attention/score ({type(mod).__name__}) needs the scores themselves"
    return None


def is_plain(layer: HeadedAttention) -> bool:
    """Whether torch's fused kernel computes a layer as it is, without a mask that is written out."""
    return isinstance(layer, SoftmaxAttention) and (
        layer.fused and type(layer.mask) is Causal and "bias" not in layer.position.hooks
    )


class FlexMix:
    """`mix` of softmax layers by FlexAttention. What depends on mask and length alone is made once and kept, and what
    depends on the documents of a pass once for all layers."""

    def __init__(self) -> None:
        self.of_lengths: dict[Hashable, KeyBlocks] = {}
        self.of_documents: WeakKeyDictionary[Documents, dict[Hashable, KeyBlocks]] = WeakKeyDictionary()

    def __deepcopy__(self, memo: Any) -> "FlexMix":
        return FlexMix()

    @uncompiled  # it compiles what it needs itself
    def __call__(
        self, layer: SoftmaxAttention, heads: Heads, documents: Documents | None = None
    ) -> Float[Tensor, "b h t v"]:
        q, k, v = (x.to(heads.v.dtype) for x in heads[:3])
        keys = self.key_blocks(layer.mask, q.size(2), q.device, documents)
        with full_precision(q.device):
            o, aux = kernel(q.device)(
                q,
                k,
                v,
                score_mod=score_mod(layer, heads, keys.counts.expand(q.size(0), -1)),
                block_mask=keys.blocks,
                scale=layer.scale,
                enable_gqa=layer.n_heads != layer.n_kv_heads,
                return_aux=flex.AuxRequest(lse=True),
            )
        phantom = layer.normalizer.phantom(aux.lse)
        if phantom is not None:  # one more key, of which the kernel knows nothing, takes its share of the weight
            o = o * (aux.lse - phantom[:, None]).sigmoid()[..., None]
        return o.to(heads.v.dtype)

    def key_blocks(self, mask: Mask, t: int, device: torch.device, documents: Documents | None) -> KeyBlocks:
        """What queries see under a mask, of whole rows or of their own documents."""
        options = {name: value for name, value in vars(mask).items() if isinstance(value, int | float | str | None)}
        rule = (type(mask), *options.items())
        if documents is not None:
            by_rule = self.of_documents.setdefault(documents, {})
            if rule not in by_rule:
                by_rule[rule] = blocks_of_documents(mask, documents, device)
            return by_rule[rule]
        if (rule, t, device) not in self.of_lengths:
            same = {key: each for key, each in self.of_lengths.items() if key[1:] == (t, device)}  # type: ignore[index]
            with torch.inference_mode(False):  # what is kept must serve training, too
                self.of_lengths = same | {(rule, t, device): blocks_of_rows(mask, t, device)}
        return self.of_lengths[rule, t, device]


def blocks_of_rows(mask: Mask, t: int, device: torch.device) -> KeyBlocks:
    """What queries see of rows of t tokens."""
    blocks = flex.create_block_mask(
        lambda b, h, i, j: mask.visible(i[None], j[None])[0, 0],
        None,
        None,
        t,
        t,
        device=device,
        _compile=device.type == "cuda",  # else it would write the whole map out
    )
    pos = torch.arange(t, device=device)
    return KeyBlocks(blocks, torch.cat([mask.visible(rows, pos).sum(dim=-1) for rows in pos.split(1024)])[None])


def blocks_of_documents(mask: Mask, documents: Documents, device: torch.device) -> KeyBlocks:
    """What queries see of their own document, whose positions count from its first token."""
    ids, pos = documents.ids.to(device), documents.positions.to(device)
    (b, t), rows = ids.shape, torch.arange(ids.size(1), device=device)
    blocks = flex.create_block_mask(
        lambda b, h, i, j: (ids[b, i] == ids[b, j]) & mask.visible(pos[b, i][None], pos[b, j][None])[0, 0],
        b,
        None,
        t,
        t,
        device=device,
        _compile=device.type == "cuda",
    )
    return KeyBlocks(blocks, torch.cat([mask.visible(some, rows).sum(dim=-1) for some in rows.split(1024)])[pos])


def score_mod(layer: SoftmaxAttention, heads: Heads, visible: Int[Tensor, "b t"]) -> Callable[..., Tensor]:
    """What becomes of one score, given the numbers of its row, head, query and key."""
    carried, asked = layer.carried(heads), layer.asked(heads)
    mods = [mod for mod in layer.score_mods if mod.by_score]
    rules = [mod.one_score(KeyRows(carried.get(mod), visible, asked.get(mod))) for mod in mods]
    if "bias" in layer.position.hooks:
        pos = torch.arange(heads.q.size(2), device=heads.q.device)
        bias = layer.position.bias(pos, pos[:1])
        assert bias is not None
        biases = bias[..., 0]
        rules.append(lambda score, b, h, i, j: score + biases[h, (i - j).clamp(min=0)])
    return lambda score, b, h, i, j: reduce(lambda changed, rule: rule(changed, b, h, i, j), rules, score)


def kernel(device: torch.device) -> Callable[..., Any]:
    """FlexAttention, compiled where that makes it a kernel; on a CPU written out, forward only."""
    if device.type == "cpu":
        return _written_out
    if not _compiled:
        _compiled.append(torch.compile(flex.flex_attention, dynamic=False))
    return _compiled[0]


def _written_out(*args: Any, **settings: Any) -> Any:
    was = flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return flex.flex_attention(*args, **settings)
    finally:
        flex._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = was
