"""The runs of an experiment, read from their folders alone. What is damaged is named and counted, never left out.

`manifest.json`, if a sweep wrote one, is a list of entries (or an object with such a list under "runs", and what else
the sweep declared beside it): {"folder", "variant", "overrides", "seed", "status": planned | running | finished |
failed | diverged | refused, "reason", "log"}. It says what was planned; what became of a run, its folder says.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from attnlab.analysis.field_types import OF_CONFIG, OF_ENTRY, OF_MANIFEST, OF_SUMMARY, misfit
from attnlab.analysis.metric_curves import Curve, curve_of, outcome
from attnlab.config.metric_kinds import Metric, parse_metric
from attnlab.errors import UsageError
from attnlab.store import moved
from attnlab.store.damage import Damaged, one_line, read_text
from attnlab.store.digests import digests_in, is_sealed
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.files import MOST_BYTES, parse_json, read_file
from attnlab.store.names import CONFIG, MANIFEST, METRICS, SEED, SUMMARY
from attnlab.store.run_folder import RunFolder, group_name, parse_config, seed_in, seed_name
from attnlab.store.status import Status

UNPLANNED = "what is counted is what was found, not what was planned"
# What a manifest may say of a run without one.
WITHOUT_SUMMARY = (Status.PLANNED, Status.FAILED, Status.REFUSED, Status.DIVERGED, Status.UNNEEDED)
NEEDED = ("status", "variant", "hash", "seed", "step")  # of summary.json
SEED_LINES = re.compile(r"(?m)^(seed|  (?:data|init|noise|eval)): \d+$")  # in which the configs of a group differ
SEED_LINE = re.compile(r"(?m)^(?:  )?(seed|data|init|noise|eval): (\d+)$")
MOST_RUNS, MOST_PROBLEMS = 100_000, 20  # that a manifest may list; of them that are told one by one


@dataclass(frozen=True)
class Run:
    """One run as it stands on disk. `group` is the folder of all seeds of one configuration, `variant`-`hash`."""

    path: Path
    group: str
    variant: str
    seed: int | None
    status: Status
    reason: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    summary: Mapping[str, Any] = field(default_factory=dict, repr=False)
    curve: Curve | None = None
    outcome: float | None = None  # what its course comes to; None: the last value
    overrides: tuple[str, ...] = ()
    levels: Mapping[str, Any] = field(default_factory=dict, repr=False)  # of the axes of the design that planned it
    code: Mapping[str, str] | None = field(default=None, repr=False)  # module -> hash; None where that is unknown

    @property
    def report(self) -> Mapping[str, Any]:
        """What its config declares of the report; nothing in a run from before there was that."""
        declared = self.config.get("report")
        return declared if isinstance(declared, Mapping) else {}

    @property
    def name(self) -> str:
        """The folder, from the experiment's on."""
        return f"{self.group}/{seed_name(self.seed)}" if self.seed is not None else self.group

    @property
    def final(self) -> float:
        """What the metric comes to: its value after the last step, or what was asked of its course."""
        assert self.curve is not None, "only finished runs have a final value"
        return float(self.curve.values[-1]) if self.outcome is None else self.outcome


@dataclass(frozen=True)
class Experiment:
    """Every run below runs/<experiment>, and what the sweep that made them declared."""

    folder: ExperimentFolder
    metric: str
    runs: list[Run]
    declared: dict[str, Any]  # what manifest.json holds beside its list of runs
    problems: list[str]
    is_planned: bool = False  # whether manifest.json lists runs, so that what was planned is known
    logged: tuple[str, ...] = ()  # the names of what its runs logged; empty where the metric was there

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name


