"""What becomes of a task: a word and, of most of them, the reason."""

import sys
import traceback
from collections.abc import Callable
from typing import Any

from attnlab.errors import AttnlabError, Diverged, Locked, Stopped
from attnlab.store.files import failures

KINDS = {Diverged: "diverged", Locked: "locked", Stopped: "stopped"}
Answer = tuple[str, Any]


def answer_of(task: Callable[[], Any], *, logged: bool = False) -> Answer:
    """Do a task: ("done", what it gives), or what went wrong; `logged` says that to the log of the task, too."""
    try:
        with failures():
            return "done", task()
    except AttnlabError as error:
        if logged:
            print(f"error: {error}", file=sys.stderr)
        return KINDS.get(type(error), "failed"), str(error)
    except SystemExit as end:
        print(f"error: the job called sys.exit({end.code!r})", file=sys.stderr)
        return "failed", f"the job called sys.exit({end.code!r})"
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        return "failed", f"{type(error).__name__}: {text}"
