"""What happens to q . k before the normaliser. Several options form a chain, whose order is fixed by `order`."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnlab.errors import UsageError
from attnlab.norm import RMSNorm


class Score(nn.Module):
    """One link of the chain; this base changes nothing.

    Built per layer as factory(n_heads=, head_dim=). `fusable` says that `apply` does nothing, so that the fused
    kernel can serve. At most one link of a chain may choose the `scale`; without one it is 1 / sqrt(d).
    """

    order = 0
    fusable = True
    scale: float | None = None

    def __init__(self, *, n_heads: int, head_dim: int) -> None:
        super().__init__()
        self.n_heads, self.head_dim = n_heads, head_dim

    def prepare(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        """Change queries and keys as they are made, before positions turn them."""
        return q, k

    def apply_scores(self, scores: Float[Tensor, "b h t s"]) -> Float[Tensor, "b h t s"]:
        """Change the scaled scores, before position biases, masking and normalising."""
        return scores


class Scaled(Score):
    """Divides by sqrt(d) times a temperature, so that scores keep their spread as heads grow (arXiv 1706.03762)."""

    def __init__(self, *, n_heads: int, head_dim: int, temperature: float = 1.0) -> None:
        super().__init__(n_heads=n_heads, head_dim=head_dim)
        if temperature <= 0:
            raise UsageError(f"temperature ({temperature}) must be greater than 0")
        self.scale = head_dim**-0.5 / temperature


class Unscaled(Score):
    """Leaves q . k as it is: the chapter's first example."""

    scale = 1.0


class QKNorm(Score):
    """Gives queries and keys unit root-mean-square and a learned gain per coordinate, so that scores stay bounded.

    q = rms(q) * g_q, k = rms(k) * g_k, per head. Source: arXiv 2010.04245, in the RMS form of arXiv 2302.05442.
    """

    order = 10

    def __init__(self, *, n_heads: int, head_dim: int) -> None:
        super().__init__(n_heads=n_heads, head_dim=head_dim)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)

    def prepare(
        self, q: Float[Tensor, "b h t d"], k: Float[Tensor, "b g t d"], x: Float[Tensor, "b t c"]
    ) -> tuple[Float[Tensor, "b h t d"], Float[Tensor, "b g t d"]]:
        work = torch.promote_types(q.dtype, torch.float32)  # what is normalised stays exact until the scores
        return self.q_norm(q.to(work)), self.k_norm(k.to(work))


class SoftCap(Score):
    """Bends scores so that none leaves (-cap, cap): cap * tanh(score / cap). Source: Gemma 2, arXiv 2408.00118."""

    order = 20
    fusable = False

    def __init__(self, *, n_heads: int, head_dim: int, cap: float = 50.0) -> None:
        super().__init__(n_heads=n_heads, head_dim=head_dim)
        if cap <= 0:
            raise UsageError(f"cap ({cap}) must be greater than 0")
        self.cap = cap

    def apply_scores(self, scores: Float[Tensor, "b h t s"]) -> Float[Tensor, "b h t s"]:
        return self.cap * (scores / self.cap).tanh()