def read_experiment(folder: Path | str, metric: str = "val/loss") -> Experiment:
    """Read all runs of an experiment and one metric of each. Raises UsageError if there is nothing to read."""
    experiment = ExperimentFolder(Path(folder))
    experiment.check_exists()
    entries, declared, problems = _manifest(experiment)
    is_planned = bool(entries)
    configs: dict[str, Mapping[str, Any]] = {}
    judged, logged = parse_metric(metric), dict[str, None]()
    by_key: dict[tuple[str, str], Run] = {}
    for run in experiment.runs():
        key = (run.path.parent.name, run.path.name)
        by_key[key] = _read_run(run, judged, configs, entries.pop(key, {}), logged)
    runs = [*by_key.values(), *(_absent(experiment.path, key, entry) for key, entry in entries.items())]
    if not runs:
        hint = _hint(experiment.path)
        raise UsageError(
            f"experiment ({experiment}) holds no runs: it must hold folders such as NAME/{seed_name(0)}{hint}"
        )
    unchecked = sum(run.status == Status.FINISHED and not is_sealed(run.summary) for run in runs)
    if unchecked:
        problems.append(f"{unchecked} runs are from before {SUMMARY} held digests of all files: they are not checked")
    return Experiment(experiment, metric, runs, declared, problems, is_planned, tuple(logged))


def _hint(folder: Path) -> str:
    """Where the runs may be, if the folder given is one too high or too deep."""
    if RunFolder(folder).config.is_file():
        return f"; for the experiment that this run belongs to, give {folder.parent.parent}"
    if next(folder.glob(f"{SEED}*/{CONFIG}"), None):
        return f"; for the experiment that these runs belong to, give {folder.parent}"
    deeper = sorted({path.parents[2].name for path in folder.glob(f"*/*/{SEED}*/{CONFIG}")})
    return f"; name one of {', '.join(str(folder / name) for name in deeper[:6])}" if deeper else ""


def _manifest(experiment: ExperimentFolder) -> tuple[dict[tuple[str, str], dict[str, Any]], dict[str, Any], list[str]]:
    """The entries of manifest.json by folder, what it declares beside them, and what is wrong with it."""
    try:
        content = parse_json(read_file(experiment.manifest.path))
    except FileNotFoundError:
        return {}, {}, [f"no {MANIFEST}: {UNPLANNED}"]
    except (OSError, ValueError) as error:
        return {}, {}, [f"{MANIFEST} cannot be read ({one_line(error)}): which runs were planned is not known"]
    rows = content.get("runs") if isinstance(content, dict) else content
    if not isinstance(rows, list) or len(rows) > MOST_RUNS:
        return {}, {}, [f"{MANIFEST} holds no list of runs, or a very long one: which runs were planned is not known"]
    entries, problems = {}, []
    if not rows:
        problems.append(f"{MANIFEST} lists no runs: {UNPLANNED}")
    for i, row in enumerate(rows):
        wrong = misfit(row, OF_ENTRY) if isinstance(row, dict) else ""
        if wrong or not (isinstance(row, dict) and ("folder" in row or "variant" in row)):
            problems.append(f"{MANIFEST}: entry {i} is not a run{f' ({wrong})' if wrong else ''}")
            continue
        variant, parts = str(row.get("variant")), PurePath(str(row.get("folder") or "")).parts[-2:]
        entries[(parts[0], parts[1]) if len(parts) == 2 else (variant, f"entry_{i}")] = row
    declared = {key: value for key, value in content.items() if key != "runs"} if isinstance(content, dict) else {}
    while wrong := misfit(declared, OF_MANIFEST):
        problems.append(f"{MANIFEST}: {wrong}, and is not believed")
        del declared[wrong.partition(" ")[0].partition(".")[0]]
    if len(problems) > MOST_PROBLEMS:
        problems = [*problems[:MOST_PROBLEMS], f"{MANIFEST}: and {len(problems) - MOST_PROBLEMS} further problems"]
    return entries, declared, problems


