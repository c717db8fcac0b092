"""Numbers per head, against cases worked by hand."""

import math

import numpy as np
import pytest

from attnlab.inspection.head_metrics import (
    attention_distance,
    attention_entropy,
    diversity,
    effective_rank,
    first_token_mass,
    head_metrics,
    negative_share,
    repeat_metrics,
    repeated_sequence,
    row_sum,
    shares,
    uniform_causal_entropy,
)


def one_head(*rows: list[float]) -> np.ndarray:
    return np.array([rows], dtype=np.float32)


def test_entropy_of_one_token() -> None:
    """A head that looks at one token has entropy zero."""
    w = shares(one_head([1, 0, 0], [0, 1, 0], [0, 1, 0]), "probability")
    assert attention_entropy(w).tolist() == [0]
    assert first_token_mass(w).tolist() == [pytest.approx(1 / 3)]
    assert attention_distance(w).tolist() == [pytest.approx(1 / 3)]  # only the last row looks back, by one


def test_entropy_of_uniform_head() -> None:
    """A head that looks at everything alike has the reference entropy."""
    t = 7
    w = shares((np.tril(np.ones((2, t, t))) / np.arange(1, t + 1)[:, None]).astype(np.float32), "probability")
    np.testing.assert_allclose(attention_entropy(w), uniform_causal_entropy(t), rtol=1e-6)
    np.testing.assert_allclose(attention_distance(w), np.mean(np.arange(t) / 2), rtol=1e-6)
    np.testing.assert_allclose(first_token_mass(w), np.mean(1 / np.arange(1, t + 1)), rtol=1e-6)


def test_reference_entropy() -> None:
    """The reference is the mean of the logarithms."""
    assert uniform_causal_entropy(3) == pytest.approx((math.log(1) + math.log(2) + math.log(3)) / 3)
    assert uniform_causal_entropy(1) == 0


def test_a_case_worked_by_hand() -> None:
    w = shares(one_head([1, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]), "probability")
    rows = [0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), 1.5 * math.log(2)]
    assert attention_entropy(w)[0] == pytest.approx(sum(rows) / 3)
    assert first_token_mass(w)[0] == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert attention_distance(w)[0] == pytest.approx((0 + 0.25 + 0.5 * 2 + 0.25) / 3)


def test_signed_maps() -> None:
    """Signed maps count by their size row by row."""
    signed = one_head([-2, 0, 0], [3, -1, 0], [0, 0, 0])
    w = shares(signed, "signed")
    assert w[0].tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 0]]
    assert first_token_mass(w)[0] == pytest.approx((1 + 0.75 + 0) / 3)


@pytest.mark.parametrize("kind", ["sub_probability", "nonnegative", "signed"])
def test_row_size_does_not_matter(kind: str) -> None:
    """The size of a row does not matter where rows need not sum to one."""
    rng = np.random.default_rng(0)
    maps = np.tril(rng.uniform(0.1, 1, size=(3, 5, 5))).astype(np.float32)
    larger = maps * rng.uniform(1, 9, size=(3, 5, 1)).astype(np.float32)
    a, b = head_metrics(maps, kind, 0), head_metrics(larger, kind, 0)
    assert a.keys() == b.keys()
    for k in a:  # all but what is asked of the row as it is
        assert k.startswith("attention_row_sum") or a[k] == pytest.approx(b[k], rel=1e-5)


def test_tags_name_the_layer_and_the_head() -> None:
    maps = np.stack([np.eye(3), np.tril(np.ones((3, 3))) / [[1], [2], [3]]]).astype(np.float32)
    numbers = head_metrics(maps, "probability", 11)
    assert sorted(numbers) == [
        "attention_distance/L11H00",
        "attention_distance/L11H01",
        "attention_diversity/L11",
        "attention_effective_rank/L11H00",
        "attention_effective_rank/L11H01",
        "attention_entropy/L11H00",
        "attention_entropy/L11H01",
        "attention_first_token_mass/L11H00",
        "attention_first_token_mass/L11H01",
    ]
    assert numbers["attention_entropy/L11H00"] == 0 < numbers["attention_entropy/L11H01"]
    assert all(isinstance(v, float) for v in numbers.values())


