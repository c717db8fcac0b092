"""Decay inside the chunks of a scan: how much of what a token wrote is left when another reads it."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.borders import Borders, later
from attnlab.attention.log_scale import exceeds
from attnlab.attention.precision import running_sum

BLOCK = 8  # tokens whose differences of decay are written out row by row; memory grows with it, matrix products shrink
FALL = 50.0  # in nats; what rises by e^50, and is as large as 10^4, is a number of float32, as are sums of its squares


class Written(NamedTuple):
    """What tokens write: as it is, as it was at the beginning of the chunk (None where float32 holds no such number),
    and what joins the memory, between the two factors `before` and `after` of the chunk."""

    plain: Float[Tensor, "b h n t d"]
    risen: Float[Tensor, "b h n t d"] | None
    joins: Float[Tensor, "b h n t d"]


class ChunkDecay:
    """The decays of chunks of t tokens, of one number per head or of one per row of the memory, and their borders.

    With G the running sum of log decays, what token j writes has decayed by exp(G_i - G_j) when token i reads it. Where
    no sum exceeds `FALL`, the exponential is split in two at the chunk's beginning, `fall` and `rise`; else G is kept
    in float64, so that differences of it keep their digits.

    A chunk makes of the memory S `after` (`before` S + what joins it).
    """

    def __init__(self, log_decay: Float[Tensor, "b h n t r"] | None, borders: Borders | None, like: Tensor) -> None:
        self.borders, self.hidden = borders, None if borders is None else borders.hidden
        self.g = self.fall = self.rise = self.before = self.after = self._leave = None
        if borders is not None:
            self.before, self._leave = borders.entering[..., -1, :, None], borders.leaving
        if log_decay is None:
            return
        split = not exceeds(-log_decay.detach().sum(dim=-2), FALL)
        if log_decay.size(-1) == 1:
            self.g = running_sum(log_decay, dim=-2)
            self.fall = self.g.exp().to(like.dtype)
            self.rise = (-self.g).exp().to(like.dtype) if split else None
        elif split:  # sums over the tokens of a chunk by a product, which is faster; float32 has digits enough for FALL
            low = torch.ones(2 * log_decay.shape[-2:-1], dtype=like.dtype, device=like.device).tril() @ log_decay.to(
                like.dtype
            )
            self.fall, self.rise = low.exp(), (-low).exp()
        else:
            self.g = running_sum(log_decay, dim=-2)
            self.fall = self.g.to(like.dtype).exp()
        last = self.fall[..., -1, :, None]
        if split:
            self.after = last
        else:
            assert self.g is not None
            self.before = last if self.before is None else last * self.before
            left = (self.g[..., -1:, :] - self.g).to(like.dtype).exp()
            self._leave = left if self._leave is None else left * self._leave

    def entering(self, x: Float[Tensor, "b h n t d"]) -> Float[Tensor, "b h n t d"]:
        """What meets the memory as the chunk finds it."""
        return x if (enter := self.enter) is None else x * enter

    def written(self, y: Float[Tensor, "b h n t d"]) -> Written:
        risen = None if self.rise is None else y * self.rise
        joins = y if risen is None else risen
        return Written(y, risen, joins if self._leave is None else joins * self._leave)

    @property
    def enter(self) -> Float[Tensor, "#b #h n t #d"] | None:
        """How much of the memory as the chunk finds it is left at each token."""
        if self.borders is None or self.fall is None:
            return self.fall if self.borders is None else self.borders.entering
        return self.fall * self.borders.entering

    @cached_property
    def pairs(self) -> Float[Tensor, "b h n t t"]:
        """exp(G_i - G_j) for j <= i, and 0 for j > i or a j of another document; of one decay for all rows."""
        assert self.g is not None and self.fall is not None
        if self.rise is not None:
            return self._shown(self.fall @ self.rise.mT)
        return _decay_between(self.g, self.fall.dtype, self.hidden)[..., 0]

    def factors(self, heads: Sequence[int], n: int) -> list[tuple[Tensor | None, Tensor | None]]:
        """`before` and `after` of each of n chunks, (batch * heads, d or 1, 1)."""
        ends = (self.before, self.after)
        # Slices of a tensor each cost a gradient as large as the whole; unbinding it costs one for all.
        parts = ([None] * n if x is None else x.expand(*heads, -1, -1, -1).flatten(0, 1).unbind(1) for x in ends)
        return list(zip(*parts, strict=True))

    def meet(
        self, readers: Sequence[Tensor], written: Sequence[Written], systems: Sequence[Tensor] = (), early: bool = False
    ) -> tuple[list[list[Float[Tensor, "b h n i t"]]], list[Float[Tensor, "b h n i d"]]]:
        """Of each reader x the products with each y that is written, and what of x meets the memory (`entering`).

        A product is sum_c x_ic y_jc exp(G_ic - G_jc) for j <= i, and 0 for j > i or a j of another document; of the
        `systems`, which follow the readers, only what stands below the diagonal counts. Where there are fewer readers
        than tokens, each stands at the last of as many tokens. Systems that are `early` read before a token's decay,
        with G_{i-1} for G_i; those of the first token of a document are to be zero.
        """
        answers = [self._met(x, written) for x in readers]
        for x in systems:
            if not early or self.fall is None:
                answers.append(self._met(x, written, self.hidden is not None))
            elif self.rise is not None:
                earlier = F.pad(self.fall[..., :-1, :], (0, 0, 1, 0), value=1.0)
                answers.append(self._met(x, written, self.hidden is not None, earlier))
            else:  # what the token before it would read
                among, met = self._met(F.pad(x[..., 1:, :], (0, 0, 0, 1)), written)
                met = torch.cat([x[..., :1, :], met[..., :-1, :]], dim=-2)
                answers.append(([F.pad(a, (0, 0, 1, -1)) for a in among], met))
        return [among for among, _ in answers], [met for _, met in answers]

    def _met(
        self, x: Float[Tensor, "b h n i d"], written: Sequence[Written], shown: bool = True, fall: Tensor | None = None
    ) -> tuple[list[Float[Tensor, "b h n i t"]], Float[Tensor, "b h n i d"]]:
        every = written[0].plain.size(-2) // x.size(-2)
        fall = _each(self.fall, every) if fall is None and self.fall is not None else fall
        fallen = x if fall is None else x * fall
        met = fallen if self.borders is None else fallen * _each(self.borders.entering, every)
        if self.fall is None or self.rise is not None:
            among = [fallen @ (y.plain if y.risen is None else y.risen).mT for y in written]
            return [self._shown(a) for a in among] if shown else among, met
        if self.fall.size(-1) == 1:
            return [(x @ y.plain.mT) * _each(self.pairs, every) for y in written], met
        whole = x.repeat_interleave(every, dim=-2)
        return [_each(self._by_blocks(whole, y.plain), every) for y in written], met

    def columns(
        self, a: Float[Tensor, "b h n t t"], v: Written, met: Float[Tensor, "b h n t m"]
    ) -> Float[Tensor, "b h n t m"]:
        """sum_{j <= i} a_ij v_jm exp(G_im - G_jm), where columns decay, and what is left of the chunks before."""
        assert self.fall is not None
        if v.risen is not None:
            return add_product(met, a.tril(), v.risen) * self.fall
        assert self.g is not None
        t, lines = a.size(-2), []
        for start in range(0, t, BLOCK):
            here = slice(start, min(start + BLOCK, t))
            g_here, first = self.g[..., here, :], self.g[..., start, None, :]
            earlier = v.plain[..., :start, :] * (first - self.g[..., :start, :]).to(met.dtype).exp()
            far = (a[..., here, :start] @ earlier) * (g_here - first).to(met.dtype).exp()
            near = (a[..., here, here, None] * v.plain[..., None, here, :] * _decay_between(g_here, met.dtype)).sum(-2)
            lines.append(far + near)
        return torch.cat(lines, dim=-2) + met * self.fall

    def _by_blocks(self, x: Float[Tensor, "b h n t d"], y: Float[Tensor, "b h n t d"]) -> Float[Tensor, "b h n t t"]:
        """The exponential split in two at the first token f of the block that i is in, exp(G_i - G_f) exp(G_f - G_j),
        where neither factor exceeds one, however strong the decay; only inside a block, where f comes after j, are the
        differences written out."""
        assert self.g is not None
        t, lines, g = x.size(-2), [], self.g
        for start in range(0, t, BLOCK):
            here = slice(start, min(start + BLOCK, t))
            x_here, y_here, g_here, first = x[..., here, :], y[..., here, :], g[..., here, :], g[..., start, None, :]
            earlier = y[..., :start, :] * (first - g[..., :start, :]).to(y.dtype).exp()
            far = (x_here * (g_here - first).to(x.dtype).exp()) @ earlier.mT
            near = (x_here[..., :, None, :] * y_here[..., None, :, :] * _decay_between(g_here, x.dtype)).sum(dim=-1)
            lines.append(F.pad(torch.cat([far, near], dim=-1), (0, t - here.stop)))
        products = torch.cat(lines, dim=-2)
        return products if self.hidden is None else products.masked_fill(self.hidden, 0.0)

    def _shown(self, products: Float[Tensor, "b h n i t"]) -> Float[Tensor, "b h n i t"]:
        """Products of which none is with a later token, or one of another document."""
        t, every = products.size(-1), products.size(-1) // products.size(-2)
        if self.hidden is None and every == 1:
            return products.tril()
        return products.masked_fill(
            _each(later(t, products.device) if self.hidden is None else self.hidden, every), 0.0
        )


def _each(x: Tensor, every: int) -> Tensor:
    """The last of every so many tokens."""
    return x if every == 1 else x[..., every - 1 :: every, :]


def add_product(
    x: Float[Tensor, "b h n i v"], a: Float[Tensor, "b h n i t"], b: Float[Tensor, "b h n t v"], sign: float = 1.0
) -> Float[Tensor, "b h n i v"]:
    """x + sign * a b, without a pass for the sum."""
    return torch.baddbmm(*(y.flatten(0, 2) for y in (x, a, b)), alpha=sign).view_as(x)


def _decay_between(
    g: Float[Tensor, "b h n t r"], dtype: torch.dtype, hidden: Bool[Tensor, "b 1 n t t"] | None = None
) -> Float[Tensor, "b h n t t r"]:
    """exp(g_i - g_j) for j <= i, which is 1 or less, and 0 for j > i, or where it is `hidden`."""
    hidden = later(g.size(-2), g.device) if hidden is None else hidden
    return (g[..., :, None, :] - g[..., None, :, :]).to(dtype).masked_fill(hidden[..., None], -torch.inf).exp()
