"""How memories are written, decay, are corrected and are read: a formula for each rule, as `expressions` writes them.

A formula is shown only where it gives the numbers of the layer. `$` of a value is the 1 after it, which counts.
"""

from typing import Literal, NamedTuple

import numpy as np

from attnlab.explain.flow.expressions import Function
from attnlab.explain.flow.node import ALPHA, OMEGA

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
Stage = Literal["write", "state", "context"]


class Line(NamedTuple):
    """One node: its key, letter and axes (`ht..` a vector of each token, `th..` a state), its formula, and a title."""

    key: str
    letter: str
    axes: str
    text: str
    title: str
    stage: Stage = "write"
    function: Function = ""
    start: float | str = 0.0  # what stands before the first token: a number, or the key of a learned matrix


DECAY = Line("decay", "a", "ht0", "extra.log_decay:ht0", "How much of the memory is left", function="exp")
DECAY_BY_ROW = DECAY._replace(axes="htr", text="extra.log_decay:htr")


def _kept(name: str, letter: str, rows: str = "thrc", left: Line | None = DECAY) -> Line:
    """What is left of a memory, and what is written."""
    before = f"<state.{name}:{rows}" if left is None else f"{left.key}:{left.axes} * <state.{name}:{rows}"
    title = f"The {name} after each token: what is left, and what is written"
    return Line(f"state.{name}", letter, rows, f"{before} + state.{name}.written:{rows}", title, "state")


def _written(name: str, text: str, letter: str = "A", rows: str = "thrc") -> Line:
    return Line(f"state.{name}.written", letter, rows, text, "What the token writes")


def _read(name: str) -> Line:
    return Line("context", "z", "htc", f"q:htr * state.{name}:thrc", "What the query reads", "context")


_SHARE = (  # the last column counts
    Line("found", "r", "htc", "q:htr * state.matrix:thrc", "What the query finds", "context"),
    Line("under", "n", "ht0", "found:ht$", "What it finds in the last column, which counts", "context"),
    Line("context", "z", "htc", "found:htc / under:ht0", "What it finds, divided by what it counts", "context"),
)


def _matrix(
    left: Line | None, corrects: tuple[Line, ...], under: str, value: str, read: tuple[Line, ...]
) -> tuple[Line, ...]:
    """A matrix that decays, and is written under a key."""
    return (
        *([] if left is None else [left]),
        *corrects,
        _written("matrix", f"{under}:htr * {value}:htc"),
        _kept("matrix", "S", left=left),
        *read,
    )


def _delta(left: Line | None, under: str, early: bool, strength: str) -> tuple[Line, ...]:
    """The delta rule: of a value is written what the memory does not answer to the key yet."""
    decays = "" if left is None or early else f"{left.key}:{left.axes} * "
    beta = f"{strength}:ht0 * " if strength else ""
    return (
        Line("held", "kS", "htc", f"{decays}{under}:htr * <state.matrix:thrc", "What the memory answers to the key"),
        Line(
            "u", "u", "htc", f"{beta}v:htc - {beta}held:htc", "What is written: the part of the value that is missing"
        ),
    )


_SLOTS = (  # K_t = diag(a_t) K_{t-1} + w_t k_t^T, and a softmax over slots
    _written("keys", "share:htm * k:htd", "A_k", "thmd"),
    _written("values", "share:htm * v:htc", "A_v", "thmc"),
    _kept("keys", "S_k", "thmd", DECAY_BY_ROW._replace(axes="htm")),
    _kept("values", "S_v", "thmc", DECAY_BY_ROW._replace(axes="htm")),
    Line("slots.score", OMEGA, "htm", "@scale * q:htd * state.keys:thmd", "The query and the key of each slot",
         "context"),
    Line("slots.exp", "e^ω", "htm", "slots.score:htm", "e to the score", "context", "exp"),
    Line("slots.total", "Σ", "ht0", "slots.exp:htm", "Their sum", "context"),
    Line("slots.weights", ALPHA, "htm", "slots.exp:htm / slots.total:ht0", "How much of each slot is read", "context"),
    Line("context", "z", "htc", "slots.weights:htm * state.values:thmc", "Values of slots by their weights", "context"),
)  # fmt: skip


