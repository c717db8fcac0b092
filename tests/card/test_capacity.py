"""Capacities: the crossing of a known logistic, bounds outside what was tried, the frontier, and what is written."""

import csv
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.analysis.folders import write_run

from attnlab.analysis.reading import read_experiment
from attnlab.card.capacity import Size, capacity, crossing, frontier_of, recall_of, sizes_of
from attnlab.card.capacity_page import save

PAIRS = (4, 8, 16, 32)
FLOOR = 0.1


def logistic(n: float, c: float, k: float = 3.0) -> float:
    return 1 / (1 + (n / c) ** k)


def test_crossing() -> None:
    """The c and k that made a curve are found; where no recall crosses there is no number."""
    curve = {n: logistic(n, 11.0) for n in PAIRS}
    assert crossing(curve, 0.5) == pytest.approx(11.0, rel=1e-3)
    assert crossing(curve, 0.9) == pytest.approx(11.0 * 9 ** (-1 / 3), rel=1e-3)
    assert crossing(dict.fromkeys(PAIRS, 1.0), 0.5) == math.inf
    assert crossing(dict.fromkeys(PAIRS, 0.1), 0.5) == 0.0
    assert recall_of(0.55, {"bounds": {"floor": {"accuracy": FLOOR}}}) == pytest.approx(0.5)


def test_bounds() -> None:
    """Outside what was tried, or where seeds disagree about that, only a bound is known."""
    inside, above = ({n: logistic(n, c) for n in PAIRS} for c in (11.0, 500.0))
    below = {n: logistic(n, 1.0) for n in PAIRS}
    assert capacity([above, above], 0.5).bound == "> 32" and capacity([below], 0.5).bound == "< 4"
    assert capacity([inside, above], 0.5) == (None, "seeds differ")
    band = capacity([inside, {n: logistic(n, 13.0) for n in PAIRS}], 0.5).band
    assert band is not None and band == pytest.approx((math.sqrt(11 * 13), 11, 13), rel=1e-3)


def write_sizes(folder: Path) -> list[Size]:
    """Two variants whose capacities are a power of their bytes, one of them with half as many pairs."""
    for variant, share in (("multi_head", 1.0), ("linear", 0.5)):
        for width in (16, 32, 64):
            c = share * 0.4 * width
            for n in PAIRS:
                for seed, noise in ((0, 0.95), (1, 1.05)):
                    accuracy = FLOOR + (1 - FLOOR) * logistic(n, c * noise)
                    summary = {
                        "attention_cost": {"state_bytes": width**2},
                        "bounds": {"floor": {"accuracy": FLOOR}, "ceiling": {"accuracy": 1.0}},
                    }
                    settings = {"model.d_model": width, "data.n_pairs": n}
                    options = {"settings": settings, "metric": "val/accuracy", "summary": summary}
                    write_run(folder, variant, seed, accuracy, **options)  # type: ignore[arg-type]
    return sizes_of(read_experiment(folder, "val/accuracy"))


def test_frontier(tmp_path: Path) -> None:
    """The power law through the best is found again, and the other variant stands at half of it."""
    sizes = write_sizes(tmp_path / "e")
    assert [(s.variant, s.state_bytes) for s in sizes[:2]] == [("linear", 256), ("linear", 1024)]
    frontier = frontier_of(sizes)
    assert frontier is not None and {size.variant for size in frontier.points} == {"multi_head"}
    assert frontier.slope == pytest.approx(0.5, rel=0.02) and frontier.at(1024) == pytest.approx(12.8, rel=0.02)
    assert frontier_of(sizes[:1]) is None
    paths = save(sizes, tmp_path / "out", "attnlab capacity attention=multi_head,linear")
    drawing = paths[0].read_text()
    ElementTree.fromstring(drawing)
    assert drawing.count("<polyline") >= 7 and "linear" in drawing
    rows = [*csv.DictReader(paths[1].read_text().splitlines())]
    half = next(row for row in rows if row["variant"] == "linear" and row["d_model"] == "64")
    assert half["of the frontier"] == "0.50" and half["seeds"] == "2"
    assert re.fullmatch(r"12\.8 \(12\.2 to 13\.4\)", half["pairs at 50%"])
    assert "bytes^0.5" in paths[2].read_text()


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    """One command trains all sizes and writes the three files; typed again it trains nothing."""
    words = ["attention=multi_head,linear", "pairs=2,3", "widths=8,16", "seeds=0", f"folder={tmp_path / 'runs' / 'c'}"]
    words += ["trainer.max_steps=4", "batch_size=4", "data.val_rows=32", f"paths.cache={tmp_path / 'cache'}"]
    start = [sys.executable, "-c", "from attnlab.cli import main; main()", "capacity", *words]
    done = [subprocess.run(start, capture_output=True, text=True, check=False) for _ in range(2)]
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert "[8/8]" in done[0].stdout and "[1/8]" not in done[1].stdout
    folder = tmp_path / "runs" / "c"
    assert len((folder / "capacity.csv").read_text().splitlines()) == 5
    assert (folder / "capacity.svg").is_file() and (folder / "capacity.md").is_file()


