"""The command `attnlab`: one module per command. What a command needs is imported when it runs: torch takes seconds."""

import os
import sys
from collections.abc import Sequence

from attnlab.cli._arguments import run, usage
from attnlab.cli._exits import one_line_errors
from attnlab.machine import alone, wait_politely
from attnlab.signals import end_at_signals


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; ends the program with the exit code of what went wrong."""
    if argv is None:
        end_at_signals()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["train"]:  # a program of its own, whose command line Hydra reads
        os.execv(sys.executable, [sys.executable, "-m", "attnlab.cli.train", *words[1:]])
    wait_politely()
    with one_line_errors(words if argv is None else ()), alone():
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
        elif words[0] == "--version":
            from importlib.metadata import version

            print(f"attnlab {version('attnlab')}")
        elif {"-h", "--help"} & {*words[1:]}:
            print(usage(words[0]))
        else:
            run(words[0], words[1:])
