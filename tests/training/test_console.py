"""What a run says on the terminal."""

from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest

from attnlab.training.callbacks import Speed
from attnlab.training.console import Progress, print_summary

SUMMARY: dict[str, Any] = {
    **{"val_loss": 1.25, "best_val_loss": 1.2, "best_step": 40, "baseline_loss": 3.0, "tokens_per_second": 1234.5},
    **{"seconds": 6.7, "val_bits_per_byte": None, "val_accuracy": None, "val_accuracy_error": None, "slices": {}},
}


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """What was measured is told and what was not is left out; an accuracy comes with its error."""
    print_summary(SUMMARY, None, "runs")
    text = capsys.readouterr().out.partition("look at it with")[0]
    assert "val/loss 1.2500 (best 1.2000 at step 40, baseline 3.0000)" in text and "1,234 tokens/s   7 s" in text
    assert "accuracy" not in text and "sample" not in text
    task = {"val_accuracy": 0.5, "val_accuracy_error": 0.02, "slices": {"near": {"accuracy": 0.75}}}
    print_summary({**SUMMARY, **task, "tokens_per_second": None}, ("a", "b"), "runs")
    text = capsys.readouterr().out
    assert "val/accuracy 0.5000 +- 0.0200" in text and "accuracy by slice: near 0.75" in text
    assert "sample: a|b" in text and "   0 tokens/s" in text


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each validation, from the first process alone, and no bar where nobody looks."""
    speed = Speed(10)
    speed.tokens, speed.seconds = 3000, 2.0
    progress = Progress(speed, bar=False)
    module = Mock(spec=L.LightningModule, latest={"val/loss": 2.0})
    for first in (True, False):
        progress.on_validation_end(Mock(spec=L.Trainer, is_global_zero=first, global_step=5, max_steps=100), module)
    assert capsys.readouterr().out == "step   5/100  val/loss 2.0000  1,500 tokens/s\n" and not progress.shows_bar
