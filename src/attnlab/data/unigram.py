"""The loss of guessing tokens by how often they occur: what a model that ignores all context can reach."""

import numpy as np
from jaxtyping import Int64, Integer

BLOCK = 1 << 20  # tokens that are counted at once


def unigram_entropy(
    train: Integer[np.ndarray, " n"],
    val: Integer[np.ndarray, " m"],
    n_vocab: int,
    unasked: Int64[np.ndarray, " d"] | tuple[()] = (),
) -> float:
    """The loss of guessing by frequency, in nats per predicted validation token: all but the first and the `unasked`.

    -mean(ln p), p(token) = (count in the training text + 1) / (training tokens + n_vocab): a model that
    ignores all context. One that reads any must do better.
    """
    counts = np.ones(n_vocab)
    for start in range(0, len(train), BLOCK):
        counts += np.bincount(train[start : start + BLOCK], minlength=n_vocab)
    surprise = -np.log(counts / counts.sum())
    total = sum(float(surprise[val[start : start + BLOCK]].sum()) for start in range(1, len(val), BLOCK))
    left_out = surprise[val[list(unasked)]] if len(unasked) else np.zeros(0)
    return (total - float(left_out.sum())) / max(1, len(val) - 1 - len(left_out))
