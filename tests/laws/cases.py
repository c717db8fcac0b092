"""Every variant that is shipped, composed once, and which of very many cases are run always."""

from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Any

import pytest

from attnlab.config.compose import config_dir
from attnlab.laws import Subject, subject_of

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# One of each make. The laws ask of all variants, always, whether they train and decode.
ONE_OF_EACH = {"multi_head", "simple", "sliding_window", "hybrid", "linear", "kda", "mla", "nsa", "cross_layer", "ttt"}


@cache
def shipped(name: str, *overrides: str) -> Subject:
    """The subject behind attention=NAME under these overrides; composing takes longer than most of what is asked."""
    return subject_of(name, overrides)


def drawn(case: tuple[str, ...], every: int) -> bool:
    """Whether a case is among the one in `every` that are run always: a hash of its words says so.

    The same cases on every machine and in every order, and a new case leaves the others where they are.
    """
    return int(sha256(" ".join(case).encode()).hexdigest(), 16) % every == 0


def one_of_each(names: Iterable[str] = NAMES) -> list[Any]:
    """All variants, of which one of each make is run always, the others as slow."""
    return [name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in names]


def sampled(cases: Iterable[tuple[str, ...]], every: int, always: Iterable[tuple[str, ...]] = ()) -> list[Any]:
    """All cases, of which one in `every` (see `drawn`) and those in `always` are run always, the others as slow."""
    kept = set(always)
    return [pytest.param(*case, marks=() if case in kept or drawn(case, every) else pytest.mark.slow) for case in cases]