def _read_run(
    folder: RunFolder,
    metric: Metric,
    configs: dict[str, Mapping[str, Any]],
    entry: Mapping[str, Any],
    logged: dict[str, None],
) -> Run:
    """A run, and one metric of it; what it logged instead, if that is not there, is added to `logged`."""
    path = folder.path
    group, seed = "".join(c if c.isprintable() else "?" for c in path.parent.name), seed_in(path.name)
    variant = str(entry.get("variant") or group.rpartition("-")[0] or group)
    run = Run(path, group, variant, seed, Status.DAMAGED, overrides=_overrides(entry), levels=entry.get("levels") or {})
    try:
        if seed is None:
            raise Damaged(path, f"{path.name!r} is not {SEED}<number>")
        if not path.is_dir():
            raise Damaged(path, "not a folder")
        if (foreign := path if path.is_symlink() else next(folder.foreign_entries(), None)) is not None:
            raise Damaged(path, f"{foreign.name} is a device, a pipe or a link that leads out of the folder")
        summary = _summary(folder)
        if summary is not None:
            folder.check(summary)
        config = _config(folder, configs)
        run = replace(run, config=config, code=_code(folder))
        if summary is None:
            return _without_summary(run, entry)
        _check_belongs(folder, summary, group, seed)
        run = replace(run, summary=summary, variant=str(summary["variant"]), config=config)
        if summary["status"] == Status.DIVERGED:
            return replace(run, status=Status.DIVERGED, reason=str(entry.get("reason") or f"at step {summary['step']}"))
        if summary["status"] != Status.FINISHED:
            return replace(run, status=Status.FAILED, reason=str(entry.get("reason") or summary["status"]))
        if not config:
            raise Damaged(path, f"no {CONFIG}")
        curve = _curve(folder, metric, summary, logged)
        if not math.isfinite(curve.values[-1]):
            reason = f"{metric.name} is {curve.values[-1]} after step {curve.steps[-1]}"
            return replace(run, status=Status.DIVERGED, reason=reason)
        return replace(run, status=Status.FINISHED, curve=curve, outcome=outcome(metric, curve))
    except Damaged as damage:
        return replace(run, status=Status.DAMAGED, reason=damage.reason)
    except OSError as error:
        return replace(run, status=Status.DAMAGED, reason=one_line(error))


def _overrides(entry: Mapping[str, Any]) -> tuple[str, ...]:
    overrides = entry.get("overrides") or ()
    return tuple(overrides.split()) if isinstance(overrides, str) else tuple(str(word) for word in overrides)


def _absent(folder: Path, key: tuple[str, str], entry: Mapping[str, Any]) -> Run:
    """A run that the manifest names and the disk does not hold."""
    seed = entry.get("seed") if isinstance(entry.get("seed"), int) else seed_in(key[1])
    status, reason = entry.get("status") or Status.PLANNED, str(entry.get("reason") or "")
    if status not in WITHOUT_SUMMARY:
        status, reason = Status.DAMAGED, f"{MANIFEST} says {status}, but there is no such folder"
    variant = str(entry.get("variant") or key[0].rpartition("-")[0])
    run = Run(folder / key[0] / key[1], key[0], variant, seed, Status(status), reason)
    return replace(run, overrides=_overrides(entry), levels=entry.get("levels") or {})


def _without_summary(run: Run, entry: Mapping[str, Any]) -> Run:
    """A run that has not ended, or not in a way that it could tell of itself."""
    if RunFolder(run.path).is_locked():
        return replace(run, status=Status.RUNNING, reason="in work right now")
    if entry.get("status") in WITHOUT_SUMMARY:
        return replace(run, status=Status(entry["status"]), reason=str(entry.get("reason") or ""))
    if entry.get("status") == Status.FINISHED:
        return replace(run, status=Status.DAMAGED, reason=f"{MANIFEST} says finished, but there is no {SUMMARY}")
    return replace(run, status=Status.UNFINISHED, reason="it was cut off; the same command goes on with it")


