"""How a number is written, and how strongly it is coloured: the same in the terminal, on the page and in pictures."""

import math

import numpy as np
from jaxtyping import Float, Int

from attnlab.inspection.explain.steps import Step

MINUS = "\N{MINUS SIGN}"  # as wide as a plus, so that signs stand out in a column
LEVELS = 20  # strengths of a colour on each side of 0
MOST_TOKENS = 12  # more are drawn, not written out
MOST_COLUMNS = 12  # of a vector; the rest is drawn or left out


def written(number: float) -> str:
    """A number as the chapter prints it: four decimals at most, and as few characters as that takes."""
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "∞" if number > 0 else f"{MINUS}∞"
    text = f"{number:.4f}" if abs(number) < 1000 else f"{number:.3g}"
    return text.replace("-", MINUS)


def largest(step: Step) -> float:
    """What gets the strongest colour: 1 for weights that are shares, else the largest number that is not hidden."""
    values = np.nan_to_num(step.values, posinf=0.0, neginf=0.0)
    if step.hidden is not None:
        values = np.where(step.hidden, 0.0, values)
    top = float(np.abs(values).max()) if values.size else 0.0
    return top or 1.0


def diverging(step: Step) -> bool:
    """Whether numbers above and below 0 are told apart by their colour; weights above 0 alone have one of their own."""
    return step.part not in ("weights", "dropout") or bool(np.nan_to_num(step.values).min() < 0)


def levels(values: Float[np.ndarray, "*shape"], top: float) -> Int[np.ndarray, "*shape"]:
    """How strong each number's colour is, from -LEVELS to LEVELS."""
    share = np.nan_to_num(values / top, posinf=1.0, neginf=-1.0).clip(-1, 1)
    return np.asarray(np.rint(np.sign(share) * np.sqrt(np.abs(share)) * LEVELS), dtype=np.int64)
