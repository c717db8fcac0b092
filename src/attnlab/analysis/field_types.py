"""What the values in the files of a run and a sweep are, where a report goes by them, and which are something else."""

from collections.abc import Callable, Mapping
from typing import Any

from attnlab.store.terms import is_alpha, is_margin

MOST_NUMBER = 10**18
# By dotted key; what is not listed is shown, if at all, as text.
NAMES, NUMBERS, SETTINGS = (str,), (int, float), (dict,)
TERMS = {"metric": NAMES, "baseline": NAMES, "margin": NUMBERS, "alpha": NUMBERS}  # what a report may be told to go by
RANGES: dict[str, Callable[[Any], bool]] = {  # by the last part of a key
    **{"alpha": is_alpha, "margin": is_margin},
    "lr": lambda rate: 1e-100 < rate < 1e100,  # has a logarithm, as has what divides two of them
}
OF_SUMMARY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "variant", "hash", "started", "command", "device", "precision"), NAMES),
    **dict.fromkeys(("seed", "step"), (int,)),
    **dict.fromkeys(
        ("val_loss", "val_bits_per_byte", "train_loss", "best_val_loss", "best_step", "val_accuracy", "baseline_loss"),
        NUMBERS,
    ),
    **dict.fromkeys(("parameters", "tokens", "tokens_per_second", "peak_memory_bytes", "seconds"), NUMBERS),
    **dict.fromkeys(
        ("attention_cost", "extrapolation", "slices", "bounds", "match", "tuned", "emergence_steps", "test"), SETTINGS
    ),
    **dict.fromkeys(("bounds.floor", "bounds.ceiling"), SETTINGS),
    **{"attention_cost.state_bytes": (int,), "bounds.floor.accuracy": NUMBERS},
}
OF_CONFIG: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "attention", "position", "optimizer", "trainer", "data", "tokenizer"), SETTINGS),
    **dict.fromkeys(("report", "environment"), SETTINGS),
    **dict.fromkeys(("match", "match_to", "tuned", "resume_from", "init_from"), NAMES),
    **{f"report.{key}": kind for key, kind in TERMS.items()},
    "report.looks": (int,),
    **{"optimizer.lr": NUMBERS, "trainer.max_steps": (int,)},
}
OF_ENTRY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("folder", "variant", "label", "status", "reason", "log"), NAMES),
    "overrides": (list, str),
    "levels": SETTINGS,
    "seed": (int,),
}
OF_MANIFEST: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("experiment", "command", "match"), NAMES),
    **dict.fromkeys(("design", "first"), SETTINGS),
    **{f"{above}{key}": kind for above in ("", "design.", "first.") for key, kind in TERMS.items()},
}


def misfit(content: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> str:
    """Which key holds something else than it should; null may stand anywhere, true and false are no numbers."""
    for key, kind in kinds.items():
        value: Any = content
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        strange = isinstance(value, str) and not _printable(value)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or strange):
            return f"{key} is {str(value)[:40]!r}"
        if isinstance(value, int) and abs(value) > MOST_NUMBER:
            return f"{key} is beyond any count"
        check = RANGES.get(key.rpartition(".")[2])
        if value is not None and check is not None and not check(value):
            return f"{key} is {value}"
    return ""


def _printable(text: str) -> bool:
    """Whether a text can be shown: one with control characters would change the terminal that it is shown in."""
    return text.replace("\n", "").replace("\t", "").isprintable()