def _code(folder: RunFolder) -> Mapping[str, str] | None:
    """The hash of each module that made a run, all that it had where it was continued by other code."""
    content = folder.read_code()
    if content is None:
        return None
    hashes: dict[str, list[str]] = {}
    for record in (content, *content.get("later", [])):
        for name, digest in record["modules"].items():
            hashes.setdefault(name, []).append(digest)
    return {name: "+".join(dict.fromkeys(digests)) for name, digests in hashes.items()}


def _config(folder: RunFolder, configs: dict[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The config of a run; those of one group differ in their seeds alone and are parsed once."""
    text = read_text(folder.config)
    if text is None:
        return {}
    shared = SEED_LINES.sub(r"\1: 0", text)
    if shared not in configs:
        content = parse_config(folder.path, shared)
        if wrong := misfit(content, OF_CONFIG):
            raise Damaged(folder.path, f"{CONFIG}: {wrong}")
        if (content.get("optimizer") or {}).get("lr", 0) is None:
            raise Damaged(folder.path, f"{CONFIG}: optimizer.lr is null")
        configs[shared] = content
    seeds = dict(SEED_LINE.findall(text))
    apart = {name: int(value) for name, value in seeds.items() if name != "seed" and value != seeds.get("seed")}
    settings = {key: value for key, value in configs[shared].items() if key != "streams"}
    return {**settings, **({"streams": apart} if apart else {})}  # a stream that follows the seed is no setting


def _summary(folder: RunFolder) -> dict[str, Any] | None:
    text = read_text(folder.summary)
    if text is None:
        return None
    try:
        content = parse_json(text)
    except ValueError as error:
        raise Damaged(folder.path, f"{SUMMARY} is not JSON ({one_line(error)})") from error
    content = moved.with_current_keys(content) if isinstance(content, dict) else content
    missing = [key for key in NEEDED if key not in content] if isinstance(content, dict) else list(NEEDED)
    if missing:
        raise Damaged(folder.path, f"{SUMMARY} lacks {', '.join(missing)}")
    if wrong := misfit(content, OF_SUMMARY):
        raise Damaged(folder.path, f"{SUMMARY}: {wrong}")
    if lacking := [key for key in NEEDED if content[key] is None]:
        raise Damaged(folder.path, f"{SUMMARY}: {lacking[0]} is null")
    return dict(content)


def _check_belongs(folder: RunFolder, summary: Mapping[str, Any], group: str, seed: int) -> None:
    """A folder that was copied or renamed tells of another run."""
    if summary["seed"] != seed:
        raise Damaged(folder.path, f"{SUMMARY} is that of seed {summary['seed']}")
    variant, asked = summary["variant"], summary["hash"]
    # In the names of older runs the code is not.
    name = group_name(variant, asked, str(summary["code"])) if "code" in summary else f"{variant}-{asked}"
    if name != group:
        raise Damaged(folder.path, f"{SUMMARY} is that of {name}")


def _curve(folder: RunFolder, metric: Metric, summary: Mapping[str, Any], logged: dict[str, None]) -> Curve:
    """One metric of a finished run, from metrics.csv."""
    rows = folder.read_metrics(digests_in(summary), MOST_BYTES)
    if (last_step := max((row.step for row in rows), default=0)) < summary["step"]:
        raise Damaged(folder.path, f"{METRICS} ends at step {last_step} of {summary['step']}")
    curve = curve_of(metric, rows)
    if curve is None:
        logged |= dict.fromkeys(row.metric for row in rows)
        raise Damaged(folder.path, f"{METRICS} has no {metric.name}")
    loss, last = summary.get("val_loss"), curve.values[-1]
    if metric.name == "val/loss" and loss is not None and not np.array_equal(float(loss), last, equal_nan=True):
        reason = f"{METRICS} ends with {metric.name} {curve.values[-1]}, but {SUMMARY} says {loss}"
        raise Damaged(folder.path, reason)
    return curve
