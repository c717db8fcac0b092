"""The registry of metrics: names, what they are made of, and what is refused."""

import pytest

from attnlab.config.metric_kinds import KINDS, check_logged, in_a_line, parse_metric
from attnlab.errors import UsageError
from attnlab.inspection import head_metrics

BITS = [f"{group}/bits_{n}" for n in (4, 8, 16, 32) for group in ("val_accuracy", "val_loss", "val_count")]
HEADS = ["attention_entropy/uniform_causal", "attention_entropy/L00H00", "attention_entropy/L00H01"]
LOGGED = ["val/loss", "val/accuracy", *BITS, *HEADS, "extrapolation_loss/x4"]


@pytest.mark.parametrize(
    ("metric", "members"),
    [
        ("val/loss", ["val/loss"]),
        ("val_accuracy/bits_8", ["val_accuracy/bits_8"]),
        ("val_accuracy/bits_8..bits_32", [f"val_accuracy/bits_{n}" for n in (8, 16, 32)]),
        ("val_loss/mean:area", [f"val_loss/bits_{n}" for n in (4, 8, 16, 32)]),
        ("attention_entropy/max", HEADS[1:]),  # of the heads alone
        ("val_accuracy/bits_32..bits_8", []),
        ("val_accuracy/bits_8..bits_9", []),
        ("val_accuracy/bits_64", []),
        ("val_error/mean", []),
    ],
)
def test_members(metric: str, members: list[str]) -> None:
    """A member of a group, several of them, or all."""
    assert parse_metric(metric).members(LOGGED) == members


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("loss/norm", "does not say which way is better"),
        ("val_count/bits_8", "does not say which way is better"),
        ("val/loss:aera", "must end in :area or :steps_to_NUMBER after the name, such as val/loss:area$"),
        ("val/loss:steps_to_1.2.3", "must end in :area"),
        ("val/loss:", "must end in :area"),
        ("attention_entropy/mean:steps_to_1", "neither way of attention_entropy/mean is better"),
    ],
)
def test_refused(metric: str, message: str) -> None:
    """What could not be judged is refused under the key that named it."""
    with pytest.raises(UsageError, match=rf"^report\.metric \({metric}\).*{message}"):
        parse_metric(metric, "report.metric")


def test_typo() -> None:
    """A name that is not logged is refused in one line that names what is, and what is near."""
    with pytest.raises(UsageError, match=r"^m \(val/acuracy\) .*mean 'val/accuracy'\?") as error:
        check_logged("val/acuracy", LOGGED, "m")
    assert "\n" not in str(error.value) and "val_accuracy/bits_4..bits_32" in str(error.value)
    assert in_a_line(HEADS[1:]) == "attention_entropy/L00H00..L00H01"


def test_heads_are_registered() -> None:
    """Every number of a head says which way is better, or that neither is."""
    names = {value for name, value in vars(head_metrics).items() if name.isupper() and isinstance(value, str)}
    assert names and names <= KINDS.keys()
