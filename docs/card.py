"""Records what runs of the card came to, and writes docs/card.md and its picture: python -m docs.card [FOLDER]

FOLDER is what `attnlab card folder=FOLDER` was given: its finished runs with the settings that the cells have today are
written to docs/card/results.json. A cell whose task, seed or steps are others now begins anew. Without FOLDER, the page
and the picture are made of what is recorded.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attnlab.card.battery import CONTROLS, FACTORS, Result, above, best_control, cells, words_of
from attnlab.card.picture import draw, floor_of, shown
from attnlab.config.compose import compose_config
from attnlab.config.keys import options, settings_of
from attnlab.store.files import parse_json, read_file, write_atomically
from attnlab.store.run_folder import find_run

FOLDER = Path(__file__).parent / "card"
RECORD, PICTURE, PAGE = FOLDER / "results.json", FOLDER / "card.png", FOLDER.with_suffix(".md")
BEGIN = "<!-- results: written by docs/card.py -->"
Cells = dict[str, dict[str, Any]]  # by cell: what all its runs share, and "runs", by variant


def recorded() -> Cells:
    """What is recorded of each cell."""
    content: Cells = parse_json(read_file(RECORD)) if RECORD.exists() else {}
    return content


def results(record: Mapping[str, Mapping[str, Any]], variant: str | None = None) -> list[Result]:
    """What is recorded, best first by the first cell; of one variant and the controls, if given."""
    every = [
        Result(name, cell, {**run, "bounds": about["bounds"]})
        for cell, about in record.items()
        for name, run in about["runs"].items()
        if variant is None or name == variant or name in CONTROLS
    ]
    first = {r.variant: -(r.gained(1) or 0.0) for r in every if r.cell == next(iter(record))}
    return sorted(every, key=lambda r: (first.get(r.variant, 1.0), r.variant))


def merged(record: Cells, folder: Path) -> Cells:
    """The record with the finished runs of a folder, those of today's settings."""
    for file in sorted((folder / "runs").glob("*/*/seed_*/summary.json")):
        run, cell = find_run(file.parent), file.parts[-4]
        summary = run.read_summary()
        if cell not in cells() or summary.get("status") != "finished":
            continue
        name = summary["variant"]
        asked = settings_of(compose_config(words_of(name, cell)).as_dict(), besides=())
        settings = settings_of(run.read_config(), besides=())
        others = [key for key, value in asked.items() if value != "auto" and settings.get(key) != value]
        if others:
            print(f"{run.name}: {', '.join(others)} is not as in the cell {cell}: left out")
            continue
        about = {"seed": summary["seed"], "steps": summary["step"], "bounds": summary.get("bounds")}
        if cell not in record or {key: record[cell][key] for key in about} != about:
            record[cell] = {**about, "runs": {}}
        record[cell]["runs"][name] = of_run(Result(name, cell, summary))
    return {cell: record[cell] for cell in cells() if cell in record}


def of_run(result: Result) -> dict[str, Any]:
    """What is kept of a run: its day, its commit, and the measure of the cell at each length, with its error."""
    summary, measure = result.summary, "loss" if result.by_loss else "accuracy"
    scores = {}
    for factor in FACTORS:
        name = measure if factor == 1 else f"{measure}_beyond"
        value = result.value(factor)
        scores[str(factor)] = (
            {"cannot": result.reason(factor)}
            if value is None
            else {name: round(value, 4), f"{name}_error": round(result.error(factor), 4)}
        )
    commit = f"{summary['git_commit'][:8]}{' with changes' if summary['git_dirty'] else ''}"
    return {"date": summary["started"][:10], "commit": commit, "extrapolation": scores}


def text_of(record: Cells) -> str:
    """The record as JSON, a line for each run."""
    parts = []
    for cell, about in record.items():
        shared = ", ".join(f"{json.dumps(key)}: {json.dumps(about[key])}" for key in about if key != "runs")
        runs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in sorted(about["runs"].items()))
        parts.append(f' {json.dumps(cell)}: {{{shared}, "runs": {{\n{runs}\n }}}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def values(result: Result, others: list[Result]) -> str:
    """A result at each length, marked where it is above the best control."""
    marks = (shown(result, factor) + ("▲" if above(result, others, factor) else "") for factor in FACTORS)
    return " · ".join(marks)


def page(text: str, record: Cells) -> str:
    """The page with its results anew."""
    every = results(record)
    variants = [*dict.fromkeys(r.variant for r in every)]
    by_place = {(r.variant, r.cell): r for r in every}
    lines = [text.split(BEGIN)[0] + BEGIN, "", "| cell | runs | steps | seed | floor | ceiling | run on | commits |"]
    lines.append("|---|---:|---:|---:|---|---:|---|---|")
    for cell, about in record.items():
        lines.append(f"| {' | '.join([cell, *cell_facts(about, every, cell)])} |")
    lines += ["", "![What each variant can do](card/card.png)", "", f"| variant | {' | '.join(record)} |"]
    lines.append(f"|---|{'---|' * len(record)}")
    for variant in variants:
        of_it = (by_place.get((variant, cell)) for cell in record)
        lines.append(f"| `{variant}` | {' | '.join(values(r, every) if r else 'not run' for r in of_it)} |")
    missing = [name for name in options("attention") if name not in variants]
    whole = [cell for cell in cells() if cell not in record]
    lines += ["", f"Not run: {', '.join(f'`{name}`' for name in missing) or 'none'}."]
    lines += [f"Cells of which no run is recorded: {', '.join(whole) or 'none'}."]
    return "\n".join(lines) + "\n"


def cell_facts(about: Mapping[str, Any], every: list[Result], cell: str) -> Iterator[str]:
    """What all runs of a cell share, and when they were made."""
    first = next(r for r in every if r.cell == cell)
    runs = about["runs"].values()
    yield from (str(len(runs)), str(about["steps"]), str(about["seed"]), floor_of(first) if first.is_task else "")
    measure = "loss" if first.by_loss else "accuracy"
    yield f"{first.ceiling[measure]:.3g}" if first.is_task else ""
    yield from (", ".join(sorted({run[key] for run in runs})) for key in ("date", "commit"))


def rows_of(variant: str) -> Iterator[str]:
    """A table of what is recorded of a variant, beside the best control; nothing if no run is."""
    record = recorded()
    every = results(record, variant)
    own = {r.cell: r for r in every if r.variant == variant}
    if not own:
        return
    yield from ("", "| cell | floor | x1 · x2 · x4 · x8 | best control at x1 | run on |", "|---|---|---|---|---|")
    for cell, result in own.items():
        control = best_control(every, cell, 1)
        beside = f"{control.variant} {shown(control, 1)}" if control else ""
        floor = floor_of(result) if result.is_task else ""
        when = f"{result.summary['date']}, commit {result.summary['commit']}"
        yield f"| {cell} | {floor} | {values(result, every)} | {beside} | {when} |"
    yield from ("", f"Not run: {', '.join(cell for cell in cells() if cell not in own) or 'none'}.")


def main(words: list[str]) -> None:
    record = recorded()
    if words:
        record = merged(record, Path(words[0]))
        write_atomically(RECORD, text_of(record).encode(), key="docs/card")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    write_atomically(PICTURE, draw(results(record)), key="docs/card")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main(sys.argv[1:])
