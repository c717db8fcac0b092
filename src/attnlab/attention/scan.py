"""One recurrence for the whole linear family: a token loop that defines it, and the chunked form that trains.

The state S is one matrix per head, (b, h, d, v). With decay a_t = exp(log_decay_t), and without a write strength:

    S_t = a_t S_{t-1} + k_t v_t^T                                            (add)
    S_t = a_t S_{t-1} + k_t u_t^T,  u_t = beta_t (v_t - a_t S_{t-1}^T k_t)   (delta, with beta)
    o_t = S_t^T q_t

The chunked form is that of arXiv 2406.06484 and 2412.06464: inside a chunk, with G the running sum of log decays and
D_ij = exp(G_i - G_j) for j <= i, the writes U solve

    (I + tril(diag(beta) (K K^T * D), -1)) U = diag(beta) (V - exp(G) K S)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Matrix = Float[Tensor, "b h d v"]


def token(
    q: Float[Tensor, "b h d"],
    k: Float[Tensor, "b h d"],
    v: Float[Tensor, "b h v"],
    log_decay: Float[Tensor, "b h"] | None,
    beta: Float[Tensor, "b h"] | None,
    state: Matrix,
) -> tuple[Float[Tensor, "b h v"], Matrix]:
    """One token: fade the state, write into it, read from it."""
    if log_decay is not None:
        state = state * log_decay.exp()[..., None, None]
    if beta is not None:
        v = beta[..., None] * (v - torch.einsum("bhd,bhdv->bhv", k, state))
    state = state + k[..., :, None] * v[..., None, :]
    return torch.einsum("bhd,bhdv->bhv", q, state), state


def token_loop(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"] | None,
    beta: Float[Tensor, "b h t"] | None,
    state: Matrix,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The definition: one token after the other. Decoding one token uses it; training uses `chunked`."""
    out = []
    for i in range(q.size(2)):
        decay_i = None if log_decay is None else log_decay[:, :, i]
        beta_i = None if beta is None else beta[:, :, i]
        o, state = token(q[:, :, i], k[:, :, i], v[:, :, i], decay_i, beta_i, state)
        out.append(o)
    return torch.stack(out, dim=2), state


def chunked(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"] | None,
    beta: Float[Tensor, "b h t"] | None,
    state: Matrix,
    chunk: int = 64,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The same values and gradients as `token_loop`, with matrix products inside chunks of `chunk` tokens."""
    t = q.size(2)
    chunk = min(chunk, t)
    # Padding writes nothing: its keys are zero and its decay is one.
    pad = -t % chunk
    cut = [_chunks(x, pad, chunk) for x in (q, k, v)]
    q, k, v = cut
    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    fade = fade_in = fade_out = None
    if log_decay is not None:
        g = F.pad(log_decay, (0, pad)).unflatten(-1, (-1, chunk)).cumsum(dim=-1)
        fade = (g[..., :, None] - g[..., None, :]).masked_fill(~lower, -torch.inf).exp()  # D: 1 or less, 0 above
        fade_in, fade_out = g.exp()[..., None], (g[..., -1:] - g).exp()[..., None]
    within = (q @ k.mT).masked_fill(~lower, 0.0) if fade is None else (q @ k.mT) * fade
    read = q if fade_in is None else q * fade_in
    write = k if fade_out is None else k * fade_out
    erase = None
    if beta is not None:
        strength = F.pad(beta, (0, pad)).unflatten(-1, (-1, chunk))[..., None]
        overlap = (k @ k.mT) if fade is None else (k @ k.mT) * fade
        system = (strength * overlap).tril(-1)
        seen = k if fade_in is None else k * fade_in
        solved = torch.linalg.solve_triangular(
            system, strength * torch.cat([v, seen], dim=-1), upper=False, unitriangular=True
        )
        v, erase = solved.split([v.size(-1), k.size(-1)], dim=-1)
    out = []
    for i in range(q.size(2)):
        u = v[:, :, i] if erase is None else v[:, :, i] - erase[:, :, i] @ state
        out.append(within[:, :, i] @ u + read[:, :, i] @ state)
        kept = state if fade_in is None else state * fade_in[:, :, i, -1:, :]
        state = kept + write[:, :, i].mT @ u
    return torch.stack(out, dim=2).flatten(2, 3)[:, :, :t], state


def _chunks(x: Tensor, pad: int, chunk: int) -> Tensor:
    """(b, h, t, d) -> (b, h, chunks, chunk, d), zeros at the end."""
    return F.pad(x, (0, 0, 0, pad)).unflatten(2, (-1, chunk))
