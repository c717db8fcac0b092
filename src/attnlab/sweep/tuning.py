"""Choosing learning rates: runs every variant at the same ones, widens the grid where the best lies at its edge, and
writes a rate for each variant."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from attnlab.analysis import lr_tuning
from attnlab.analysis.lr_curve import FEWEST_RATES
from attnlab.analysis.lr_tuning import TunedVariant
from attnlab.analysis.reading import Experiment, read_experiment
from attnlab.analysis.report.charts import lr_curves
from attnlab.analysis.report.document import table
from attnlab.analysis.report.format import number
from attnlab.analysis.report.tables import draw
from attnlab.config.metric_kinds import parse_metric
from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.options.rules import MOST_SEED, parse_integers
from attnlab.store.files import write_atomically

USUAL_RATES, USUAL_SEEDS = "3e-4,1e-3,3e-3,1e-2", "100-102"
OURS = ("optimizer.lr", "seed", "experiment_name", "paths.runs", "tuned")  # words that the command itself writes
ALPHA = 0.05
WIDTH_OF_A_COLUMN = 14  # of a table that goes into a file or a pipe
SOME_FAILED, STOPPED = 1, (130, 143)


def tune(folder: Path, metric: str, rates: str, seeds: str, extend: int, overrides: Sequence[str]) -> None:
    """Run the grid if its variants or rates are named, read what is there, and write tuned.yaml."""
    lower = parse_metric(metric).lower_is_better
    grid = numbers(rates or USUAL_RATES)
    chosen = parse_integers("seeds", seeds, most=MOST_SEED, like=f"{USUAL_SEEDS} or 7,9")
    if overrides or rates:
        _check(grid, overrides)
        _sweep(folder, grid, chosen, overrides)
    experiment, entries = _read(folder, metric, lower)
    for _ in range(extend if overrides or rates else 0):
        more = lr_tuning.extend_grid(entries, lr_tuning.spacing(grid))
        if not more:
            break
        ends = {entry.variant: entry.lr_curve.best for entry in entries if entry.lr_curve.edge}
        print(
            f"the best rate lies at the edge of the grid for {', '.join(f'{v} ({r:g})' for v, r in ends.items())}: "
            f"adding {', '.join(f'{rate:g}' for rate in more)} for all"
        )
        _sweep(folder, more, chosen, overrides)
        experiment, entries = _read(folder, metric, lower)
    _tell(experiment, entries)


def numbers(text: str) -> list[float]:
    """Learning rates from text such as 1e-4,3e-4."""
    try:
        rates = sorted({float(word) for word in text.strip("[]").split(",")})
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UsageError(f"rates ({text}) must be numbers above 0, such as {USUAL_RATES}")
    return rates


def _check(rates: Sequence[float], overrides: Sequence[str]) -> None:
    if len(rates) < FEWEST_RATES:
        raise UsageError(
            f"rates ({','.join(f'{r:g}' for r in rates)}) must be at least {FEWEST_RATES}: fewer do not show where the "
            "best one lies"
        )
    for word in overrides:
        key = word.partition("=")[0].lstrip("+~")
        if key in OURS:
            instead = {"optimizer.lr": "rates=", "seed": "seeds="}.get(key, "experiment=runs/<experiment>")
            raise UsageError(f"{word}: leave {key} out; {instead} says it")


def _sweep(folder: Path, rates: Sequence[float], seeds: Sequence[int], overrides: Sequence[str]) -> None:
    """Have `attnlab train` run every variant at every rate with every seed; what is finished is not run again."""
    arguments = [f"experiment_name={folder.name}", f"paths.runs={folder.parent}", *overrides]
    arguments.append("report.at_end=false")  # a verdict on the seeds that choose the rates would flatter
    arguments += [f"optimizer.lr={','.join(f'{rate:g}' for rate in rates)}", f"seed={','.join(map(str, seeds))}"]
    command = [sys.executable, "-m", "attnlab.cli.train", "-m", *arguments]
    print(f"attnlab train -m {shlex.join(arguments)}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code in STOPPED:
        raise Stopped(f"stopped; the same command goes on with {folder}", code)
    if code == UsageError.exit_code:
        raise UsageError("attnlab train refused the sweep (why, is told above)")
    if code not in (0, SOME_FAILED):  # runs that diverge are points of the curve, and what failed is found by reading
        raise AttnlabError(f"attnlab train ended with exit code {code} (why, is told above)")


def _read(folder: Path, metric: str, lower: bool) -> tuple[Experiment, list[TunedVariant]]:
    experiment = read_experiment(folder, metric)
    return experiment, lr_tuning.read_tuning(experiment, lower, ALPHA)


def _tell(experiment: Experiment, entries: Sequence[TunedVariant]) -> None:
    rates = sorted({point.rate for entry in entries for point in entry.lr_curve.points})
    rows = []
    for entry in entries:
        at = {p.rate: "diverged" if p.diverged else number(p.mean) for p in entry.lr_curve.points}
        r = entry.lr_curve
        cells = [
            *(at.get(rate, "") for rate in rates),
            f"{r.best:g}",
            "none" if r.fitted is None else f"{r.fitted:.3g}",
        ]
        rows.append([_label(entry), *cells, f"{r.proposal:g}", number(r.sensitivity)])
    columns = ["variant", *(f"{rate:g}" for rate in rates), "best", "parabola", "lr", "sensitivity"]
    seeds = ", ".join(map(str, entries[0].lr_curve.tuning_seeds))
    print(f"{experiment.metric} at each learning rate, mean over seeds {seeds}")
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_COLUMN * len(columns))
    draw(table(columns, rows), console)
    settings, runs = (sum(sizes) for sizes in zip(*map(_tried, entries), strict=True))
    print(f"{settings} settings of {len(entries)} variants were tried, in {runs} runs")
    edges = False
    for entry in entries:
        for remark in entry.lr_curve.remarks:
            print(f"- {_label(entry)}: {remark}")
        edges = edges or bool(entry.lr_curve.edge)
    if edges:
        more = lr_tuning.extend_grid(entries, lr_tuning.spacing(rates))
        print(f"- to widen the grid, run it at optimizer.lr={','.join(f'{rate:g}' for rate in more)}, too")
    if drawing := lr_curves([(_label(entry), entry.lr_curve) for entry in entries], experiment.metric):
        path = experiment.folder.learning_rates
        write_atomically(path, drawing.svg.encode(), key="experiment")
        print(f"wrote {path}")
    path = lr_tuning.write(experiment, entries)
    print(f"wrote {path}; final runs take it with tuned={experiment.folder} and other seeds")


def _tried(entry: TunedVariant) -> tuple[int, int]:
    """How many rates, and how many runs at them."""
    points = entry.lr_curve.points
    return len(points), len(points) * len(entry.lr_curve.tuning_seeds)


def _label(entry: TunedVariant) -> str:
    return " ".join([entry.variant, *(f"{key}={value}" for key, value in entry.apart.items())])
