"""The command `attnlab`: one module per command. What a command needs is imported when it runs: torch takes seconds."""

import os
import sys
from collections.abc import Sequence

from attnlab.machine.signals import end_at_signals  # imports next to nothing: a signal may come in what follows


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; ends the program with the exit code of what went wrong."""
    in_shell = argv is None
    if in_shell:
        end_at_signals()
    from attnlab.cli._arguments import run, usage
    from attnlab.cli._exits import one_line_errors
    from attnlab.machine.environment import alone, limit_openmp_spinning, write_line_by_line

    if in_shell:
        write_line_by_line()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:  # a program of its own, whose command line Hydra reads
        os.execv(sys.executable, [sys.executable, "-m", "attnlab.cli.train", *argv[1:]])
    limit_openmp_spinning()
    with one_line_errors(argv if in_shell else ()), alone():
        if not argv or argv[0] in ("-h", "--help", "help"):
            print(usage())
        elif argv[0] == "--version":
            import attnlab

            print(f"attnlab {attnlab.__version__}")
        elif {"-h", "--help"} & {*argv[1:]}:
            print(usage(argv[0]))
        else:
            run(argv[0], argv[1:])
