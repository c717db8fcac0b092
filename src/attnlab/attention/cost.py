"""What a layer costs, counted by running it on torch's meta device: shapes only, no numbers, no formula to go stale."""

import copy
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from attnlab.attention.shared import Shared

if TYPE_CHECKING:
    from attnlab.attention.base import Attention


class Cost(NamedTuple):
    """What one layer costs. Matmul FLOPs, forward only, 2 per multiply-add, batch of one."""

    params: int  # trainable scalars
    forward_flops: int  # mixing a whole sequence of `seq_len`
    decode_flops: int  # one more token after `seq_len` tokens of context
    state_bytes: int  # what `step` keeps after `seq_len` tokens
    pairs: int | None  # (query, key) pairs the rule may read, per head; None where there are no pairs

    def __add__(self, other: "Cost") -> "Cost":  # type: ignore[override]
        """Costs of two layers together; pairs are None only if neither has any."""
        pairs = None if self.pairs is None and other.pairs is None else (self.pairs or 0) + (other.pairs or 0)
        a, b = self, other
        return Cost(
            a.params + b.params,
            a.forward_flops + b.forward_flops,
            a.decode_flops + b.decode_flops,
            a.state_bytes + b.state_bytes,
            pairs,
        )


def _solve_triangular_flops(a_shape: Any, b_shape: Any, *args: Any, **kwargs: Any) -> int:
    # n x n triangle against m right-hand sides: n^2 / 2 multiply-adds each. torch's own counter counts 0.
    return int(prod(a_shape[:-2]) * a_shape[-1] ** 2 * b_shape[-1])


def _convolution_backward_flops(grad_shape: Any, x_shape: Any, w_shape: Any, *args: Any, **kwargs: Any) -> int:
    # Each gradient that is wanted costs as much as the forward pass. torch's own counter forgets the groups here.
    input_wanted, weight_wanted, _ = args[-1]
    return int((input_wanted + weight_wanted) * 2 * grad_shape[0] * prod(grad_shape[2:]) * prod(w_shape))


def count_flops(run: Callable[[], Any], *, gradients: bool = False) -> int:
    """Matmul FLOPs of one call, which may want gradients. The math kernel is forced: fused ones would count as 0."""
    extra = {
        torch.ops.aten.linalg_solve_triangular: _solve_triangular_flops,
        torch.ops.aten.convolution_backward: _convolution_backward_flops,
    }
    with torch.set_grad_enabled(gradients), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False, custom_mapping=extra) as counter:
            run()
    return int(counter.get_total_flops())


def tensor_bytes(state: Any) -> int:
    """Bytes held by every tensor in a nested state."""
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor))


def measure(layer: "Attention", seq_len: int, below: Sequence["Attention"] = ()) -> Cost:
    """Count what `layer` costs at `seq_len` tokens, on a copy that holds no numbers; layers `below` only publish."""
    *under, twin = (copy.deepcopy(one).to("meta").eval() for one in (*(below if layer.traits.requires else ()), layer))
    x = torch.empty(1, seq_len, layer.d_model, dtype=twin.anchor.dtype, device="meta")

    def stepped(new: Tensor, states: list[Any]) -> tuple[Shared, list[Any]]:
        shared, after = Shared(), []
        for one, state in zip(under, states, strict=True):
            after.append(one.step(new, state, shared)[1])
        return shared, after

    def start(length: int, room: int) -> tuple[Any, list[Any]]:
        shared, states = stepped(x[:, :length], [one.init_state(1, room) for one in under])
        return twin.step(x[:, :length], twin.init_state(1, room), shared)[1], states

    with torch.no_grad():
        filled, _ = start(seq_len, seq_len)
        # One more token; where no more positions are known, the last one.
        room = min(seq_len + 1, layer.traits.limit or seq_len + 1)
        context, states = start(room - 1, room)
        published, whole = stepped(x[:, :1], states)[0], Shared()
        for one in under:
            one(x, whole)
    return Cost(
        params=sum(p.numel() for p in layer.parameters() if p.requires_grad),
        forward_flops=count_flops(lambda: twin(x, whole)),
        decode_flops=count_flops(lambda: twin.step(x[:, :1], context, published)),
        state_bytes=tensor_bytes(filled),
        pairs=layer.pairs(seq_len),
    )
