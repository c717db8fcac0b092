"""`attnlab capacity`."""

import shlex
from pathlib import Path
from typing import Annotated

from attnlab.cli._arguments import Range
from attnlab.errors import UsageError


def capacity(
    *overrides: Annotated[str, "any setting of train.py for all runs, such as trainer.max_steps=60"],
    attention: Annotated[tuple[str, ...], "the variants, such as multi_head,linear,gated_delta"],
    pairs: Annotated[tuple[str, ...], "how many pairs are recalled"] = ("4", "8", "16", "32"),
    widths: Annotated[tuple[str, ...], "model.d_model of each size, from which the bytes of the state follow"] = (
        *("32", "64", "128"),
    ),
    seeds: Annotated[str, "the seeds of each"] = "0-2",
    folder: Annotated[Path, "where the runs, capacity.svg, capacity.csv and capacity.md go"] = Path("runs/capacity"),
    minutes: Annotated[float | None, Range(above=0), "stop after so long; the same command then goes on"] = None,
    n_jobs: Annotated[int | None, Range(least=1), "runs at a time; left out: one for each core"] = None,
) -> None:
    """Measure how many key-value pairs variants recall, against the bytes of their state."""
    from attnlab.config.keys import config_dirs, options, searching
    from attnlab.config.messages import refuse_slips
    from attnlab.errors import nearest
    from attnlab.options.rules import MOST_SEED, parse_integers

    with searching(config_dirs(overrides)):
        refuse_slips(overrides)
        for name in attention:
            if name not in (names := options("attention")):
                raise UsageError(f"attention ({name}) is no variant{nearest(name, names)}")
    if not attention:
        raise UsageError("attention (nothing) must name a variant, or several: attention=multi_head,linear")
    sizes = {"pairs": _counts("pairs", pairs, 2), "widths": _counts("widths", widths, 1)}
    if sizes["pairs"][0] < 2:
        raise UsageError(f"pairs ({','.join(pairs)}) must be at least 2: the value of a single pair can be guessed")
    chosen = parse_integers("seeds", seeds, most=MOST_SEED, like="0-2 or 7,9")

    from rich.console import Console

    from attnlab.analysis.reading import read_experiment
    from attnlab.card import capacity as measures
    from attnlab.card.capacity_page import save, show
    from attnlab.config.compose import with_plus
    from attnlab.sweep.command import train_design

    design = measures.design(attention, sizes["pairs"], sizes["widths"], chosen)
    seconds = None if minutes is None else 60 * minutes
    in_time = train_design(folder, "capacity", design, with_plus(overrides), n_jobs=n_jobs, seconds=seconds)
    rows = measures.sizes_of(read_experiment(folder, "val/accuracy"))
    if not rows:
        raise UsageError(f"{folder} holds no finished run yet: the same command goes on")
    show(rows, Console())
    lists = {"attention": attention, "pairs": pairs, "widths": widths}
    argv = [f"{key}={','.join(values)}" for key, values in lists.items()]
    for path in save(rows, folder, f"attnlab capacity {shlex.join([*argv, f'seeds={seeds}', *overrides])}"):
        print(f"wrote {path}")
    if not in_time:
        print(f"stopped after {minutes:g} minutes; the same command goes on")


def _counts(key: str, texts: tuple[str, ...], least: int) -> list[int]:
    """Numbers that rise."""
    numbers = [int(text) for text in texts if text.isdecimal()]
    if len(numbers) < max(least, len(texts)) or numbers != sorted({*numbers} - {0}):
        raise UsageError(f"{key} ({','.join(texts)}) must be at least {least} numbers that rise, such as 4,8,16")
    return numbers
