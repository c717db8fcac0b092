"""How a number is written, and how strongly it is coloured: the same in the terminal, on the page and in pictures."""

import math
import re

import numpy as np
from jaxtyping import Float, Int

from attnlab.inspection.colours import Scale

MINUS = "\N{MINUS SIGN}"  # as wide as a plus, so that signs stand out in a column
LEVELS = 20  # strengths of a colour on each side of 0
NOISE, SMALLEST = 1e-7, 5e-5  # below the first a number counts as 0; from the second on four decimals show it
MOST_TOKENS = 12  # more are drawn, not written out
MOST_COLUMNS = 12  # of a vector; the rest is drawn or left out


def written(number: float) -> str:
    """A number as the chapter prints it: four decimals at most, and as few characters as that takes.

    What four decimals would not show is written by its power of ten, down to what float32 leaves of a sum that is 0.
    """
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "∞" if number > 0 else f"{MINUS}∞"
    size = abs(number)
    if NOISE <= size < SMALLEST:
        text = f"{number:.1e}".replace("e-0", "e-")
    else:
        text = f"{number if size >= NOISE else 0.0:.4f}" if size < 1000 else f"{number:.3g}"
    return text.replace("-", MINUS)


def letter(name: str) -> str:
    """A matrix by the chapter's letter where it has one (`qkv.to_q.weight` is W_q), else by its own name."""
    match = re.fullmatch(r"(?:.*\.)?to_(q|k|v|out)\.(weight|bias)", name)
    return name if match is None else f"{'W' if match[2] == 'weight' else 'b'}_{match[1][0]}"


def levels(values: Float[np.ndarray, "*shape"], top: float) -> Int[np.ndarray, "*shape"]:
    """How strong each number's colour is, from -LEVELS to LEVELS."""
    share = Scale(top=top, bounded=True, signed=True).normalize(np.asarray(np.nan_to_num(values)))
    return np.asarray(np.rint(share * LEVELS), dtype=np.int64)
