"""Which small tasks are learnt, and by whom: the battery's claim, one run each."""

from pathlib import Path

import pytest

from attnlab.card.battery import results

pytestmark = pytest.mark.slow
ONE_THREAD = "trainer.threads=1"  # other tests run beside


@pytest.mark.parametrize("cell", ["mqar", "induction", "compression", "memorization", "counting", "fuzzy_recall"])
def test_two_layers_of_softmax_attention_solve_a_cell(cell: str, tmp_path: Path) -> None:
    (found,) = results(["multi_head"], [cell], folder=tmp_path, overrides=[ONE_THREAD])
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


@pytest.mark.parametrize("cell", ["noisy_recall", "needle", "parity", "selective_copy"])
def test_a_gated_delta_rule_with_a_short_convolution_solves_a_cell(cell: str, tmp_path: Path) -> None:
    (found,) = results(["gated_delta"], [cell], folder=tmp_path, overrides=[ONE_THREAD])
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


def test_two_reflections_per_token_track_the_permutations_of_three(tmp_path: Path) -> None:
    overrides = [ONE_THREAD, "attention.write.beta_max=2", "position=none"]
    (found,) = results(["delta_product"], ["s3"], folder=tmp_path, overrides=overrides)
    assert found.value(1) is not None and found.value(1) > 0.98  # type: ignore[operator]


def test_a_memory_reaches_the_bayes_loss_of_bigrams(tmp_path: Path) -> None:
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


def test_one_layer_that_averages_does_not_solve_recall(tmp_path: Path) -> None:
    (found,) = results(["uniform"], ["mqar"], folder=tmp_path, overrides=[ONE_THREAD, "model.n_layers=1"])
    value = found.value(1)
    assert value is not None and value < 0.45
