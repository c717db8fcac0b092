"""How to repeat an experiment: commands to copy into a shell, the hashes of configs, and the conditions of the runs."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlab.analysis.analyse import Report
from attnlab.analysis.arms import Arm
from attnlab.analysis.differences import CONDITIONS
from attnlab.analysis.reading import Run
from attnlab.analysis.report.document import Block, Lines, table
from attnlab.machine.command_line import in_shell, is_typed
from attnlab.store.damage import Damaged
from attnlab.store.names import MANIFEST
from attnlab.store.run_folder import RunFolder

MOST_COMMANDS, MOST_VALUES = 20, 4
KEYS = ("baseline", "metric", "margin", "alpha", "family", "solved")  # of attnlab report


def reproducibility(report: Report) -> list[Block]:
    """Commands, configurations and conditions."""
    runs = [run for run in report.experiment.runs if run.summary]
    rows = [[c.label, c.setting, c.folder, str(len(c.finished)), str(len(c.runs))] for c in report.design.arms]
    conditions = []
    for key, name in CONDITIONS.items():
        values = {repr(run.summary.get(key)): run.summary.get(key) for run in runs}
        conditions.append([name, "; ".join(_in_words(value) for value in list(values.values())[:MOST_VALUES])])
    return [
        "Copied into a shell, these lines make the runs that are missing, and this report. A run that is finished is "
        "not trained again: experiment_name=... makes a second set beside the first, overwrite=true takes its place.",
        Lines("\n".join([*_commands(report), *_report_command(report)])),
        *_single_runs(report),
        table(["variant", "setting", "folder (with the hashes of config and code)", "finished", "runs"], rows),
        table(["condition", "of these runs"], [*conditions, *_packages(runs)]),
    ]


def _commands(report: Report) -> list[str]:
    """Every command that made runs of this experiment, each in the folder where it was typed."""
    declared, runs = report.experiment.declared, report.experiment.runs
    listed = declared.get("commands")
    sweeps = [command for command in (listed if isinstance(listed, list) else []) if is_typed(command)]
    typed = [(command["folder"], in_shell(command)) for command in sweeps]
    if not typed and isinstance(whole := declared.get("command"), str):
        typed.append(("", _with_python(whole)))
    for run in runs:
        command: Any = run.summary.get("typed")
        if not run.overrides and is_typed(command):
            typed.append((command["folder"], in_shell(command) + _threads(run, command["argv"])))
        elif not run.overrides and run.summary.get("command"):
            typed.append(("", _with_python(str(run.summary["command"]))))
    lines, here = [], ""
    for folder, command in dict.fromkeys(typed):
        if folder != here:
            lines.append(f"cd {shlex.quote(folder)}")
            here = folder
        lines.append(command)
    return lines


def _threads(run: Run, overrides: list[str]) -> str:
    """The number of threads belongs to a run, and where none was typed another machine may take another one."""
    threads = run.summary.get("threads")
    if not isinstance(threads, int) or any(word.startswith("trainer.threads=") for word in overrides):
        return ""
    return f" trainer.threads={threads}"


def _with_python(command: str) -> str:
    """A command as runs from before noted it."""
    return f"python {command}" if command.partition(" ")[0].endswith(".py") else command


def _single_runs(report: Report) -> list[Block]:
    """The command of each run of a sweep by itself."""
    listed = report.experiment.declared.get("commands")
    sweeps = [command for command in (listed if isinstance(listed, list) else []) if is_typed(command)]
    planned = [run for run in report.experiment.runs if run.overrides and run.seed is not None]
    if not planned:
        return []
    how = "python train.py " if not sweeps else ""
    lines = [
        in_shell(sweeps[-1], run.overrides) if sweeps else how + shlex.join(run.overrides)
        for run in planned[:MOST_COMMANDS]
    ]
    if len(planned) > len(lines):
        lines.append(f"# and {len(planned) - len(lines)} more: see {MANIFEST}")
    return ["One run of them by itself, in the same folder:", Lines("\n".join(lines))]


def _report_command(report: Report) -> list[str]:
    """The command that makes this report, with what was typed for it and was not declared."""
    family = [_typed(c.arm) for c in report.comparisons if c.verdict != "not in the family"]
    margin, alpha = report.rules.margin, report.rules.alpha
    terms = (_typed(report.baseline), report.experiment.metric, margin, alpha, family, report.solved_at)
    values = dict(zip(KEYS, terms, strict=True))
    chosen = [term.name for term in report.terms if term.change and not term.forced]
    typed = [
        f"{name}={','.join(value) if isinstance(value, list) else value}"
        for name, value in values.items()
        if name in chosen
    ]
    typed += ["code=any"] if report.code == "any" else []
    beside = Path(sys.executable).with_name("attnlab")
    program = str(beside) if beside.exists() else "attnlab"
    folder = report.experiment.folder.path.resolve()
    return [shlex.join([program, "report", f"experiment={folder}", *typed])]


def _typed(arm: Arm) -> str:
    """What an arm is called on a command line: words with blanks would be several."""
    return arm.folder if " " in arm.label else arm.label


def _packages(runs: list[Run]) -> list[list[str]]:
    """The commit of every package that runs used besides attnlab, as it stood in its own repository."""
    states: dict[str, dict[str, None]] = {}
    for run in runs:
        try:
            content = RunFolder(run.path).read_code() or {}
            packages = {str(name): origin for name, origin in content["packages"].items() if isinstance(origin, dict)}
        except (Damaged, LookupError, AttributeError):
            continue  # runs from before there was such a file; whoever loads the run is told what is wrong with it
        for name, origin in packages.items():
            changes = "with" if origin.get("dirty") else "no"
            commit = (
                f"commit {origin['commit']}, {changes} uncommitted changes" if origin.get("commit") else "no commit"
            )
            states.setdefault(name, {})[f"version {origin.get('version') or 'unknown'}, {commit}"] = None
    return [[f"package {name}", "; ".join(list(each)[:MOST_VALUES])] for name, each in states.items()]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {item}" for key, item in value.items())
    return "unknown" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