_LEFT = (None, DECAY, DECAY_BY_ROW)
FORMULAS: tuple[tuple[Line, ...], ...] = (
    *(_matrix(left, (), "k", "v.one", _SHARE) for left in _LEFT),
    *(_matrix(left, (), "k", "v", (_read("matrix"),)) for left in _LEFT),
    *(  # the delta rule; with another key for removal (Comba, Gated DeltaNet-2)
        _matrix(left, _delta(left, removes, early, strength), "k", "u", (_read("matrix"),))
        for removes in ("k", "extra.erasure")
        for left in _LEFT
        for early in (False, True)
        for strength in ("extra.beta", "")
    ),
    *(  # two corrections by a token, one after the other: DeltaProduct
        (
            *([] if left is None else [left]),
            Line("held", "kS", "htc", f"{decays}k.1:htr * <state.matrix:thrc",
                 "What the memory answers to the first key"),
            Line("u.1", "u_1", "htc", "extra.beta.1:ht0 * v.1:htc - extra.beta.1:ht0 * held:htc",
                 "What is written first"),
            Line("half.written", "A_1", "thrc", "k.1:htr * u.1:htc", "What the token writes first"),
            Line("half", "S_1", "thrc", f"{decays}<state.matrix:thrc + half.written:thrc",
                 "The matrix between the two"),
            Line("held.2", "kS", "htc", "k.2:htr * half:thrc", "What it answers to the second key"),
            Line("u.2", "u_2", "htc", "extra.beta.2:ht0 * v.2:htc - extra.beta.2:ht0 * held.2:htc",
                 "What is written then"),
            _written("matrix", "k.2:htr * u.2:htc"),
            _kept("matrix", "S", left=None)._replace(text="half:thrc + state.matrix.written:thrc"),
            _read("matrix"),
        )
        for left, decays in ((None, ""), (DECAY, "decay:ht0 * "), (DECAY_BY_ROW, "decay:htr * "))
    ),
    (  # gates that are exponentials: mLSTM, in units of e^m
        Line("risen", "m'", "ht0", "extra.log_decay:ht0 + <unit:ht0", "The unit before, decayed"),
        Line("unit", "m", "ht0", "risen:ht0 + extra.log_input:ht0", "The unit that the matrix is kept in",
             function="max", start=-np.inf),
        Line("decay", "a", "ht0", "risen:ht0 - unit:ht0", "How much of the matrix is left", function="exp"),
        Line("input", "i", "ht0", "extra.log_input:ht0 - unit:ht0", "How strongly the token is written",
             function="exp"),
        _written("matrix", "input:ht0 * k:htr * v.one:htc"),
        _kept("matrix", "S"),
        Line("found", "r", "htc", "q:htr * state.matrix:thrc", "What the query finds", "context"),
        Line("under", "|n|", "ht0", "found:ht$", "What was written under the query", "context", "abs"),
        Line("one", "1_m", "ht0", "- unit:ht0", "1, in the unit", "context", "exp"),
        Line("divisor", "d", "ht0", "under:ht0 + one:ht0", "The larger of the two", "context", "max"),
        Line("context", "z", "htc", "found:htc / divisor:ht0", "What the query finds, divided", "context"),
    ),
    (  # steps that are trapezoids: Mamba-3
        DECAY,
        _written(
            "matrix", "extra.now:ht0 * turned.k:htr * v:htc + decay:ht0 * extra.again:ht0 * <turned.k:htr * <v:htc"
        ),
        _kept("matrix", "S"),
        Line("context", "z", "htc", "turned.q:htr * state.matrix:thrc", "What the turned query reads", "context"),
    ),
    (  # slots, of which each keeps a share: GSA, Raven
        Line("decay", "a", "htm", "extra.log_kept:htm", "What each slot keeps", function="exp"),
        Line("share", "w", "htm", "1 - decay:htm", "What is replaced by the token"),
        *_SLOTS,
    ),
    (  # slots that are means: ABC
        Line("strength", "e^s", "htm", "extra.logits:htm", "The token's strength in each slot", function="exp"),
        Line("sum", "Σ_s", "htm", "<sum:htm + strength:htm", "The strengths so far"),
        Line("decay", "a", "htm", "<sum:htm / sum:htm", "What each slot keeps"),
        Line("share", "w", "htm", "strength:htm / sum:htm", "The token's share"),
        *_SLOTS,
    ),
    (  # a small model that is trained: TTT
        Line("strength", "s", "ht0", "extra.rate:ht0", "The rate, from 0 to 1", function="sigmoid"),
        Line("eta", "η", "ht0", "@rate * strength:ht0 / @head_dim", "How far the token's gradient is followed"),
        Line("answer", "p", "htc", "k.one:hte * <state.weight:thec", "The inner model's answer to the key"),
        Line("mean", "μ", "ht0", "answer:htc / @head_dim", "Its mean"),
        Line("apart", "δ", "htc", "answer:htc - mean:ht0", "How far each number is from it"),
        Line("spread", SIGMA, "ht0", "apart:htc * apart:htc / @head_dim + 1e-6", "Their spread", function="sqrt"),
        Line("normed", "n", "htc", "apart:htc / spread:ht0", "The answer, normalised"),
        Line("error", "e", "htc",
             "normed:htc * gain:h0c * gain:h0c + offset:h0c * gain:h0c + k:htc * gain:h0c - v:htc * gain:h0c",
             "How far f(k) is from the value"),
        Line("level", "ē", "ht0", "error:htc / @head_dim", "The mean of the error"),
        Line("along", "ēn", "ht0", "error:htc * normed:htc / @head_dim", "How much of it lies along n"),
        Line("gradient", "g", "htc",
             "eta:ht0 * error:htc / spread:ht0 - eta:ht0 * level:ht0 / spread:ht0"
             " - eta:ht0 * normed:htc * along:ht0 / spread:ht0",
             "The gradient, by its rate"),
        Line("state.inner.written", "A", "thec", "- k.one:hte * gradient:htc", "What the token changes"),
        Line("state.inner", "S", "thec", "<state.inner:thec + state.inner.written:thec",
             "The inner model after each token", "state", start="W_0"),
        Line("read", "p", "htc", "q.one:hte * state.inner:thec", "The inner model's answer to the query", "context"),
        Line("read.mean", "μ", "ht0", "read:htc / @head_dim", "Its mean", "context"),
        Line("read.apart", "δ", "htc", "read:htc - read.mean:ht0", "How far each number is from it", "context"),
        Line("read.spread", SIGMA, "ht0", "read.apart:htc * read.apart:htc / @head_dim + 1e-6", "Their spread",
             "context", "sqrt"),
        Line("context", "z", "htc", "q:htc + read.apart:htc * gain:h0c / read.spread:ht0 + offset:h0c",
             "The query, and the answer normalised", "context"),
    ),
    (  # corrections that gather momentum
        DECAY,
        Line("hold", "m", "ht0", "extra.log_momentum:ht0", "How much of the momentum is left", function="exp"),
        Line("held", "kS", "htc", "decay:ht0 * k:htr * <state.stored:thrc", "What the memory answers to the key"),
        Line("u", "u", "htc", "v:htc - held:htc", "The value less that"),
        _written("momentum", "extra.joins:ht0 * k:htr * u:htc", "A_n"),
        _kept("momentum", "S_n", left=DECAY._replace(key="hold")),
        _written("stored", "extra.writes:ht0 * state.momentum:thrc"),
        _kept("stored", "S"),
        _read("stored"),
    ),
    (  # corrected under one key, written under another: RWKV-7
        DECAY_BY_ROW,
        Line("held", "kS", "htc", "extra.removal:htr * <state.memory:thrc", "What is found under the key of removal"),
        Line("removed", "an", "htr", "extra.rate:htr * extra.removal:htr", "Where it is taken out"),
        _written("memory", "k:htr * v:htc - removed:htr * held:htc"),
        _kept("memory", "S", left=DECAY_BY_ROW),
        _read("memory"),
    ),
    (  # least squares: Mesa
        DECAY,
        _written("keys", "extra.beta:ht0 * k:htr * k:hts", "A_k", "thrs"),
        _kept("keys", "S_k", "thrs"),
        _written("values", "extra.beta:ht0 * k:htr * v:htc", "A_v"),
        _kept("values", "S_v"),
        Line("context", "z", "htc", "solved.q:htr * state.values:thrc", "What the solution reads", "context"),
    ),
    (  # features that are exponentials: Performer, in units of the first key
        Line("strength", "k", "htr", "extra.log_k:htr - first.k:htr", "The feature of the key, in the unit",
             function="exp"),
        _written("matrix", "strength:htr * v.one:htc"),
        _kept("matrix", "S", left=None),
        Line("asks", "q", "htr", "extra.log_q:htr + first.k:htr", "The feature of the query", "context", "exp"),
        Line("found", "r", "htc", "asks:htr * state.matrix:thrc", "What the query finds", "context"),
        *_SHARE[1:],
    ),
    (  # a map, of which each stretch is rated apart: log-linear
        Line("age", "ln a", "ht0", "<age:ht0 + extra.log_decay:ht0", "The decays so far, their logarithms", "context"),
        Line("dot", OMEGA, "hij", "q:hid * k:hjd", "Scores", "context"),
        Line("decay", "a", "hij", "age:hi0 - age:hj0", "What is left of the key", "context", "exp"),
        Line("map", ALPHA, "hij", "dot:hij * decay:hij * rated.map:hij", "The score, decayed, rated by its stretch",
             "context"),
    ),
    (  # a mean of all values
        Line("state.memory", "S", "th0c", "<state.memory:th0c + v:htc", "The sum of the values so far", "state"),
        Line("count", "n", "ht0", "<count:ht0 + 1", "How many there were", "context"),
        Line("context", "z", "htc", "state.memory:th0c / count:ht0", "Their mean", "context"),
    ),
    *(  # the delta rule with a key that is scaled before it is written under: preconditioned
        _matrix(left, _delta(left, "k", False, "extra.beta"), "written.k", "u", (_read("matrix"),)) for left in _LEFT
    ),
)  # fmt: skip
"""Tried one after the other."""
