"""From a variant to what there is of it: its runs, its maps, its card, and what to type next."""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import quote

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.comparison import CANNOT_TELL
from attnlab.analysis.report.document import Block, Lines, PageLink, table
from attnlab.inspection.records import tensorboard_command
from attnlab.machine.command_line import is_typed
from attnlab.store.run_folder import RunFolder

CARD = Path("card", "card.html")  # where `attnlab card` writes, seen from where it is typed


def where_to_look(report: Report, folder: Path) -> list[Block]:
    """A row for each variant with links out of the report's folder, and the commands that show more."""
    home = report.experiment.folder.path
    rows = []
    for arm in report.design.arms:
        runs = (
            PageLink(_count(len(arm.runs)), address(home / arm.folder, folder)) if (home / arm.folder).is_dir() else ""
        )
        rows.append([arm.label, arm.setting, *_in_full(arm), runs, _maps(arm, folder), _card(arm, folder)])
    columns = ["variant", "setting", "its whole name", "runs", "maps", "card"]
    return [table(columns, rows), Lines("\n".join(next_commands(report)))]


def address(target: Path, folder: Path) -> str:
    """The way from the report's folder to a file or a folder, for a browser."""
    return quote(os.path.relpath(target.resolve(), folder.resolve()).replace(os.sep, "/")) + "/" * target.is_dir()


def _count(n: int) -> str:
    return f"{n} run{'s' * (n != 1)}"


def _in_full(arm: Arm) -> list[str]:
    return ["" if arm.label == arm.variant else arm.full_label or arm.variant]


def _maps(arm: Arm, folder: Path) -> str:
    """The page of its first run that `attnlab maps` wrote, else the mean maps of this report."""
    pages = (RunFolder(run.path).prompt_maps / "index.html" for run in arm.finished.values())
    if (page := next((page for page in pages if page.is_file()), None)) is not None:
        return PageLink("page", address(page, folder))
    return PageLink("mean map", "#mean-attention-maps") if arm.finished else ""


def _card(arm: Arm, folder: Path) -> str:
    """The capability card, if there is one and it holds this variant."""
    name = arm.variant
    if CARD.is_file() and f">{name}<" in CARD.read_text(encoding="utf-8", errors="replace"):
        return PageLink("card", address(CARD, folder))
    return ""


def next_commands(report: Report) -> list[str]:
    """What to type next, each line with the reason behind it."""
    home = report.experiment.folder.path
    run = next((run.path for arm in report.design.arms for run in arm.finished.values()), None)
    unsure = [c for c in report.comparisons if c.verdict == CANNOT_TELL]
    lines = [(tensorboard_command(home), "curves and maps of all runs")]
    if run is not None:
        command = ["attnlab", "maps", f"run={run}", "prompt=The goat ate the shirt."]
        lines.append((shlex.join(command), "maps of a text of yours"))
    enough = [c.seeds_needed.as_seen for c in unsure if c.seeds_needed and c.seeds_needed.as_seen]
    seeds = max([min(enough, default=0), *(c.fewest_seeds for c in unsure)])
    more = any(c.n < seeds for c in unsure)  # what is the same in every seed, no number of them tells apart
    if more and not report.rules.sequential and (sweep := _sweep(report)):
        command = [*sweep, f"seed=range({seeds})", f"experiment_name={report.experiment.name}_{seeds}_seeds"]
        lines.append((shlex.join(command), "so many seeds may tell, judged anew; added to these they are explored"))
    names = [arm.variant for arm in report.design.arms if "+" not in arm.variant]
    if report.comparisons and names and all(arm.lr_curve is None for arm in report.design.arms):
        command = ["attnlab", "tune", f"experiment={home}_rates", f"attention={','.join(dict.fromkeys(names))}"]
        lines.append((shlex.join(command), "a learning rate for each"))
    if unsure and report.rules.margin is None and report.rules.judges:
        reason = "the smallest difference that matters to you (before a sweep: report.margin=...)"
        lines.append((f"{shlex.join(['attnlab', 'report', f'experiment={home}'])} margin=...", reason))
    return [text for line, reason in lines for text in (f"# {reason}", line)]


def _sweep(report: Report) -> list[str]:
    """The words of the last sweep without its seeds and its name; none where nothing was planned."""
    listed = report.experiment.declared.get("commands")
    sweeps = [each for each in (listed if isinstance(listed, list) else []) if is_typed(each)]
    if not sweeps:
        return []
    own = ("seed", "experiment_name")
    typed = [word for word in sweeps[-1]["argv"][1:] if word.partition("=")[0] not in own]
    return ["attnlab", "train", *(re.sub(r"=choice\(([^,()]*)\)$", r"=\1", word) for word in typed)]
