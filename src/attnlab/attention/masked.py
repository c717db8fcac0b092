"""How a map over visible keys is applied: by the fused kernel where it can serve, in blocks where a band allows it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnlab.attention.banded import Blocks, Cut, attend_in_blocks, cut_heads
from attnlab.attention.base import HeadedAttention
from attnlab.attention.documents import Documents
from attnlab.attention.half_kernel import attend_in_half
from attnlab.attention.heads import Heads, mix_apart
from attnlab.attention.mask import Causal, Mask
from attnlab.attention.precision import full_precision
from attnlab.attention.uncompiled import uncompiled
from attnlab.options import Fraction, option, slot

MOST_KEPT = 1 << 22  # numbers of masks that are kept: training repeats one length, or those of documents
SHARP = 50.0  # scores from which gradients of torch's fused kernel on a CPU are off by a few parts in ten thousand


class MaskedAttention(HeadedAttention, ABC):
    """Attention under a mask, of which a subclass writes the weights (`explicit_weights`).

    Where a subclass sets `fused`, these are those of torch's kernel: a softmax of q . k_j * scale plus the position's
    biases. The kernel then serves; the result is the same either way, which is a law.
    """

    mask: Mask = slot(default=Causal, doc="Which keys a query may read.")
    dropout: Fraction = option(default=0.0, doc="Share of the weights that is dropped while training.")

    kernel_dtype = torch.float32  # in which the fused kernel trains on a CPU where all around it is bfloat16

    def setup(self) -> None:
        super().setup()
        self.mask = self.build("mask")
        self.fused, self.scale = False, self.head_dim**-0.5
        self.reads_between = False  # whether a query needs each token between it and a key that it reads
        self.cached_extras = 0  # numbers that each key carries along for each query head
        self._square: dict[tuple[Blocks, torch.device, torch.dtype], Tensor] = {}

    @abstractmethod
    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        """The weights that `attend_explicitly` gives to the values, before dropout; in float32 at least."""

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        """Which keys each query may read; empty slots (position -1) never."""
        return self.mask.visible(q_pos, k_pos) & (k_pos >= 0)

    def mix(self, heads: Heads) -> Float[Tensor, "b h t v"]:
        """The whole sequence at once: by the fused kernel where every slot allows it, else explicitly."""
        cuttable = heads.own is None and not self.reads_between
        if cuttable and (cuts := self.mask.cuts(heads.q.size(2), heads.q.device)):
            return self._attend_in_cuts(heads, cuts, explicitly=not self.fused)
        blocks = Blocks.of(heads.q.size(2), self.mask.max_lookback, self.mask.sinks)
        if self.fused and (o := self._mix_fused(heads, blocks)) is not None:
            return o.to(heads.v.dtype)
        if blocks.n_blocks > 1:
            return self._attend_in_cuts(heads, list(blocks.cuts(heads.q.device)), explicitly=True)
        pos = torch.arange(heads.q.size(2), device=heads.q.device)
        return self.attend_explicitly(heads, pos, pos)

    def mix_documents(
        self, mix: Callable[[Heads], Tensor], heads: Heads, documents: Documents
    ) -> Float[Tensor, "b h t v"]:
        """In blocks of the whole row where a border does nothing but hide more keys; else each document alone."""
        blocks = Blocks.of(heads.q.size(2), self.mask.max_lookback, self.mask.sinks)
        plain = mix == self.mix and type(self).mix is MaskedAttention.mix and "bias" not in self.position.hooks
        if plain and self.fused and self.mask.by_distance and blocks.n_blocks > 1:
            q, k, v = self._for_kernel(heads)
            o = attend_in_blocks(self._kernel, q, k, v, blocks, self._cached_mask(q, blocks), documents.ids)
            if o is not None:
                return o.to(heads.v.dtype)
        return mix_apart(mix, heads, documents)

    def _mix_fused(self, heads: Heads, blocks: Blocks) -> Float[Tensor, "b h t v"] | None:
        q, k, v = self._for_kernel(heads)
        if type(self.mask) is Causal and "bias" not in self.position.hooks:
            return self._kernel(q, k, v, None)
        if blocks.n_blocks == 1:
            return self._kernel(q, k, v, self._cached_mask(q, blocks))
        return attend_in_blocks(self._kernel, q, k, v, blocks, self._cached_mask(q, blocks))

    def attend(self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Float[Tensor, "b h t v"]:
        """Queries at some positions against keys at others: by the fused kernel where it can be, else explicitly."""
        if self.fused:
            q, k, v = self._for_kernel(heads)
            o = self._kernel(q, k, v, self._allowed(q.dtype, [(q_pos, k_pos)]))
            if o is not None:
                return o.to(heads.v.dtype)
        return self.attend_explicitly(heads, q_pos, k_pos)

    def attend_explicitly(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t v"]:
        """The same rule written out: scores, their modifiers, position bias, normaliser, dropout, weighted sum."""
        if not q_pos.numel():
            return heads.v.new_zeros(*heads.q.shape[:3], heads.v.size(-1))
        weights = F.dropout(self.explicit_weights(heads, q_pos, k_pos), self.dropout, self.training)
        return weights.to(heads.v.dtype) @ heads.v.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)

    @uncompiled  # its loop would be written out, for minutes, and anew for each length
    def _attend_in_cuts(self, heads: Heads, cuts: list[Cut], *, explicitly: bool) -> Float[Tensor, "b h t v"]:
        """What decoding cut by cut would give; the backward pass forms each map that is written out again."""
        attend = self.attend_explicitly if explicitly else self.attend
        if explicitly and torch.is_grad_enabled():
            attend = partial(checkpoint, attend, use_reentrant=False)
        o = [attend(some, *cut) for some, cut in zip(cut_heads(heads, cuts), cuts, strict=True)]
        return torch.cat(o, dim=2)[:, :, torch.cat([q_pos for q_pos, _ in cuts]).argsort()]

    def _beyond_kernel(self, o: Tensor) -> bool:
        """Whether a CPU's kernel would lose the gradients: on the way back it rounds them in proportion to the scores.

        What it keeps for that pass tells: the logarithm of each query's sum of exponentials is as large as its best
        score. Elsewhere, and in a compiled layer, it is not asked: the question would make an accelerator wait.
        """
        if o.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        logs = getattr(o.grad_fn, "_saved_logsumexp", None)  # nothing without gradients, or where no kernel serves
        if logs is None or not logs.numel():
            return False
        low, high = logs.detach().aminmax()
        return max(float(high), -float(low)) > SHARP

    def _for_kernel(self, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """In `kernel_dtype` where a CPU trains; biases in float32, for with them torch's slow way back would serve."""
        (q, k, v), work = heads[:3], heads.v.dtype
        if v.device.type == "cpu" and torch.is_grad_enabled():
            work = torch.promote_types(work, torch.float32 if "bias" in self.position.hooks else self.kernel_dtype)
        layout = torch.contiguous_format if work == torch.bfloat16 else torch.preserve_format  # see `attend_in_half`
        return q.to(work, memory_format=layout), k.to(work, memory_format=layout), v.to(work)

    def _kernel(
        self,
        q: Float[Tensor, "b h t d"],
        k: Float[Tensor, "b g s d"],
        v: Float[Tensor, "b g s v"],
        allowed: Shaped[Tensor, "#b #h t s"] | None,
    ) -> Float[Tensor, "b h t v"] | None:
        """The fused kernel, under a mask or biases; without either, on all keys up to the query's own.

        None where it would lose the gradients.
        """
        width, widest = v.size(-1), max(q.size(-1), v.size(-1))
        padded = width != q.size(-1) and q.device.type == "cpu" and torch.is_grad_enabled()
        if padded:  # the kernel whose gradients are exact wants one width
            q, k, v = (F.pad(x, (0, widest - x.size(-1))) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled() and not dropout:
            o = attend_in_half(q, k, v, allowed, self.scale)
            return o[..., :width] if padded else o
        with full_precision(q.device):  # autocast would undo the choice of the type
            o = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=allowed,
                dropout_p=dropout,
                is_causal=allowed is None,
                scale=self.scale,
                enable_gqa=self.n_heads != self.n_kv_heads,
            )
        if self._beyond_kernel(o):
            return None
        return o[..., :width] if padded else o

    @uncompiled  # what is kept lies outside the compiled code
    def _cached_mask(self, like: Tensor, blocks: Blocks) -> Shaped[Tensor, " blocks #h t s"]:
        """`_allowed` of a whole sequence, kept for the next one of this length unless the position learns."""
        cuts = blocks.positions(like.device)
        if any(True for _ in self.position.parameters()):
            return self._allowed(like.dtype, cuts)
        key = (blocks, like.device, like.dtype)
        if key not in self._square:
            with torch.inference_mode(False):  # what is kept must serve training, too
                if sum(mask.numel() for mask in self._square.values()) > MOST_KEPT:
                    self._square.clear()
                self._square[key] = self._allowed(like.dtype, cuts)
        return self._square[key]

    def _allowed(self, dtype: torch.dtype, cuts: Iterable[tuple[Tensor, Tensor]]) -> Shaped[Tensor, " cuts #h t s"]:
        """The mask the fused kernel takes for each cut of the map, given as the positions of its queries and keys.

        Booleans, or position biases with -inf where nothing is visible.
        """
        masks = []
        for q_pos, k_pos in cuts:
            visible, bias = self.visible(q_pos, k_pos)[None], self.position.bias(q_pos, k_pos)
            masks.append(visible if bias is None else bias.to(dtype).masked_fill(~visible, -torch.inf))
        return torch.stack(masks)
