"""Which small tasks are learnt, and by whom: the battery's claim, one run each."""

from pathlib import Path

import pytest

from attnlab.card.battery import results

pytestmark = pytest.mark.slow
ONE_THREAD = "trainer.threads=1"  # other tests run beside


@pytest.mark.parametrize("cell", ["mqar", "induction", "compression", "memorization", "counting", "fuzzy_recall"])
def test_softmax_solves_a_cell(cell: str, tmp_path: Path) -> None:
    """Two layers of softmax attention solve a cell."""
    (found,) = results(["multi_head"], [cell], folder=tmp_path, overrides=[ONE_THREAD])
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


@pytest.mark.parametrize("cell", ["noisy_recall", "needle", "parity", "selective_copy"])
def test_gated_delta_solves_a_cell(cell: str, tmp_path: Path) -> None:
    """A gated delta rule with a short convolution solves a cell."""
    (found,) = results(["gated_delta"], [cell], folder=tmp_path, overrides=[ONE_THREAD])
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


def test_two_reflections_track_s3(tmp_path: Path) -> None:
    """Two reflections per token track the permutations of three."""
    overrides = [ONE_THREAD, "attention.write.beta_max=2", "position=none"]
    (found,) = results(["delta_product"], ["s3"], folder=tmp_path, overrides=overrides)
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


def test_recurrent_reaches_bayes_loss(tmp_path: Path) -> None:
    """A memory reaches the bayes loss of bigrams."""
    (found,) = results(["gated_delta"], ["icl_bigram"], folder=tmp_path, overrides=[ONE_THREAD])
    gained = found.gained(1)
    assert gained is not None and gained > 0.9


def test_key_offset_finds_bigrams_in_one_layer(tmp_path: Path) -> None:
    """Induction takes plain attention two layers, and one where half of each key is the token's before."""
    overrides = [ONE_THREAD, "model.n_layers=1", "position=rope_partial"]
    gained = []
    for variant in ("key_offset", "multi_head"):
        (result,) = results([variant], ["icl_bigram"], folder=tmp_path, overrides=overrides)
        gained.append(result.gained(1) or 0.0)
    assert gained[0] > 0.7 and gained[1] < 0.3


def test_averaging_does_not_solve_recall(tmp_path: Path) -> None:
    """One layer that averages does not solve recall."""
    (found,) = results(["uniform"], ["mqar"], folder=tmp_path, overrides=[ONE_THREAD, "model.n_layers=1"])
    value = found.value(1)
    assert value is not None and value < 0.45
