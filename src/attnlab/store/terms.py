"""What a report may be told to go by, in its files as on the command line."""

LEAST_ALPHA, MOST_ALPHA, MOST_MARGIN = 1e-9, 0.5, 1e15  # beyond them a t test leaves the range of numbers


def is_alpha(value: object) -> bool:
    """Whether this may be how often a family errs."""
    return isinstance(value, int | float) and LEAST_ALPHA <= value < MOST_ALPHA


def is_margin(value: object) -> bool:
    """Whether this may be a difference too small to matter."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST_MARGIN
