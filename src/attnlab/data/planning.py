"""How a text is shared out: files cut into stretches where tokens do not notice, and stretches grouped into units.

Where the cuts are depends on nothing but the contents, so that any number of processes makes the same tokens.
"""

import codecs
from collections.abc import Iterable, Iterator
from itertools import pairwise

from attnlab.data.file_streams import AT_ONCE, n_groups, open_regular, open_stream
from attnlab.data.listing import TextFile
from attnlab.data.stretches import TABLES, WINDOW, Part, Stretch, Unit, cut_in

UNIT = 1 << 24  # bytes that a process reads for one task, and that a kill costs at most
FEW_BATCHES = 16  # of an .arrow file
ENDLESS = 1 << 62  # where a compressed file ends is not known before it was read


def stretches_of(file: TextFile, start: int = 0, stop: int | None = None) -> list[Stretch]:
    """A file from byte `start` to `stop` in stretches of about a unit; compressed, it is one that takes its process
    from beginning to end."""
    if file.kind in TABLES:
        return list(_tables(file))
    part: Part | None = "train" if file.is_text else None
    if file.kind not in (".txt", ".jsonl"):
        end, weight = ENDLESS if stop is None else stop, file.stamp.size
        return [Stretch(file.path, file.kind, start, end, part, True, file.stamp, weight=weight)]
    stop = file.stamp.size if stop is None else stop
    places = [start, *_cuts(file, start, stop), stop]
    return [Stretch(file.path, file.kind, a, b, part, b == stop, file.stamp, weight=b - a) for a, b in pairwise(places)]


def _cuts(file: TextFile, start: int, stop: int) -> Iterator[int]:
    with open_regular(file.path) as stream:
        at = start + UNIT
        while at < stop:
            stream.seek(at)
            if file.is_text:
                at += cut_in(stream.read(WINDOW), 0)
            else:
                while (line := stream.readline(AT_ONCE)) and not line.endswith(b"\n"):
                    pass
                at = stream.tell()
            if at < stop:
                yield at
            at += UNIT


def _tables(file: TextFile) -> Iterator[Stretch]:
    n = len(n_groups(file.path, file.kind))
    step = 1 if file.kind == ".parquet" else FEW_BATCHES
    for a in range(0, n, step):
        weight = file.stamp.size * step // n
        yield Stretch(file.path, file.kind, a, min(a + step, n), None, True, file.stamp, weight=weight)


def bom_of(file: TextFile) -> int:
    """How many bytes its byte-order mark takes, which is no text."""
    with open_stream(file.path, file.kind, 0, len(codecs.BOM_UTF8)) as stream:
        return len(codecs.BOM_UTF8) * (stream.read() == codecs.BOM_UTF8)


def before(stretch: Stretch, at: int | None = None) -> int:
    """How many lines or rows of its file come before a stretch, or before a byte of what the file holds."""
    if stretch.kind in TABLES:
        return sum(n_groups(stretch.path, stretch.kind)[: stretch.start])
    count, stop = 0, stretch.start if at is None else at
    with open_stream(stretch.path, stretch.kind, 0, stop) as stream:
        while data := stream.read(AT_ONCE):
            count += data.count(b"\n")
    return count


def in_units(stretches: Iterable[Stretch]) -> Iterator[Unit]:
    """Stretches in order, as many together as make a unit."""
    unit: list[Stretch] = []
    for stretch in stretches:
        if unit and sum(s.weight for s in unit) + stretch.weight > UNIT:
            yield tuple(unit)
            unit = []
        unit.append(stretch)
    if unit:
        yield tuple(unit)
