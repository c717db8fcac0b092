"""Scores that look at several queries and keys at once, by a convolution over the map of scores."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attnlab.attention.mask import Mask
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.precision import full_precision
from attnlab.attention.published import ALIKE, Starts
from attnlab.attention.score import Score
from attnlab.attention.score_context import ScoreContext
from attnlab.errors import UsageError
from attnlab.options import Count, option


class MultiToken(Score):
    """Makes each score from those of neighbouring queries and keys, so that two clues side by side can be found.

    Rule: score_ij = sum_{a,b} theta_h[a, b] s_{i-a, j-b}, s_ij = scale * q_i . k_j. The sum is over the `queries` last
    queries a = 0 ... and `keys` keys around j; s is taken as 0 where its key comes after its query or is hidden from
    query i. theta starts as the identity, which is plain attention. It makes the scores anew, so it acts before other
    modifiers.

    Source: key-query convolution of multi-token attention, arXiv 2504.00927. Where we differ: its mixing of heads is
    attention/score=talking_heads, its group norm is left out. Decoding keeps the query beside each key.
    """

    order = 2
    fusable = False
    reads_keys = makes_scores = needs_all = True

    published: ClassVar[Starts] = {"kernel": ALIKE}
    queries: Count = option(default=6, doc="Queries that a score is made of, the latest ones.")
    keys: Count = option(default=11, doc="Keys that a score is made of, around its own.")

    def setup(self) -> None:
        super().setup()
        self.cached_extras, self.later = self.key_dim, self.keys // 2
        kernel = torch.zeros(self.n_heads, self.queries, self.keys)
        kernel[:, 0, self.keys - 1 - self.later] = 1.0
        self.kernel = nn.Parameter(kernel)  # [head, a, keys from earlier to later]

    def check(self, mask: Mask, normalizer: Normalizer) -> None:
        super().check(mask, normalizer)
        reach = self.queries + self.later
        if mask.cache_size is not None and mask.cache_size < reach:
            raise UsageError(
                f"attention/score (MultiToken) with queries ({self.queries}) and keys ({self.keys}) must fit "
                f"into the {mask.cache_size} keys that attention/mask shows, but reaches over {reach}: choose fewer of "
                "them or a longer window"
            )
        if not bool(self.used(mask).all()):
            raise UsageError(
                f"attention/score (MultiToken) with queries ({self.queries}) and keys ({self.keys}) looks at "
                f"neighbouring keys, of which attention/mask ({type(mask).__name__}) never shows some together: choose "
                "fewer of them, or attention/mask=causal or window"
            )

    def used(self, mask: Mask) -> Bool[Tensor, "queries keys"]:
        """Which numbers of the kernel ever meet a score: query i sees key j and the key b before it, a queries ago."""
        keys = self.keys
        pos = torch.arange(4 * (self.queries + keys), device="cpu")  # where a model is built without numbers, too
        visible, both = mask.visible(pos, pos), []
        for c in range(keys):
            b = keys - 1 - self.later - c  # the kernel runs from earlier keys to later ones
            other = (pos - b).clamp(0, pos.numel() - 1)
            both.append(visible & visible[:, other] & (other == pos - b))
        distance = torch.stack([(pos[:, None] - pos + keys - 1 - self.later - c) for c in range(keys)])
        return torch.stack([(torch.stack(both) & (distance >= a)).flatten(1).any(dim=1) for a in range(self.queries)])

    def make_extras(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> Float[Tensor, "b h t e"]:
        return q

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert carried is not None
        t, s = scores.shape[-2:]
        keys, before = ctx.k.to(scores.dtype).mT, self.queries - 1
        asked = F.pad(carried.to(scores.dtype), (0, 0, before, 0))  # before the first token nothing was asked
        rows = []
        with full_precision(scores.device):
            for a in range(self.queries):
                first = before + s - t - a  # the queries' tokens are the last of the keys
                shown = ctx.visible & (ctx.k_pos <= ctx.q_pos[:, None] - a)
                rows.append((asked[:, :, first : first + t] @ keys * ctx.scale).masked_fill(~shown, 0.0))
            # (b, h, a, t, s) -> (b * t, h * a, s): a convolution along the keys, in which each head reads its own rows
            lines = torch.stack(rows, dim=2).permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)
            earlier = self.keys - 1 - self.later
            lines = F.conv1d(F.pad(lines, (earlier, self.later)), self.kernel.to(scores.dtype), groups=self.n_heads)
        return lines.unflatten(0, (-1, t)).transpose(1, 2)
