"""Skeletons of slot options: some ten lines change one part of a layer, which keeps its maps, decoding and cost."""

from typing import NamedTuple


class SlotSkeleton(NamedTuple):
    """What is written for one kind: the module, and where its class stands in the YAML."""

    module: str
    base: str  # the variant that it changes
    slot: str

    @property
    def settings(self) -> str:
        """The YAML of a variant with this class in its slot."""
        chained = self.slot == "score"  # one modifier of several, each below a name of its own
        where = f"{self.slot}:\n" + ("  NAME:\n    " if chained else "  ")
        indent = "    " if chained else "  "
        return (
            f"# {self.base} with a {self.slot} of its own.\ndefaults: [{self.base}, _self_]\n"
            f"{where}_target_: NAME.CLASS\n{indent}_partial_: true\n"
            f"# Everything that {self.base} has can be set here and on the command line, such as attention.n_heads=2.\n"
        )


SCORE = '''"""NAME: what is done to queries and keys before they are compared."""

import torch
from attnlab.attention.score import Score
from jaxtyping import Float
from torch import Tensor, nn


class CLASS(Score):
    """Each head learns how sharply it looks. Put your sentence here.

    Rule: score_ij = exp(a_h) q_i . k_j / sqrt(d). Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    # An option is a line here, with what it may hold (attnlab.options), its default and a sentence, and a line of the
    # YAML: cap: Positive = option(default=50.0, doc="What no score exceeds.")

    order = 15  # among the modifiers of a layer: below 20 they change queries and keys, from there on scores

    def setup(self) -> None:
        super().setup()  # which leaves the scale at 1 / sqrt(head_dim)
        self.log_sharpness = nn.Parameter(torch.zeros(self.n_heads))

    def prepare(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        """Before positions rotate them. A rule that needs the scores themselves overrides `apply_scores` and says
        `fusable = False`; without, the fused kernel goes on serving the layer."""
        return q * self.log_sharpness.exp()[:, None, None], k
'''

NORMALIZER = '''"""NAME: how scores become weights."""

import torch
from attnlab.attention.normalizer import Normalizer, SharpSoftmax
from jaxtyping import Bool, Float
from torch import Tensor, nn


class CLASS(Normalizer):
    """A softmax of which each head learns the temperature. Put your sentence here.

    Rule: w_j = exp(s_j exp(a_h)) / sum exp(s exp(a_h)). Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    map_kind = "probability"  # rows sum to 1; also sub_probability, nonnegative, signed

    def setup(self) -> None:
        self.log_sharpness = nn.Parameter(torch.zeros(self.n_heads))

    def forward(self, scores: Float[Tensor, "b h t s"], visible: Bool[Tensor, "*b t s"]) -> Float[Tensor, "b h t s"]:
        """Weights, 0 where a key is not visible. Nothing here may depend on how many keys there are."""
        sharp = scores * self.log_sharpness.exp()[:, None, None]
        return SharpSoftmax.apply(sharp.masked_fill(~visible, -torch.inf))
'''

MASK = '''"""NAME: which keys a query may read."""

from attnlab.attention.mask import Mask
from jaxtyping import Bool, Int
from torch import Tensor


class CLASS(Mask):
    """A query reads itself and the keys 1, 2, 4, 8, ... tokens before. Put your sentence here.

    Rule: Visible_ij = (i = j) or i - j is a power of two. Write your rule as such a formula.

    Source: LogSparse attention, arXiv 1907.00235. Name yours.
    """

    # `causal`, `contiguous`, `cache_size` and `max_lookback` say what else a mask may promise: see the docstring of
    # Mask. One that never reads further back than `max_lookback` keys is computed block by block, by the fused kernel.

    def visible(self, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]) -> Bool[Tensor, "t s"]:
        """Which keys (columns, at k_pos) each query (rows, at q_pos) may read, in training and in decoding."""
        distance = q_pos[:, None] - k_pos[None, :]
        return (distance >= 0) & ((distance & (distance - 1)) == 0)
'''

GATE = '''"""NAME: what happens to the output of a head."""

from attnlab.attention.gate import Gate
from attnlab.attention.normalizer import SharpSigmoid
from jaxtyping import Float
from torch import Tensor, nn


class CLASS(Gate):
    """Each token decides how loud each head is, up to twice as loud. Put your sentence here.

    Rule: o_h = 2 o_h sigmoid(w_h . x). Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    def setup(self) -> None:
        self.to_gate = nn.Linear(self.d_model, self.n_heads, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t 1"]:
        """What the gate is made of, from the tokens that come into the layer."""
        return self.to_gate(x).transpose(1, 2)[..., None]

    def forward(
        self, o: Float[Tensor, "b h t v"], gate: Tensor | None, v: Float[Tensor, "b h t v"]
    ) -> Float[Tensor, "b h t v"]:
        """After the map, which a gate does not change; `v` is the value of the token itself."""
        return 2 * o * SharpSigmoid.apply(gate)
'''

DECAY = '''"""NAME: the decay of a recurrent layer's state."""

import torch
import torch.nn.functional as F
from attnlab.attention.decay import Decay
from jaxtyping import Float
from torch import Tensor, nn


class CLASS(Decay):
    """Each token decides how much each head forgets, at first little. Put your sentence here.

    Rule: S_t = a_t S_{t-1} + k_t v_t^T with log a_t = -softplus(w_h . x_t - 4). Write your rule as such a formula.

    Source: not written yet; arXiv and the number of the paper.
    """

    per_channel = False  # True: a number for each row of the memory, (b, h, t, d)

    def setup(self) -> None:
        self.to_decay = nn.Linear(self.d_model, self.n_heads, bias=False)

    def project(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t"]:
        """The logarithm of a_t, at most 0; in float32 at least, for it is summed over many tokens."""
        work = torch.promote_types(x.dtype, torch.float32)
        return -F.softplus(self.to_decay(x).to(work) - 4).transpose(1, 2)
'''

SLOTS = {
    "score": SlotSkeleton(SCORE, "multi_head", "score"),
    "normalizer": SlotSkeleton(NORMALIZER, "multi_head", "normalizer"),
    "mask": SlotSkeleton(MASK, "multi_head", "mask"),
    "gate": SlotSkeleton(GATE, "multi_head", "gate"),
    "decay": SlotSkeleton(DECAY, "linear", "decay"),
}
