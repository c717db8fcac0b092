"""What names of metrics tell."""

import pytest

from attnlab.analysis.metric_names import separated
from attnlab.config.metric_kinds import parse_metric

TEXT, TOKENS = "data.val_sha256", "tokenizer.sha256"


@pytest.mark.parametrize(
    ("metric", "lower", "share", "apart"),
    [
        ("val/loss", True, False, {TEXT, TOKENS}),
        ("val/bits_per_byte", True, False, {TEXT}),  # whatever the tokens
        ("train/loss", True, False, {"data.sha256", TOKENS}),
        ("val/accuracy", False, True, {TEXT, TOKENS}),
        ("val/accuracy_error", True, False, {TEXT, TOKENS}),
        ("train/tokens_per_second", False, False, {"data.sha256", TOKENS}),
        ("train/seconds", True, False, set()),  # a second is a second
        ("my/loss/recall", False, True, {TEXT, TOKENS}),
        ("val/bits_per_byte:area", True, False, {TEXT}),
        ("val/accuracy:steps_to_0.9", True, False, {TEXT, TOKENS}),
        ("extrapolation_accuracy_beyond/x4", False, True, {TEXT, TOKENS}),
    ],
)
def test_names(metric: str, lower: bool, share: bool, apart: set[str]) -> None:
    """The last part decides which way is better; what is counted in tokens of a text is compared on that alone."""
    judged = parse_metric(metric)
    assert (judged.lower_is_better, judged.is_share, set(separated(metric))) == (lower, share, apart)
