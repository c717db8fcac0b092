"""A sink whose strength each query chooses."""

from jaxtyping import Float
from torch import Tensor, nn

from attnlab.attention.mask import Mask
from attnlab.attention.normalizer import Normalizer
from attnlab.attention.score import Score
from attnlab.attention.score_context import KeyRows, OneScore, ScoreContext
from attnlab.errors import UsageError


class QuerySink(Score):
    """Lets each query say how much it would rather attend to nothing.

    Rule: score_ij = score_ij - w_h . x_i. Beside a key of logit 0 (attention/normalizer=softmax1) that is a sink whose
    logit is w_h . x_i: weights are exp(s_ij) / (exp(w_h . x_i) + sum exp(s_i)).

    Source: Inkling 2, by its code in Hugging Face transformers (2026); a sink that is the same for all queries: arXiv
    2508.10925.
    """

    order = 50
    fusable = False
    by_score = True
    query_extras = 1

    def setup(self) -> None:
        super().setup()
        self.to_sink = nn.Linear(self.d_model, self.n_heads, bias=False)

    def check(self, mask: Mask, normalizer: Normalizer) -> None:
        if normalizer.map_kind == "probability":
            raise UsageError(
                f"attention/score (QuerySink) must meet weights that need not sum to one: attention/normalizer "
                f"({type(normalizer).__name__}) feels nothing that all scores of a query share; choose "
                "attention/normalizer=softmax1"
            )

    def make_query_extras(self, q: Float[Tensor, "b h t d"], x: Float[Tensor, "b t c"]) -> Float[Tensor, "b h t 1"]:
        return self.to_sink(x).mT[..., None]

    def apply_scores(
        self, scores: Float[Tensor, "b h t s"], ctx: ScoreContext, carried: Float[Tensor, "b h s e"] | None
    ) -> Float[Tensor, "b h t s"]:
        assert ctx.asked is not None
        return scores - ctx.asked.to(scores.dtype)

    def one_score(self, rows: KeyRows) -> OneScore:
        assert rows.asked is not None
        sink = rows.asked[..., 0]
        return lambda score, b, h, i, j: score - sink[b, h, i]
