"""A line on the terminal, by itself: what trains a model may say something without knowing what else is shown.

And durations and sizes as they stand in such lines."""

import sys

from tqdm import tqdm

silent = False  # in all processes of a run but the first


def log(text: str = "") -> None:
    """A line for the person at the terminal."""
    if silent:
        return
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def note(text: str) -> None:
    """A line that begins with note: or warning: and is read even where how training goes is not shown, as in a card."""
    if silent:
        return
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def data_size(n_bytes: int) -> str:
    """Bytes as people say them."""
    return f"{n_bytes / 2**30:.3g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.3g} MiB"
