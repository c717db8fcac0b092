"""What was typed, and where: enough to type it again."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FLAGS_WITH_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")
MODULES = tuple(f"attnlab{os.sep}{path}" for path in (f"cli{os.sep}train.py", "train.py"))  # the second until 2026
FOR_MANY = ("-m", "--multirun")


def typed() -> dict[str, Any]:
    """The words of this command, the folder it was typed in, and the Python that runs it. Nothing of the environment
    but where packages are looked for."""
    return {
        "argv": list(sys.argv),
        "folder": os.getcwd(),
        "python": sys.executable,
        "pythonpath": os.environ.get("PYTHONPATH", ""),
    }


def is_typed(content: Any) -> bool:
    """Whether this is what `typed` gave: it comes from a file."""
    return (
        isinstance(content, Mapping)
        and isinstance(argv := content.get("argv"), list)
        and bool(argv)
        and all(isinstance(word, str) for word in argv)
        and all(isinstance(content.get(key), str) for key in ("folder", "python", "pythonpath"))
    )


def in_shell(command: Mapping[str, Any], overrides: Sequence[str] | None = None) -> str:
    """The line for a shell in the folder it was typed in; with `words`, one run alone: these in place of the words of
    many."""
    program, *typed_words = command["argv"]
    # As a file, a module of a package would have its neighbours hide modules of Python's own.
    start = ["-m", "attnlab.cli.train"] if program.endswith(MODULES) else [program]
    argv = [*start, *(typed_words if overrides is None else [*_flags(typed_words), *overrides])]
    path = [f"PYTHONPATH={shlex.quote(command['pythonpath'])}"] if command["pythonpath"] else []
    return " ".join([*path, shlex.join([command["python"], *argv])])


def _flags(arguments: Sequence[str]) -> list[str]:
    """What was said to Hydra, without that there are many runs."""
    flags: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before in FLAGS_WITH_VALUE or (word.startswith("-") and word not in FOR_MANY):
            flags.append(word)
    return flags
