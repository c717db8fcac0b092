"""What can be compared at all: a loss per token is one of its tokenizer, and every loss is one of its text."""

from collections.abc import Iterable

from attnlab.ablation.arms import Arm
from attnlab.ablation.groups import JUDGED_BY

PER_TOKEN, IN_BYTES = "val/loss", "val/bits_per_byte"
IN_SUMMARY = "val_bits_per_byte"
OF_A_TEXT = ("loss", "perplexity", "bits_per_byte", "accuracy", "error", "exact_match", "recall")
TOKENIZER, TRAINED_ON = "tokenizer.sha256", "data.sha256"


def separated(metric: str) -> tuple[str, ...]:
    """The settings in which arms must agree for this metric to mean the same for both."""
    last = metric.rpartition("/")[2]
    if not last.endswith((*OF_A_TEXT, "tokens_per_second")):
        return ()
    text = TRAINED_ON if metric.startswith("train") else JUDGED_BY
    return (text,) if metric == IN_BYTES else (text, TOKENIZER)


def needs_bytes(metric: str, pairs: Iterable[tuple[Arm, Arm]]) -> bool:
    """Whether some are compared that cut the same validation text into other tokens, and bits per byte can tell."""
    if metric != PER_TOKEN:
        return False
    cut_otherwise = [pair for pair in pairs if _differ(pair, TOKENIZER) and not _differ(pair, JUDGED_BY)]
    runs = [run for pair in cut_otherwise for c in pair for run in c.finished.values()]
    return bool(runs) and all(isinstance(run.summary.get(IN_SUMMARY), int | float) for run in runs)


def _differ(pair: tuple[Arm, Arm], key: str) -> bool:
    return pair[0].settings.get(key) != pair[1].settings.get(key)
