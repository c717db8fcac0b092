"""Rows longer than those of training: what is scored, what is said to be impossible, and where it is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.launch import folder_of, run_here

from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.data.batches import TokenSplits
from attnlab.data.tasks.icl_bigram import ICLBigram
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.store.metrics_csv import read_metrics
from attnlab.training.extrapolation import as_scalars, check_lengths, extrapolate

CONTEXT = 8
SMALL = ("model=tiny", f"model.context={CONTEXT}", "model.d_model=16")


def model(position: str, n_vocab: int = 3) -> GPT:
    return build_model(compose_config([*SMALL, f"position={position}"]), n_vocab)


def test_untrained_model_guesses() -> None:
    """An untrained model guesses at every length."""
    task = ICLBigram(3, val_rows=64)
    found = list(extrapolate(model("rope"), task, CONTEXT, (2, 4), seed=0))
    assert [(reach.factor, reach.length) for reach in found] == [(1, 8), (2, 16), (4, 32)]
    assert all(reach.loss == pytest.approx(np.log(3), abs=0.4) for reach in found)
    assert found[0].loss_beyond is None and found[1].loss_beyond is not None


def test_scores_are_means() -> None:
    """The score is the mean over all answers and over those beyond."""
    task, net = ICLBigram(3, val_rows=5), model("none")
    reach = list(extrapolate(net, task, CONTEXT, (2,), seed=7))[1]
    rows = task.validation(2 * CONTEXT, 7)
    with torch.no_grad():
        said = net(torch.from_numpy(rows.inputs)).log_softmax(-1).numpy()
    nats = -np.take_along_axis(said, rows.targets[..., None], axis=2)[..., 0]
    assert reach.loss == pytest.approx(nats.mean(), rel=1e-5)
    assert reach.loss_beyond == pytest.approx(nats[:, CONTEXT:].mean(), rel=1e-5)
    right = said.argmax(2) == rows.targets
    assert reach.accuracy_beyond == pytest.approx(right[:, CONTEXT:].mean())
    # Rows are of one length here, so that the error is that of a mean over rows.
    for some, error in ((right, reach.accuracy_error), (right[:, CONTEXT:], reach.accuracy_beyond_error)):
        assert error == pytest.approx(max(1.96 * some.mean(axis=1).std() / 5**0.5, 3 / 5))


def test_positions_that_end() -> None:
    """Positions that end are said and do not crash."""
    first, second = extrapolate(model("learned"), ICLBigram(3, val_rows=4), CONTEXT, (2,), seed=0)
    assert first.loss is not None and second.loss is None
    assert second.cannot.startswith("position=learned knows 8 positions")


def test_a_text_that_ends_too_soon_is_said() -> None:
    ids = np.arange(300, dtype=np.uint16) % 3
    text = TokenSplits(ids, ids[:9], 3, corpus_sha256="ab", scored_bytes=8)
    _, second, large = extrapolate(model("rope"), text, CONTEXT, (2, 64), seed=0)
    assert second.cannot == "nothing is asked beyond the first 8 tokens"
    assert "model.context (512) is too long for this data" in large.cannot


@pytest.mark.parametrize("lengths", [[1], [2.0], ["2"], [True], 2])
def test_lengths_are_whole_numbers_of_at_least_two(lengths: object) -> None:
    with pytest.raises(UsageError, match=r"^evaluation\.lengths \("):
        check_lengths(lengths)


def test_lengths_added_later(tmp_path: Path) -> None:
    """Lengths asked for later are added and train nothing."""
    first = run_here(tmp_path, "trainer.max_steps=2", "evaluation.lengths=[2]")
    second = run_here(tmp_path, "trainer.max_steps=2", "evaluation.lengths=[2,4]")
    assert set(first["extrapolation"]) == {"1", "2"} and set(second["extrapolation"]) == {"1", "2", "4"}
    assert first["started"] == second["started"] and first["hash"] == second["hash"]
    assert second["extrapolation"]["2"]["loss"] == pytest.approx(first["extrapolation"]["2"]["loss"], rel=1e-3)
    folder = folder_of(tmp_path)
    assert json.loads((folder / "summary.json").read_text())["extrapolation"] == second["extrapolation"]
    assert "extrapolation_loss/x4" in {row.metric for row in read_metrics(folder)}


def test_segments_and_bayes() -> None:
    """Parts of a row as long as those of training add up to the whole, and so does what an exact solver comes to."""
    task = ICLBigram(3, val_rows=6)
    one, four = extrapolate(model("none"), task, CONTEXT, (4,), seed=1)
    assert four.loss == pytest.approx(np.mean(four.segment_loss)) and len(four.segment_loss) == 4
    assert four.loss_beyond == pytest.approx(np.mean(four.segment_loss[1:]))
    assert four.bayes_loss == pytest.approx(task.best(4 * CONTEXT, 1).loss)
    assert four.bayes_loss_beyond == pytest.approx(np.mean(four.bayes_segment_loss[1:]))
    assert one.bayes_loss == pytest.approx(task.best(CONTEXT, 1).loss) and one.bayes_loss_beyond is None
    scalars = as_scalars([one, four])
    assert scalars["extrapolation_segment_loss/x4/3"] == four.segment_loss[2]
    assert "extrapolation_bayes_loss/x1" in scalars and "extrapolation_segment_loss/x1/1" not in scalars
