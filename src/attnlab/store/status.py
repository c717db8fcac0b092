"""How a run stands."""

from enum import StrEnum


class Status(StrEnum):
    """What summary.json, a manifest or a report says of a run; in a report all but the first are no numbers."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # a loss or a gradient was no finite number
    FAILED = "failed"
    DAMAGED = "damaged"  # its files cannot be read, or contradict each other
    UNFINISHED = "unfinished"  # cut off; the same command goes on with it
    RUNNING = "running"
    PLANNED = "planned"
    REFUSED = "refused"  # a combination that makes no sense
    UNNEEDED = "unneeded"  # a sweep that judges after each seed knew its answer without it
    IMPORTED = "imported"  # trained by others: its numbers are theirs, and there is nothing to go on with


ENDED = (Status.FINISHED, Status.DIVERGED)  # training came to its end, good or bad
