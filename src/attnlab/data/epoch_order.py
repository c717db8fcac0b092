"""The windows of a text in an order of their own each epoch, every one once, and none of it is stored.

The order is a bijection of 0 .. n - 1 that a key chooses: a Feistel network (Luby and Rackoff, SIAM J. Comput. 17,
1988) over the next power of four, applied again to what falls outside (cycle walking: Black and Rogaway, CT-RSA 2002).
Its rounds mix by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

import hashlib

import numpy as np
from jaxtyping import Int64, UInt64

ROUNDS = 6


def n_epoch_windows(n_tokens: int, context: int) -> int:
    """How many windows of `context` tokens, each with the token behind it, stand one after the other in a text."""
    return (n_tokens - 1) // context


def window_starts(n_tokens: int, context: int, key: str, rows: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """Where the windows of these rows begin, rows being counted from the start of training.

    Row r belongs to epoch r // n. In each epoch all n windows come once, shifted together by a part of what n windows
    leave of the text, so that not always the same tokens are left out.
    """
    n = n_epoch_windows(n_tokens, context)
    slack = n_tokens - n * context  # places that the first window may begin at
    starts = np.empty_like(rows)
    for epoch in np.unique(rows // n):
        keys = _keys(f"{key}/{epoch}", ROUNDS + 1)
        own = rows // n == epoch
        starts[own] = permuted(rows[own] % n, n, keys[:-1]) * context + int(keys[-1]) % slack
    return starts


def shuffled(n: int, key: str, draws: Int64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
    """Which of n things come at these draws, counted from the start of training: in each epoch of n each comes once."""
    which = np.empty_like(draws)
    for epoch in np.unique(draws // n):
        own = draws // n == epoch
        which[own] = permuted(draws[own] % n, n, _keys(f"{key}/{epoch}", ROUNDS))
    return which


def permuted(indices: Int64[np.ndarray, " b"], n: int, keys: UInt64[np.ndarray, " k"]) -> Int64[np.ndarray, " b"]:
    """Where a bijection of 0 .. n - 1, one for each choice of `keys`, takes the indices."""
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits
    values = indices.astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():  # at most 3 of 4 numbers are, so that it takes few rounds
        values[outside] = _feistel(values[outside], half, keys)
        outside &= values >= np.uint64(n)
    return values.astype(np.int64)


def _feistel(values: UInt64[np.ndarray, " b"], half: int, keys: UInt64[np.ndarray, " k"]) -> UInt64[np.ndarray, " b"]:
    mask, bits = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> bits, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) & mask)
    return left << bits | right


def _mixed(values: UInt64[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)


def _keys(name: str, count: int) -> UInt64[np.ndarray, " k"]:
    digests = b"".join(hashlib.sha256(f"{name}/{i}".encode()).digest()[:8] for i in range(count))
    return np.frombuffer(digests, "<u8").astype(np.uint64)
