"""What names of metrics tell."""

import pytest

from attnlab.analysis.metric_names import is_share, lower_is_better, separated
from attnlab.errors import UsageError

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
    ],
)
def test_names(metric: str, lower: bool, share: bool, apart: set[str]) -> None:
    """The last part decides which way is better; what is counted in tokens of a text is compared on that alone."""
    assert (lower_is_better(metric), is_share(metric), set(separated(metric))) == (lower, share, apart)


def test_name_tells_nothing() -> None:
    """A metric that does not say which way is better is refused under the key that named it."""
    with pytest.raises(UsageError, match=r"^report\.metric \(loss/norm\) does not say which way is better"):
        lower_is_better("loss/norm", "report.metric")
