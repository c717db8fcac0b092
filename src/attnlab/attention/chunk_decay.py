"""Decay inside the chunks of a scan: how much of what a token wrote is left when another reads it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.borders import Borders, later
from attnlab.attention.log_scale import exceeds
from attnlab.attention.precision import running_sum

BLOCK = 8  # tokens whose differences of decay are written out row by row; memory grows with it, matrix products shrink
FALL = 50.0  # in nats; what rises by e^50, and is as large as 10^4, is a number of float32, as are sums of its squares


class ChunkDecay:
    """The decays of chunks of t tokens, of one number per head or of one per row of the memory, and their borders.

    With G the running sum of log decays (in float64, so that differences of it keep their digits), what token j writes
    has decayed by exp(G_i - G_j) when token i reads it.
    """

    def __init__(self, log_decay: Float[Tensor, "b h n t r"] | None, borders: Borders | None, like: Tensor) -> None:
        self.borders, self.hidden = borders, None if borders is None else borders.hidden
        self.g = self.fall = self.leave = self.rise = None
        if log_decay is not None:
            self.g = running_sum(log_decay, dim=-2)
            low = self.g.to(like.dtype)
            self.fall = low.exp()
            if self.g.size(-1) == 1:
                self.pairs = _decay_between(self.g, like.dtype, self.hidden)[..., 0]
            elif not exceeds(-low[..., -1, :], FALL):
                self.rise = (-low).exp()
            last = self.g[..., -1:, :] - self.g if self.rise is None else low[..., -1:, :] - low
            self.leave = last.to(like.dtype).exp()
        if borders is not None:
            self.leave = borders.leaving if self.leave is None else self.leave * borders.leaving

    def entering(self, x: Float[Tensor, "b h n t d"]) -> Float[Tensor, "b h n t d"]:
        """What meets the memory as the chunk finds it."""
        return self._bordered(x if self.fall is None else x * self.fall)

    def leaving(self, x: Float[Tensor, "b h n t d"]) -> Float[Tensor, "b h n t d"]:
        """What stays in the memory when the chunk ends."""
        return x if self.leave is None else x * self.leave

    @property
    def enter(self) -> Float[Tensor, "#b #h n t #d"] | None:
        """How much of the memory as the chunk finds it is left at each token."""
        if self.fall is None:
            return None if self.borders is None else self.borders.entering
        return self._bordered(self.fall)

    @property
    def whole(self) -> Float[Tensor, "#b #h n #d 1"] | None:
        """The factor by which a whole chunk decays the memory."""
        return None if (enter := self.enter) is None else enter[..., -1, :, None]

    def meet(
        self, readers: Sequence[Tensor], written: Sequence[Tensor]
    ) -> tuple[list[list[Float[Tensor, "b h n t t"]]], list[Float[Tensor, "b h n t d"]]]:
        """Of each reader x the products with each y that is written, and what of x meets the memory (`entering`).

        A product is sum_c x_ic y_jc exp(G_ic - G_jc) for j <= i, and 0 for j > i or a j of another document. With one
        decay for all rows the exponential leaves the sum. Where no row decays much in a chunk, it is split in two at
        the chunk's beginning; else as `_by_blocks` says.
        """
        if self.fall is None or self.rise is None:
            return [[self._products(x, y) for y in written] for x in readers], [self.entering(x) for x in readers]
        fallen, risen = [x * self.fall for x in readers], [(y * self.rise).mT for y in written]
        return [[self._shown(x @ y) for y in risen] for x in fallen], [self._bordered(x) for x in fallen]

    def columns(
        self, a: Float[Tensor, "b h n t t"], v: Float[Tensor, "b h n t m"], met: Float[Tensor, "b h n t m"]
    ) -> Float[Tensor, "b h n t m"]:
        """sum_{j <= i} a_ij v_jm exp(G_im - G_jm), where columns decay, and what is left of the chunks before."""
        assert self.g is not None and self.fall is not None
        if self.rise is not None:
            return (a.tril() @ (v * self.rise) + met) * self.fall
        t, lines = v.size(-2), []
        for start in range(0, t, BLOCK):
            here = slice(start, min(start + BLOCK, t))
            g_here, first = self.g[..., here, :], self.g[..., start, None, :]
            earlier = v[..., :start, :] * (first - self.g[..., :start, :]).to(v.dtype).exp()
            far = (a[..., here, :start] @ earlier) * (g_here - first).to(v.dtype).exp()
            near = (a[..., here, here, None] * v[..., None, here, :] * _decay_between(g_here, v.dtype)).sum(dim=-2)
            lines.append(far + near)
        return torch.cat(lines, dim=-2) + met * self.fall

    def _products(self, x: Float[Tensor, "b h n t d"], y: Float[Tensor, "b h n t d"]) -> Float[Tensor, "b h n t t"]:
        if self.g is None:
            return self._shown(x @ y.mT)
        return (x @ y.mT) * self.pairs if self.g.size(-1) == 1 else self._by_blocks(x, y, self.g)

    def _bordered(self, x: Tensor) -> Tensor:
        """Zeros where a border parts tokens from the chunk before."""
        return x if self.borders is None else x * self.borders.entering

    def _by_blocks(
        self, x: Float[Tensor, "b h n t d"], y: Float[Tensor, "b h n t d"], g: Float[Tensor, "b h n t d"]
    ) -> Float[Tensor, "b h n t t"]:
        """The exponential split in two at the first token f of the block that i is in, exp(G_i - G_f) exp(G_f - G_j),
        where neither factor exceeds one, however strong the decay; only inside a block, where f comes after j, are the
        differences written out."""
        t, lines = x.size(-2), []
        for start in range(0, t, BLOCK):
            here = slice(start, min(start + BLOCK, t))
            x_here, y_here, g_here, first = x[..., here, :], y[..., here, :], g[..., here, :], g[..., start, None, :]
            earlier = y[..., :start, :] * (first - g[..., :start, :]).to(y.dtype).exp()
            far = (x_here * (g_here - first).to(x.dtype).exp()) @ earlier.mT
            near = (x_here[..., :, None, :] * y_here[..., None, :, :] * _decay_between(g_here, x.dtype)).sum(dim=-1)
            lines.append(F.pad(torch.cat([far, near], dim=-1), (0, t - here.stop)))
        products = torch.cat(lines, dim=-2)
        return products if self.hidden is None else products.masked_fill(self.hidden, 0.0)

    def _shown(self, products: Float[Tensor, "b h n t t"]) -> Float[Tensor, "b h n t t"]:
        return products.tril() if self.hidden is None else products.masked_fill(self.hidden, 0.0)


def _decay_between(
    g: Float[Tensor, "b h n t r"], dtype: torch.dtype, hidden: Bool[Tensor, "b 1 n t t"] | None = None
) -> Float[Tensor, "b h n t t r"]:
    """exp(g_i - g_j) for j <= i, which is 1 or less, and 0 for j > i, or where it is `hidden`."""
    hidden = later(g.size(-2), g.device) if hidden is None else hidden
    return (g[..., :, None, :] - g[..., None, :, :]).to(dtype).masked_fill(hidden[..., None], -torch.inf).exp()
