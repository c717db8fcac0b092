"""Numbers per head, against cases worked by hand."""

import math

import numpy as np
import pytest

from attnlab.inspection.metrics import (
    attention_distance,
    attention_entropy,
    first_token_mass,
    head_metrics,
    shares,
    uniform_causal_entropy,
)


def one_head(*rows: list[float]) -> np.ndarray:
    return np.array([rows], dtype=np.float32)


def test_a_head_that_looks_at_one_token_has_entropy_zero() -> None:
    w = shares(one_head([1, 0, 0], [0, 1, 0], [0, 1, 0]), "probability")
    assert attention_entropy(w).tolist() == [0]
    assert first_token_mass(w).tolist() == [pytest.approx(1 / 3)]
    assert attention_distance(w).tolist() == [pytest.approx(1 / 3)]  # only the last row looks back, by one


def test_a_head_that_looks_at_everything_alike_has_the_reference_entropy() -> None:
    t = 7
    w = shares((np.tril(np.ones((2, t, t))) / np.arange(1, t + 1)[:, None]).astype(np.float32), "probability")
    np.testing.assert_allclose(attention_entropy(w), uniform_causal_entropy(t), rtol=1e-6)
    np.testing.assert_allclose(attention_distance(w), np.mean(np.arange(t) / 2), rtol=1e-6)
    np.testing.assert_allclose(first_token_mass(w), np.mean(1 / np.arange(1, t + 1)), rtol=1e-6)


def test_the_reference_is_the_mean_of_the_logarithms() -> None:
    assert uniform_causal_entropy(3) == pytest.approx((math.log(1) + math.log(2) + math.log(3)) / 3)
    assert uniform_causal_entropy(1) == 0


def test_a_case_worked_by_hand() -> None:
    w = shares(one_head([1, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]), "probability")
    rows = [0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), 1.5 * math.log(2)]
    assert attention_entropy(w)[0] == pytest.approx(sum(rows) / 3)
    assert first_token_mass(w)[0] == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert attention_distance(w)[0] == pytest.approx((0 + 0.25 + 0.5 * 2 + 0.25) / 3)


def test_signed_maps_count_by_their_size_row_by_row() -> None:
    signed = one_head([-2, 0, 0], [3, -1, 0], [0, 0, 0])
    w = shares(signed, "signed")
    assert w[0].tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 0]]
    assert first_token_mass(w)[0] == pytest.approx((1 + 0.75 + 0) / 3)


@pytest.mark.parametrize("kind", ["sub_probability", "nonnegative", "signed"])
def test_the_size_of_a_row_does_not_matter_where_rows_need_not_sum_to_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    maps = np.tril(rng.uniform(0.1, 1, size=(3, 5, 5))).astype(np.float32)
    larger = maps * rng.uniform(1, 9, size=(3, 5, 1)).astype(np.float32)
    a, b = head_metrics(maps, kind, 0), head_metrics(larger, kind, 0)
    assert a.keys() == b.keys() and all(a[k] == pytest.approx(b[k], rel=1e-5) for k in a)


def test_tags_name_the_layer_and_the_head() -> None:
    maps = np.stack([np.eye(3), np.tril(np.ones((3, 3))) / [[1], [2], [3]]]).astype(np.float32)
    numbers = head_metrics(maps, "probability", 11)
    assert sorted(numbers) == [
        "attention_distance/L11H00",
        "attention_distance/L11H01",
        "attention_entropy/L11H00",
        "attention_entropy/L11H01",
        "attention_first_token_mass/L11H00",
        "attention_first_token_mass/L11H01",
    ]
    assert numbers["attention_entropy/L11H00"] == 0 < numbers["attention_entropy/L11H01"]
    assert all(isinstance(v, float) for v in numbers.values())
