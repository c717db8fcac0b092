"""Recurrent layers through the kernels of flash-linear-attention (extra `gpu`), which run on a GPU alone.

Each kernel takes (batch, token, head, width), log decays, a scale that is 1 here, and 16-bit queries, keys and values.
No machine of ours has run them: tests hold what they are given to what their documentation says of it.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.base import HeadedAttention
from attnlab.attention.documents import Documents
from attnlab.attention.heads import Heads
from attnlab.attention.precision import full_precision
from attnlab.attention.recurrent import RecurrentAttention
from attnlab.attention.rwkv import RWKV7Attention
from attnlab.attention.uncompiled import uncompiled
from attnlab.attention.write import AddWrite, DeltaWrite
from attnlab.errors import UsageError

WIDEST = 256  # numbers of a key that the kernels hold at once


def fla_refusal(layer: HeadedAttention) -> str | None:
    """Why none of the kernels computes what a layer mixes; None if one does."""
    if isinstance(layer, RWKV7Attention):
        width, own = layer.head_dim, type(layer).scan is RWKV7Attention.scan
    elif isinstance(layer, RecurrentAttention):
        width, own = layer.feature_map.width, type(layer).scan is RecurrentAttention.scan
    else:
        return "it is no recurrence that has a kernel"
    if not own or (isinstance(layer, RecurrentAttention) and type(layer.write) not in (AddWrite, DeltaWrite)):
        return "it has a recurrence of its own"
    return f"keys of {width} numbers are wider than the {WIDEST} of a kernel" if width > WIDEST else None


def fla_mix(layer: Any, heads: Heads, documents: Documents | None = None) -> Float[Tensor, "b h t v"]:
    """`mix` of a recurrent layer by the kernel of its rule; documents of like length side by side."""
    if documents is not None:
        return documents.together([fla_mix(layer, part) for part in heads.apart(documents)], 2)
    return rwkv7_mix(heads) if isinstance(layer, RWKV7Attention) else recurrent_mix(layer, heads)


@uncompiled
def recurrent_mix(layer: RecurrentAttention, heads: Heads) -> Float[Tensor, "b h t v"]:
    """S_t = a_t S_{t-1} + k_t u_t^T, o_t = S_t^T q_t, as in attnlab.attention.recurrent."""
    if heads.log_q is not None:  # features that no type holds
        return layer.mix(heads)
    work = torch.promote_types(heads.v.dtype, torch.float32)
    with full_precision(heads.v.device):
        v = layer.output_norm.widen(heads.v)
        q, k, v, decay, beta = layer.in_turn(heads.q, heads.k, v, heads.log_decay, heads.beta)
        q = q.repeat_interleave(layer.writes, dim=2)  # theirs answers after each write
        q, k, v = (in_their_order(x, heads.v.dtype) for x in (q, k, v))
        gates = {}
        if decay is not None:
            gates["g"] = in_their_order(decay, work)
        if beta is not None:
            gates["beta"] = in_their_order(beta, heads.v.dtype)
        o, _ = kernel_of(decay, beta)(q, k, v, scale=1.0, **gates)
        o = o.transpose(1, 2)[:, :, layer.writes - 1 :: layer.writes]
        return layer.output_norm.divide(o.to(work)).to(heads.v.dtype)


@uncompiled
def rwkv7_mix(heads: Heads) -> Float[Tensor, "b h t v"]:
    """S_t = (diag(w_t) - (a_t * n_t) n_t^T) S_{t-1} + k_t v_t^T: theirs adds b (a^T S), with a = -n and b = a * n."""
    work = torch.promote_types(heads.v.dtype, torch.float32)
    with full_precision(heads.v.device):
        removal, rate = heads.own
        r, k, v, a, b = (
            in_their_order(x, heads.v.dtype) for x in (*heads[:3], -removal, rate.to(removal.dtype) * removal)
        )
        assert heads.log_decay is not None
        o, _ = load("rwkv7", "chunk_rwkv7")(r, in_their_order(heads.log_decay, work), k, v, a, b, scale=1.0)
        return o.transpose(1, 2).to(heads.v.dtype)


def kernel_of(decay: Tensor | None, beta: Tensor | None) -> Callable[..., tuple[Tensor, Any]]:
    """The kernel of a rule: by whether it corrects what it wrote, and what decays, heads or rows of the memory."""
    by_row = decay is not None and decay.ndim == 4
    if beta is None:
        return load("gla", "chunk_gla") if by_row else load("simple_gla", "chunk_simple_gla")
    if decay is None:
        return load("delta_rule", "chunk_delta_rule")
    return load("kda", "chunk_kda") if by_row else load("gated_delta_rule", "chunk_gated_delta_rule")


def in_their_order(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch, head, token, ...) as (batch, token, head, ...)."""
    return x.to(dtype).transpose(1, 2).contiguous()


def load(module: str, name: str) -> Callable[..., tuple[Tensor, Any]]:
    """A function of flash-linear-attention; refused where it is not installed."""
    try:
        function: Callable[..., tuple[Tensor, Any]] = getattr(import_module(f"fla.ops.{module}"), name)
    except ImportError as error:
        problem = "trainer.attention_backend=fla needs flash-linear-attention"
        raise UsageError(f"{problem}, which is not installed: pip install 'attnlab[gpu]'") from error
    return function