def first_look() -> list[str]:
    """The words of the short command in docs/tasks.md, without its folder."""
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"attnlab capacity (.*folder=runs/first_look(?:.|\n)*?)\n\n", text)
    return [word for word in shlex.split(command.replace("\\\n", " ")) if not word.startswith("folder=")]


@pytest.mark.slow
def test_first_look(tmp_path: Path) -> None:
    """In the short command, too, attention learns to recall, linear attention recalls the less the more pairs there
    are, a wider state recalls more, and what is left when the minutes are over goes on."""
    words = [*first_look(), f"folder={tmp_path / 'runs' / 'c'}", f"paths.cache={tmp_path / 'cache'}", "n_jobs=1"]
    start = [sys.executable, "-c", "from attnlab.cli import main; main()", "capacity", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, "minutes=0.4"], capture_output=True, text=True, check=False, env=environment)
    assert "the same command goes on" in done.stdout + done.stderr
    done = subprocess.run(start, capture_output=True, text=True, check=True, env=environment)
    sizes = sizes_of(read_experiment(tmp_path / "runs" / "c", "val/accuracy"))
    assert {(s.variant, s.width, s.seeds, s.lost) for s in sizes} == {
        (variant, width, 2, 0) for variant in ("multi_head", "linear") for width in (16, 24, 32)
    }
    for size in sizes:
        few, many = (size.recall[n].mean for n in (4, 8))
        if size.variant == "multi_head":
            assert min(few, many) > 0.8
        else:
            assert few > many + 0.2 and many < 0.7
    narrow, _, wide = (s for s in sizes if s.variant == "linear")
    assert wide.recall[8].mean > narrow.recall[8].mean and frontier_of(sizes) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention=linaer", "pairs=2,4"], r"attention \(linaer\) is no variant"),
        (["attention=linear", "pairs=4"], r"pairs \(4\) must be at least 2 numbers that rise"),
        (["attention=linear", "pairs=1,2"], r"pairs \(1,2\) must be at least 2: the value of a single pair"),
        (["attention=linear", "widths=64,32"], r"widths \(64,32\) must be at least 1 numbers that rise"),
        (["attention=linear", "seeds=a"], r"seeds \(a\) must be integers"),
    ],
)
def test_refusals(words: list[str], message: str, tmp_path: Path) -> None:
    from attnlab.cli._arguments import run
    from attnlab.errors import UsageError

    with pytest.raises(UsageError, match=message):
        run("capacity", [*words, f"folder={tmp_path / 'c'}"])
    assert not (tmp_path / "c").exists()


def test_other_runs_in_the_folder(tmp_path: Path) -> None:
    """Runs that recall no pairs are none of the sizes, and runs without a state, or of an older attnlab, are lost."""
    write_run(tmp_path / "e", "gqa", 0, 0.5, metric="val/accuracy")
    odd: tuple[Any, ...] = ({}, {"attention_cost": {}}, {"attention_cost": {"state_bytes": 0}, "bounds": None})
    for seed, summary in enumerate(({"attention_cost": {"state_bytes": 64}, "bounds": {"floor": None}}, *odd)):
        settings = {"model.d_model": 16, "data.n_pairs": 4}
        summary = {"attention_cost": None, **summary}
        write_run(tmp_path / "e", "linear", seed, 0.5, metric="val/accuracy", settings=settings, summary=summary)
    (size,) = sizes_of(read_experiment(tmp_path / "e", "val/accuracy"))
    assert (size.variant, size.state_bytes, size.seeds, size.lost) == ("linear", 64, 1, 3)
    assert size.recall[4].mean == 0.5
