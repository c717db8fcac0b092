"""Every variant that is shipped, composed once, and which of very many cases are run always."""

from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from subprocess import run
from typing import Any

import pytest

from attnlab.config.compose import config_dir
from attnlab.laws import Subject, subject_of

NAMES = sorted(file.stem for file in (config_dir() / "attention").glob("*.yaml"))
# One of each make. The laws ask of all variants, always, whether they train and decode.
ONE_OF_EACH = {"multi_head", "simple", "sliding_window", "hybrid", "linear", "kda", "mla", "nsa", "cross_layer", "ttt"}


@cache
def changed() -> frozenset[str]:
    """The variants whose YAML the last commit or the working tree changes: of these everything is run always."""
    folder = config_dir() / "attention"
    questions = (["diff", "--name-only", "HEAD~1", "--", "."], ["ls-files", "--others", "--exclude-standard", "."])
    answers = [run(["git", *words], cwd=folder, capture_output=True, text=True) for words in questions]
    return frozenset(Path(line).stem for answer in answers for line in answer.stdout.splitlines())


@cache
def shipped(name: str, *overrides: str) -> Subject:
    """The subject behind attention=NAME under these overrides; composing takes longer than most of what is asked."""
    return subject_of(name, overrides)


def drawn(case: tuple[str, ...], every: int) -> bool:
    """Whether a case is among the one in `every` that are run always: a hash of its words says so.

    The same cases on every machine and in every order, and a new case leaves the others where they are. A case of a
    variant that the last commit changes is always among them.
    """
    return not changed().isdisjoint(case) or int(sha256(" ".join(case).encode()).hexdigest(), 16) % every == 0


def one_of_each(names: Iterable[str] = NAMES) -> list[Any]:
    """All variants, of which one of each make is run always, the others as slow."""
    return [name if name in ONE_OF_EACH | changed() else pytest.param(name, marks=pytest.mark.slow) for name in names]


def sampled(cases: Iterable[tuple[str, ...]], every: int, always: Iterable[tuple[str, ...]] = ()) -> list[Any]:
    """All cases, of which one in `every` (see `drawn`) and those in `always` are run always, the others as slow."""
    kept = set(always)
    return [pytest.param(*case, marks=() if case in kept or drawn(case, every) else pytest.mark.slow) for case in cases]
