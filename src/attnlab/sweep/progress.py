"""What a sweep shows: a line for each run that ends and, on a terminal, a table of those that are at work."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attnlab.store.status import Status
from attnlab.sweep.plan import PlannedRun
from attnlab.training.notes import duration

SECONDS_BETWEEN_LINES = 30.0  # where there is no terminal


def seconds_left(runs: Sequence[PlannedRun], at_once: int) -> float | None:
    """About how long the rest takes, from the runs that ended and those that are under way; None at the beginning."""
    took = [run.seconds for run in runs if run.status == Status.FINISHED and run.seconds]
    took += [run.elapsed * run.last_step / run.step for run in runs if run.began is not None and run.step > 0]
    left = [run for run in runs if run.status in (Status.PLANNED, Status.RUNNING)]
    if not took or not left:
        return None
    mean = sum(took) / len(took)
    return sum(max(0.0, mean - run.elapsed) for run in left) / min(at_once, len(left))


def totals(runs: Sequence[PlannedRun], at_once: int) -> str:
    """How many runs stand how, and how long the rest takes."""
    count = Counter(run.status for run in runs)
    parts = [f"{count[Status.FINISHED]} of {len(runs)} finished", f"{count[Status.RUNNING]} running"]
    parts.append(f"{count[Status.PLANNED]} left")
    if bad := count[Status.FAILED] + count[Status.DIVERGED]:
        parts.insert(1, f"{bad} failed")
    left = seconds_left(runs, at_once)
    return ", ".join(parts) + (f"; about {duration(left)} to go" if left is not None else "")


class Screen:
    """Plain lines: one for each run that ends, and now and then one about those at work."""

    def __init__(self, runs: Sequence[PlannedRun], at_once: int) -> None:
        self.runs, self.at_once, self.last_line = runs, at_once, time.monotonic()

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def print_line(self, text: str) -> None:
        """A line that stays."""
        self.last_line = time.monotonic()
        print(text, flush=True)

    def ended(self, run: PlannedRun) -> None:
        """Tell how a run ended."""
        done = sum(one.status not in (Status.PLANNED, Status.RUNNING) for one in self.runs)
        loss = "" if run.val_loss is None else f"  val/loss {run.val_loss:.4f}"
        finished = run.status == Status.FINISHED
        what = f"{loss}  {duration(run.seconds)}" if finished else f": {run.reason} (log: {run.log})"
        self.print_line(f"[{done}/{len(self.runs)}] {run.status} {run.title}{what}")

    def refresh(self) -> None:
        """Show how things stand."""
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            at_work = [f"{run.title} {run.step}/{run.last_step or '?'}" for run in self.runs if run.began is not None]
            self.print_line(f"{totals(self.runs, self.at_once)} ({'; '.join(at_work)})")


class LiveScreen(Screen):
    """The same lines, and below them a table that is drawn anew as runs go on."""

    def __init__(self, runs: Sequence[PlannedRun], at_once: int) -> None:
        super().__init__(runs, at_once)
        from rich.console import Console
        from rich.live import Live

        self.console = Console()
        self.live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> "LiveScreen":
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def print_line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        self.live.update(self.table(), refresh=True)

    def table(self) -> Any:
        """The runs at work, how far each one is, and the totals."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(caption=totals(self.runs, self.at_once), caption_justify="left", box=None, padding=(0, 2, 0, 0))
        for heading in ("run", "", "step", "val/loss", "time"):
            table.add_column(heading, justify="left" if heading in ("run", "") else "right")
        for run in self.runs:
            if run.began is None:
                continue
            steps = f"{run.step}/{run.last_step}" if run.last_step else "starting"
            loss = "" if run.val_loss is None else f"{run.val_loss:.4f}"
            bar = ProgressBar(total=run.last_step or 1, completed=run.step, width=24)
            table.add_row(Text(run.title), bar, steps, loss, duration(run.elapsed))
        return table


def screen_for(runs: Sequence[PlannedRun], at_once: int) -> Screen:
    """A table on a terminal, lines elsewhere."""
    return LiveScreen(runs, at_once) if sys.stdout.isatty() else Screen(runs, at_once)