def test_effective_rank_counts_directions() -> None:
    t = 6
    same_rows = np.zeros((t, t))
    same_rows[:, 0] = 1
    two = np.diag([3.0, 1, 0, 0, 0, 0])  # p = 3/4, 1/4
    ranks = effective_rank(np.stack([np.eye(t), same_rows, two, np.zeros((t, t))]))
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    np.testing.assert_allclose(ranks, [t, 1, by_hand, 1], rtol=1e-9)


def test_map_of_nan() -> None:
    """A map that is no number has no rank and spoils no other."""
    maps = np.stack([np.eye(3), np.full((3, 3), np.nan)]).astype(np.float32)
    numbers = head_metrics(maps, "probability", 0)
    assert numbers["attention_effective_rank/L00H00"] == pytest.approx(3)
    assert math.isnan(numbers["attention_effective_rank/L00H01"])


def test_diversity() -> None:
    """Diversity is 0 for equal heads and 1 for heads that share no token."""
    a, b = np.eye(3), np.eye(3, k=-1)
    assert diversity(np.stack([a, 2 * a])) == pytest.approx(0)
    assert diversity(np.stack([a, b])) == pytest.approx(1)
    assert diversity(np.stack([a, a, b])) == pytest.approx(2 / 3)  # two of three pairs differ
    assert diversity(a[None]) is None


def test_row_sums() -> None:
    """Row sums and negative shares are of the map as it is."""
    signed = one_head([-2, 0, 0], [3, -1, 0], [0, 0.5, 0.5])
    assert row_sum(signed)[0] == pytest.approx((-2 + 2 + 1) / 3)
    assert negative_share(signed)[0] == pytest.approx((2 + 1) / (2 + 4 + 1))
    assert negative_share(np.zeros((1, 2, 2)))[0] == 0
    numbers = head_metrics(signed, "signed", 0)
    assert numbers["attention_row_sum/L00H00"] == pytest.approx(1 / 3)
    assert numbers["attention_negative_share/L00H00"] == pytest.approx(3 / 7)
    # A number that could only be 1, or only be 0, is not written.
    assert not {"attention_row_sum/L00H00", "attention_negative_share/L00H00"} & set(
        head_metrics(signed, "probability", 0)
    )
    assert "attention_negative_share/L00H00" not in head_metrics(abs(signed), "nonnegative", 0)


def test_kinds_of_heads() -> None:
    """A repeated sequence tells three kinds of heads apart."""
    n = 4
    rows = np.arange(2 * n)
    previous, duplicate, induction = np.zeros((3, 2 * n, 2 * n))
    previous[rows[1:], rows[1:] - 1] = 1
    duplicate[rows[n:], rows[n:] - n] = 1
    induction[rows[n:], rows[n:] - n + 1] = 1
    numbers = repeat_metrics(np.stack([previous, duplicate, induction]).astype(np.float32), "probability", 3)
    for name, own in (("previous_token", 0), ("duplicate_token", 1), ("induction", 2)):
        scores = [numbers[f"attention_{name}/L03H{head:02d}"] for head in range(3)]
        assert scores == [1.0 if head == own else 0.0 for head in range(3)]


@pytest.mark.parametrize(("n_vocab", "context", "once"), [(100, 64, 24), (100, 9, 4), (3, 64, 24), (100, 3, 0)])
def test_repeated_sequence(n_vocab: int, context: int, once: int) -> None:
    """The repeated sequence fits and is always the same."""
    ids = repeated_sequence(n_vocab, context)
    assert ids[:once] == ids[once:] and len(ids) == 2 * once
    assert ids == repeated_sequence(n_vocab, context) and all(0 <= i < n_vocab for i in ids)
    assert once > n_vocab or len(set(ids)) == once
