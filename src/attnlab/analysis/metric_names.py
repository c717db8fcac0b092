"""What the name of a metric tells: which way is better, whether it is a share, and in which settings two of its values
must agree to be compared. A loss per token is one of its tokenizer, and every loss is one of its text."""

from attnlab.analysis.groups import JUDGED_BY
from attnlab.errors import UsageError

LOWER = ("loss", "bits_per_byte", "perplexity", "error", "seconds", "bytes")
SHARES = ("accuracy", "recall", "exact_match")
HIGHER = (*SHARES, "tokens_per_second")
PER_TOKEN, IN_BYTES = "val/loss", "val/bits_per_byte"
IN_SUMMARY = {"val_loss": PER_TOKEN, "val_bits_per_byte": IN_BYTES, "train_loss": "train/loss"}
OF_A_TEXT = (*SHARES, "loss", "perplexity", "bits_per_byte", "error")
TOKENIZER, TRAINED_ON = "tokenizer.sha256", "data.sha256"


def lower_is_better(metric: str, key: str = "metric") -> bool:
    """Which way a metric improves, by the last part of its name. Raises UsageError if the name does not tell."""
    last = metric.rpartition("/")[2]
    if not last.endswith((*LOWER, *HIGHER)):
        raise UsageError(
            f"{key} ({metric}) does not say which way is better; its name must end in {', '.join(LOWER + SHARES)} or "
            "tokens_per_second"
        )
    return last.endswith(LOWER)


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return metric.endswith(SHARES)


def separated(metric: str) -> tuple[str, ...]:
    """The settings in which arms must agree for this metric to mean the same for both."""
    last = metric.rpartition("/")[2]
    if not last.endswith((*OF_A_TEXT, "tokens_per_second")):
        return ()
    text = TRAINED_ON if metric.startswith("train") else JUDGED_BY
    return (text,) if metric == IN_BYTES else (text, TOKENIZER)
