"""Three sparse views of the past at once: summaries of blocks, the best blocks in full, and the latest tokens."""

from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attnlab.attention.block_topk import best_blocks, over_tokens, own_block
from attnlab.attention.documents import Start
from attnlab.attention.heads import Heads, join_heads, per_query_head
from attnlab.attention.mask import Window
from attnlab.attention.projection import QKV
from attnlab.attention.published import UNSAID, Starts
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.options import Count, option


class BranchGates(NamedTuple):
    """How much each query head takes of the summaries, the chosen blocks and the window, before the sigmoid."""

    gates: Float[Tensor, "3 b h t 1"]


class NativeSparseAttention(SoftmaxAttention):
    """Each query reads summaries of all past blocks, a few past blocks in full, and a window, and gates the three.

    Rule: A = g_c * A_c P_v + g_s * A_s + g_w * A_w. Gates are g = sigmoid(W_g x) per query head. P_k and P_v pool the
    keys and values of each block of `block` tokens by learned weights softmax(a), so that A_c = softmax over blocks
    that end at or before i of q_i . (P_k k)_B / sqrt(d), zero where there is none yet. A_s is the softmax over the
    query's own block and the `topn` blocks before it of highest A_c, summed over the query heads of a key head; of
    equal ones the earliest wins, and no gradient flows through the choice. A_w is the softmax over the last `window`
    tokens. Rows sum to g_c + g_s + g_w.

    Source: NSA, arXiv 2502.11089. Where we differ: the pooling is a weighted mean, not a network, blocks do not
    overlap, and the three branches share keys and values, so that one map over tokens says it all; keys are pooled
    after positions have rotated them; neither the first block nor the one before the query's own is always read; blocks
    are ranked by A_c without its last digits, so that rounding errors choose nothing; the whole map is formed and then
    masked. In bfloat16 a near tie between blocks may fall otherwise than in float32, which is a jump in the output.
    Decoding keeps all keys and values and pools anew.
    """

    documents = True
    withdrawn = {"mask", "score", "normalizer"}
    block: Count = option(default=16, short=2, doc="Tokens of a block.")
    topn: Count = option(default=2, short=1, doc="Past blocks that a query reads in full.")
    window: Count = option(default=32, short=3, doc="Latest tokens that a query reads, its own included.")

    hooks = frozenset({"rotate"})
    fusable = False

    published: ClassVar[Starts] = dict.fromkeys(("pool_k", "pool_v"), UNSAID)

    def setup(self) -> None:
        super().setup()
        self.traits = replace(self.traits, map_kind="nonnegative")
        self.latest = Window(self.window)
        self.qkv = QKV(self)
        self.pool_k = nn.Parameter(torch.zeros(self.n_kv_heads, self.block))
        self.pool_v = nn.Parameter(torch.zeros(self.n_kv_heads, self.block))
        self.to_gates = nn.Linear(self.d_model, 3 * self.n_heads, bias=False)
        self.to_out = nn.Linear(self.n_heads * self.value_dim, self.d_out, bias=False)

    def project(self, x: Float[Tensor, "b t c"], start: Start = 0, tail: Tensor | None = None) -> Heads:
        q, k, v, tail = self.qkv(x, tail, start)
        q, k, carried = self.prepare_qk(q, k, x, start)
        gates = self.to_gates(x).unflatten(-1, (3, self.n_heads)).permute(0, 2, 3, 1)[..., None]  # (b, 3, h, t, 1)
        return Heads(q, k, v, tail=tail, carried=carried, own=BranchGates(gates))

    def explicit_weights(
        self, heads: Heads, q_pos: Int[Tensor, " t"], k_pos: Int[Tensor, " s"]
    ) -> Float[Tensor, "b h t s"]:
        visible = self.visible(q_pos, k_pos)
        scores = self.scores(heads, q_pos, k_pos, visible)
        blocks = self.compressed(heads, q_pos)
        shared = blocks.unflatten(1, (self.n_kv_heads, -1)).sum(dim=2)
        chosen = per_query_head(best_blocks(shared, q_pos, self.block, self.topn), self.n_heads)
        read = over_tokens(chosen, self.block, k_pos.numel()) | own_block(q_pos, k_pos, self.block)
        latest = self.latest.visible(q_pos, k_pos) & visible
        pool = self.pool_v.softmax(dim=-1).repeat_interleave(self.n_heads // self.n_kv_heads, 0).to(blocks.dtype)
        summaries = (blocks[..., None] * pool[:, None, None]).flatten(-2)
        branches = (
            F.pad(summaries, (0, k_pos.numel() - summaries.size(-1))),
            self.normalizer(scores, read & visible),
            self.normalizer(scores, latest),
        )
        gates = heads.own.gates.to(scores.dtype).sigmoid()
        return sum(gate * branch for gate, branch in zip(gates.unbind(1), branches, strict=True))

    def compressed(self, heads: Heads, q_pos: Int[Tensor, " t"]) -> Float[Tensor, "b h t n"]:
        """How much each query attends to the summary of each block, A_c; blocks that have not ended get 0."""
        work = torch.promote_types(heads.q.dtype, torch.float32)
        whole = heads.k[:, :, : heads.k.size(2) // self.block * self.block].to(work).unflatten(2, (-1, self.block))
        summaries = (whole * self.pool_k.softmax(dim=-1).to(work)[:, None, :, None]).sum(dim=3)
        scores = (heads.q.to(work) @ per_query_head(summaries, self.n_heads).mT).to(work) * self.scale
        ends = (torch.arange(scores.size(-1), device=q_pos.device) + 1) * self.block - 1
        ended = ends <= q_pos[:, None]
        # A finite floor, so that a query with no block yet has neither a NaN nor a gradient.
        return scores.masked_fill(~ended, torch.finfo(scores.dtype).min).softmax(dim=-1) * ended

    def merge(self, o: Float[Tensor, "b h t v"], heads: Heads) -> Float[Tensor, "b t o"]:
        return self.to_out(join_heads(o))
