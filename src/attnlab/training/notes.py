"""A line on the terminal, by itself: what trains a model may say something without knowing what else is shown."""

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
