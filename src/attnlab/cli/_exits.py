"""How a command ends: one line and an exit code for whatever attnlab, Hydra or the machine refuses."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from attnlab.errors import AttnlabError, UsageError
from attnlab.machine.environment import check_arguments, open_streams
from attnlab.store.files import file_failure

BROKEN_PIPE = 141  # 128 + SIGPIPE, as for any program whose reader has gone


@contextmanager
def one_line_errors(argv: Sequence[str] = ()) -> Iterator[None]:
    """End the program with one line and the right exit code where attnlab or the machine refuses something; `argv`
    are what was typed."""
    open_streams()
    try:
        try:
            check_arguments(argv)
            yield
        finally:
            _flush()
    except AttnlabError as error:
        end(str(error), error.exit_code)
    except KeyboardInterrupt:
        end("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        end_unheard()
    except Exception as error:
        if type(error).__module__.startswith(("hydra.", "omegaconf.")):
            from attnlab.config.messages import explain  # Hydra takes long to import, and is there by now

            end(explain(error), UsageError.exit_code)
        if not isinstance(error, OSError):
            raise
        failure = file_failure(error)
        end(str(failure), failure.exit_code)


def _flush() -> None:
    """Write what waits for standard output; what cannot be written is dropped, for Python tries again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def end(message: str, code: int) -> NoReturn:
    """Say what is wrong in one line, and end the program."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))  # a name may hold escape codes
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


def end_unheard() -> NoReturn:
    """End because nobody reads what is written any more, as in `python train.py | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
    sys.exit(BROKEN_PIPE)
