"""Names of metrics as a report goes by them: those it knows by themselves, and in which settings two values must agree
to be compared. A loss per token is one of its tokenizer, and every loss is one of its text."""

from attnlab.analysis.groups import JUDGED_BY
from attnlab.config.metric_kinds import parse_metric

PER_TOKEN, IN_BYTES = "val/loss", "val/bits_per_byte"
IN_SUMMARY = {"val_loss": PER_TOKEN, "val_bits_per_byte": IN_BYTES, "train_loss": "train/loss"}
TOKENIZER, TRAINED_ON = "tokenizer.sha256", "data.sha256"


def separated(metric: str) -> tuple[str, ...]:
    """The settings in which arms must agree for this metric to mean the same for both."""
    judged = parse_metric(metric)
    if not judged.kind.of_a_text:
        return ()
    text = TRAINED_ON if judged.name.startswith("train") else JUDGED_BY
    return (text,) if judged.name == IN_BYTES and judged.course != "steps" else (text, TOKENIZER)
