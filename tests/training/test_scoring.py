"""The error of an accuracy: binomial where each row asks once, by rows where answers go together, never 0."""

import math

import numpy as np
import pytest
import torch

from attnlab.data.dataset import IGNORED
from attnlab.training.scoring import ERROR, by_row, error_of, numbers, score_answers, tally


def scored(right: np.ndarray, asked: np.ndarray) -> tuple[float, float]:
    """Accuracy and error of rows whose answers are right or wrong as said, in two batches."""
    targets = torch.from_numpy(np.where(asked, 1, IGNORED))
    logits = torch.nn.functional.one_hot(torch.from_numpy(right).long(), 2).float()
    batches = [(logits[rows], targets[rows]) for rows in (slice(0, 7), slice(7, None))]
    rows = sum((by_row(*batch) for batch in batches), torch.zeros(4, dtype=torch.float64))
    totals = sum(
        (tally(score_answers(*b), torch.zeros_like(b[1]), 1) for b in batches), torch.zeros(1, 3, dtype=torch.float64)
    )
    logged = numbers(totals, rows, ["all"])
    return logged["val/accuracy"], logged[ERROR]


def test_error_is_binomial() -> None:
    asked = np.zeros((400, 3), bool)
    asked[:, 2] = True
    right = np.arange(400)[:, None] < np.array([[0, 0, 100]])
    assert scored(right, asked) == (0.25, pytest.approx(1.96 * math.sqrt(0.25 * 0.75 / 400)))


def test_error_counts_rows() -> None:
    """Ten answers that are right or wrong together count once; independent ones count ten times."""
    rng = np.random.default_rng(0)
    together = np.repeat(rng.random((400, 1)) < 0.25, 10, axis=1)
    apart = rng.random((400, 10)) < 0.25
    for right, answers in ((together, 400), (apart, 4000)):
        accuracy, error = scored(right, np.ones((400, 10), bool))
        assert error == pytest.approx(1.96 * math.sqrt(accuracy * (1 - accuracy) / answers), rel=0.05)


def test_error_covers() -> None:
    """19 times in 20 the interval holds the true value, also where rows ask for different numbers of answers."""
    rng, inside = np.random.default_rng(1), 0
    for _ in range(400):
        asked = np.arange(8) < rng.integers(1, 9, size=(300, 1))
        right = rng.random((300, 8)) < rng.beta(2, 2, size=(300, 1))
        accuracy, error = scored(right, asked)
        inside += abs(accuracy - 0.5) < error
    assert 0.92 < inside / 400 < 0.98


def test_error_of_all_right() -> None:
    assert scored(np.ones((100, 2), bool), np.ones((100, 2), bool)) == (1.0, 0.03)
    assert error_of(1.0, 5.0, torch.tensor([5.0, 5.0, 5.0, 5.0], dtype=torch.float64)) == 0.6
