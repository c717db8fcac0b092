"""One recurrence for the whole linear family: a token loop that defines it, and the chunked form that trains.

The state S is one matrix per head, (b, h, d, v). With decay a_t = exp(log_decay_t), and without a write strength:

    S_t = a_t S_{t-1} + k_t v_t^T                                            (add)
    S_t = a_t S_{t-1} + k_t u_t^T,  u_t = beta_t (v_t - a_t S_{t-1}^T k_t)   (delta, with beta)
    o_t = S_t^T q_t

What is removed may stand under another key, p_t in place of the k_t in u_t (`erasure`), and be read before it decays,
S_{t-1}^T p_t (`early`).

A decay is one number per head and token, (b, h, t), or one per row of the state, (b, h, t, d), which decays row by row.

The chunked form is that of arXiv 2406.06484 and 2412.06464: inside a chunk, with G the running sum of log decays and
D_ij = exp(G_i - G_j) for j <= i (G in float64, so that differences of it keep their digits), the writes U solve

    (I + tril(diag(beta) (K K^T * D), -1)) U = diag(beta) (V - exp(G) K S)

With a decay per row, K K^T * D stands for sum_c K_ic K_jc exp(G_ic - G_jc), as in arXiv 2312.06635 and 2510.26692.

Where a document begins, S is empty again. A decay of zero would do that, but its logarithm has no differences. So D_ij
is 0 where i and j are of different documents, exp(G) is 0 for tokens that a border parts from the chunk before, and
what is written before a chunk's last border does not leave it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attnlab.attention.borders import Borders
from attnlab.attention.chunk_decay import ChunkDecay, add_product
from attnlab.attention.uncompiled import uncompiled

Matrix = Float[Tensor, "b h d v"]


def token(
    q: Float[Tensor, "b h 1 d"],
    k: Float[Tensor, "b h 1 d"],
    v: Float[Tensor, "b h 1 v"],
    log_decay: Float[Tensor, "b h 1 r"] | None,
    beta: Float[Tensor, "b h 1"] | None,
    state: Matrix,
    erasure: Float[Tensor, "b h 1 d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h 1 v"], Matrix]:
    """One token: decay the state, write into it, read from it."""
    decayed = state if log_decay is None else state * log_decay.exp().mT
    if beta is not None:
        v = beta[..., None] * (v - (k if erasure is None else erasure) @ (state if early else decayed))
    state = torch.addcmul(decayed, k.mT, v)
    return q @ state, state


def token_loop(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s v"],
    log_decay: Float[Tensor, "b h s"] | Float[Tensor, "b h s d"] | None,
    beta: Float[Tensor, "b h s"] | None,
    state: Matrix,
    erasure: Float[Tensor, "b h s d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The definition: one token after the other. Decoding one token uses it; training uses `chunked`.

    Each of t queries reads after the last of its share of the s tokens.
    """
    rows, out, every = _rows(log_decay), [], k.size(2) // q.size(2)
    if k.size(2) == 1:
        return token(q, k, v, rows, beta, state, erasure, early)
    alone = [[None] * k.size(2) if x is None else x.split(1, dim=2) for x in (k, v, rows, beta, erasure)]
    for i, (k_i, v_i, decay_i, beta_i, erasure_i) in enumerate(zip(*alone, strict=True)):
        o, state = token(q[:, :, i // every, None], k_i, v_i, decay_i, beta_i, state, erasure_i, early)
        out.append(o)
    return torch.cat(out[every - 1 :: every], dim=2), state


@uncompiled  # its loop over chunks would be written out, for minutes, and anew for each length
def chunked(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h s d"],
    v: Float[Tensor, "b h s v"],
    log_decay: Float[Tensor, "b h s"] | Float[Tensor, "b h s d"] | None,
    beta: Float[Tensor, "b h s"] | None,
    state: Matrix,
    chunk: int = 64,
    starts: Bool[Tensor, "b s"] | None = None,
    erasure: Float[Tensor, "b h s d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The same values and gradients as `token_loop`, with matrix products inside chunks of up to `chunk` tokens.

    The token at each of the `starts` finds an empty state.
    """
    t, every = q.size(2), k.size(2) // max(q.size(2), 1)
    if not t:
        return v, state
    chunk = max(min(chunk, k.size(2)) // every, 1) * every
    # Padding writes nothing: its keys are zero and its decay is one.
    pad = -k.size(2) % chunk
    q, k, v = chunks(q, pad // every, chunk // every), chunks(k, pad, chunk), chunks(v, pad, chunk)
    rows = _rows(log_decay)
    borders = None if starts is None else Borders.of(starts, pad, chunk, q.dtype)
    chunk_decay = ChunkDecay(None if rows is None else chunks(rows, pad, chunk), borders, q)
    keys = chunk_decay.written(k)
    if beta is None:
        [[within]], [read] = chunk_decay.meet([q], [keys])
        states, state = states_between(keys.joins.mT @ v, chunk_decay, state)
    else:
        if erasure is not None and early and starts is not None:
            erasure = erasure.masked_fill(starts[:, None, :, None], 0.0)  # nothing is there to correct
        key = k if erasure is None else chunks(erasure, pad, chunk)
        [[within], [own]], [read, met] = chunk_decay.meet([q], [keys], [key], early)
        strength = chunks(beta[..., None], pad, chunk)
        # Only what stands below the diagonal is looked at.
        solve = torch.linalg.solve_triangular(
            own * strength, strength[..., 0].diag_embed(), upper=False, unitriangular=True
        )
        v, states, state = corrections(v, met, solve, keys.joins, chunk_decay, state)
    return unchunked(add_product(within @ v, read, states), t), state


def states_between(
    written: Float[Tensor, "b h n d v"], chunk_decay: ChunkDecay, state: Matrix
) -> tuple[Float[Tensor, "b h n d v"], Matrix]:
    """The state as each chunk finds it, and as the last one leaves it, where what is written does not depend on it."""
    if chunk_decay.before is None and chunk_decay.after is None:
        after = torch.cat([state[:, :, None], written], dim=2).cumsum(dim=2)
        return after[:, :, :-1], after[:, :, -1].clone()  # what is kept must not keep all the others alive
    heads, n = state.shape[:2], written.size(2)
    states, state = [], state.flatten(0, 1)
    for new, (fades, last) in zip(written.flatten(0, 1).unbind(1), chunk_decay.factors(heads, n), strict=True):
        states.append(state)
        state = faded(faded(state, fades) + new, last)
    return torch.stack(states, dim=1).unflatten(0, heads), state.unflatten(0, heads)


def corrections(
    v: Float[Tensor, "b h n t v"],
    met: Float[Tensor, "b h n t d"],
    solve: Float[Tensor, "b h n t t"],
    joins: Float[Tensor, "b h n t d"],
    chunk_decay: ChunkDecay,
    state: Matrix,
    added: Float[Tensor, "b h n d v"] | None = None,
    sign: float = -1.0,
) -> tuple[Float[Tensor, "b h n t v"], Float[Tensor, "b h n d v"], Matrix]:
    """U = solve (v + sign met S) of each chunk, the state S as it finds it, and the state as the last one leaves it.

    A chunk writes -sign joins^T U, and `added`, whatever it finds.
    """
    heads, n = state.shape[:2], v.size(2)
    ends = (x.flatten(0, 1).unbind(1) for x in (v, met, solve, joins.mT))
    sums = [None] * n if added is None else added.flatten(0, 1).unbind(1)
    state, states, all_u = state.flatten(0, 1), [], []
    for new, ask, inverse, write, (before, after), more in zip(*ends, chunk_decay.factors(heads, n), sums, strict=True):
        states.append(state)
        all_u.append(u := inverse @ torch.baddbmm(new, ask, state, alpha=sign))
        left = faded(state, before)
        state = faded(torch.baddbmm(left if more is None else left + more, write, u, alpha=-sign), after)
    u, stood = (torch.stack(x, dim=1).unflatten(0, heads) for x in (all_u, states))
    return u, stood, state.unflatten(0, heads)


def faded(state: Tensor, factor: Tensor | None) -> Tensor:
    return state if factor is None else state * factor


def chunks(x: Tensor, pad: int, chunk: int) -> Tensor:
    """(b, h, t, d) -> (b, h, chunks, chunk, d), zeros at the end."""
    x = F.pad(x, (0, 0, 0, pad)) if pad else x.contiguous()  # which copies nothing where nothing is to be done
    return x.unflatten(2, (-1, chunk))


def unchunked(x: Float[Tensor, "b h n m v"], t: int) -> Float[Tensor, "b h t v"]:
    """What the first t tokens of all chunks got; a slice of all of them would cost a copy on the way back."""
    x = x.flatten(2, 3)
    return x if x.size(2) == t else x[:, :, :t]


def _rows(log_decay: Tensor | None) -> Float[Tensor, "b h t r"] | None:
    """One log decay per row of the state, r = d, or one for all of them, r = 1."""
    return log_decay[..., None] if log_decay is not None and log_decay.ndim == 3 else log_decay
