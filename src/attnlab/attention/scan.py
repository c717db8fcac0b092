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
from attnlab.attention.chunk_decay import ChunkDecay
from attnlab.attention.uncompiled import uncompiled

Matrix = Float[Tensor, "b h d v"]


def token(
    q: Float[Tensor, "b h d"],
    k: Float[Tensor, "b h d"],
    v: Float[Tensor, "b h v"],
    log_decay: Float[Tensor, "b h r"] | None,
    beta: Float[Tensor, "b h"] | None,
    state: Matrix,
    erasure: Float[Tensor, "b h d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h v"], Matrix]:
    """One token: decay the state, write into it, read from it."""
    decayed = state if log_decay is None else state * log_decay.exp()[..., None]
    if beta is not None:
        key = k if erasure is None else erasure
        v = beta[..., None] * (v - torch.einsum("bhd,bhdv->bhv", key, state if early else decayed))
    state = decayed + k[..., :, None] * v[..., None, :]
    return torch.einsum("bhd,bhdv->bhv", q, state), state


def token_loop(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"] | Float[Tensor, "b h t d"] | None,
    beta: Float[Tensor, "b h t"] | None,
    state: Matrix,
    erasure: Float[Tensor, "b h t d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The definition: one token after the other. Decoding one token uses it; training uses `chunked`."""
    rows, out = _rows(log_decay), []
    for i in range(q.size(2)):
        decay_i = None if rows is None else rows[:, :, i]
        beta_i = None if beta is None else beta[:, :, i]
        erasure_i = None if erasure is None else erasure[:, :, i]
        o, state = token(q[:, :, i], k[:, :, i], v[:, :, i], decay_i, beta_i, state, erasure_i, early)
        out.append(o)
    return torch.stack(out, dim=2), state


@uncompiled  # its loop over chunks would be written out, for minutes, and anew for each length
def chunked(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b h t d"],
    v: Float[Tensor, "b h t v"],
    log_decay: Float[Tensor, "b h t"] | Float[Tensor, "b h t d"] | None,
    beta: Float[Tensor, "b h t"] | None,
    state: Matrix,
    chunk: int = 64,
    starts: Bool[Tensor, "b t"] | None = None,
    erasure: Float[Tensor, "b h t d"] | None = None,
    early: bool = False,
) -> tuple[Float[Tensor, "b h t v"], Matrix]:
    """The same values and gradients as `token_loop`, with matrix products inside chunks of `chunk` tokens.

    The token at each of the `starts` finds an empty state.
    """
    t = q.size(2)
    if not t:
        return v, state
    chunk = min(chunk, t)
    # Padding writes nothing: its keys are zero and its decay is one.
    pad = -t % chunk
    q, k, v = (chunks(x, pad, chunk) for x in (q, k, v))
    rows = _rows(log_decay)
    borders = None if starts is None else Borders.of(starts, pad, chunk, q.dtype)
    chunk_decay = ChunkDecay(None if rows is None else chunks(rows, pad, chunk), borders, q)
    write = chunk_decay.leaving(k)
    if beta is None:
        [[within]], [read] = chunk_decay.meet([q], [k])
        states, state = states_between(write.mT @ v, chunk_decay.whole, state)
        answers = read @ states
    else:
        strength = chunks(beta[..., None], pad, chunk)
        if erasure is not None and early and starts is not None:
            erasure = erasure.masked_fill(starts[:, None, :, None], 0.0)  # nothing is there to correct
        key = strength * (k if erasure is None else chunks(erasure, pad, chunk))
        [[within], [own]], [read, met] = chunk_decay.meet(
            [q, F.pad(key[..., 1:, :], (0, 0, 0, 1)) if early else key], [k]
        )
        if early:  # a token corrects what the one before it read
            own, met = F.pad(own, (0, 0, 1, -1)), torch.cat([key[..., :1, :], met[..., :-1, :]], dim=-2)
        # Only what stands below the diagonal is looked at.
        right = torch.cat([strength * v, met], dim=-1)
        solved = torch.linalg.solve_triangular(own, right, upper=False, unitriangular=True)
        new, erase = solved.split([v.size(-1), k.size(-1)], dim=-1)
        v, answers, state = corrections(new, erase, write.mT, read, chunk_decay.whole, state)
    return unchunked(within @ v + answers, t), state


def states_between(
    written: Float[Tensor, "b h n d v"], decay: Float[Tensor, "#b #h n #d 1"] | None, state: Matrix
) -> tuple[Float[Tensor, "b h n d v"], Matrix]:
    """The state as each chunk finds it, and as the last one leaves it, where what is written does not depend on it."""
    if decay is None:
        after = torch.cat([state[:, :, None], written], dim=2).cumsum(dim=2)
        return after[:, :, :-1], after[:, :, -1].clone()  # what is kept must not keep all the others alive
    states = []
    # Slices of a tensor each cost a gradient as large as the whole; unbinding it costs one for all.
    for new, factor in zip(written.unbind(2), decay.unbind(2), strict=True):
        states.append(state)
        state = state * factor + new
    return torch.stack(states, dim=2), state


def corrections(
    new: Float[Tensor, "b h n t v"],
    erase: Float[Tensor, "b h n t d"],
    write: Float[Tensor, "b h n d t"],
    read: Float[Tensor, "b h n t d"],
    decay: Float[Tensor, "#b #h n #d 1"] | None,
    state: Matrix,
    added: Float[Tensor, "b h n d v"] | None = None,
) -> tuple[Float[Tensor, "b h n t v"], Float[Tensor, "b h n t v"], Matrix]:
    """What is really written once the state is known, what is read of it before, and the state as the last chunk leaves
    it.

    What each chunk writes whatever it finds is `added`.
    """
    heads, t = state.shape[:2], new.size(-2)
    # One product asks for what is erased and for what is read, so that no state outlives its turn.
    ends = (new, torch.cat([-erase, read], dim=-2), write)
    decays, sums = (
        [None] * new.size(2) if x is None else x.expand(*heads, -1, -1, -1).flatten(0, 1).unbind(1)
        for x in (decay, added)
    )
    state, all_u, answers = state.flatten(0, 1), [], []
    for v, ask, w, factor, more in zip(*(x.flatten(0, 1).unbind(1) for x in ends), decays, sums, strict=True):
        met, answer = torch.bmm(ask, state).split([t, ask.size(1) - t], dim=1)
        all_u.append(u := v + met)
        answers.append(answer)
        left = state if factor is None else state * factor
        state = torch.baddbmm(left if more is None else left + more, w, u)
    u, answered = (torch.stack(x, dim=1).unflatten(0, heads) for x in (all_u, answers))
    return u, answered, state.unflatten(0, heads)


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
