"""What is wrong with the folder of a run."""

from pathlib import Path

from attnlab.errors import UsageError
from attnlab.store.files import read_file


class Damaged(UsageError):
    """A file of a run is missing, cannot be read or contradicts another; `reason` leaves out the folder."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}")
        self.reason = reason


def read_text(path: Path) -> str | None:
    """The text of a file in the folder of a run; None if there is none. Raises Damaged."""
    try:
        return read_file(path).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(path.parent, f"{path.name} cannot be read ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """What an error says, short enough for a message."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
