"""Deviations of a report and its runs from what was preregistered (`attnlab.store.preregistration`)."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from attnlab.analysis.groups import changing, groups_of
from attnlab.analysis.reading import Run
from attnlab.store.preregistration import Preregistration, PreregistrationCheck, read, seeds_by_folder
from attnlab.store.status import Status

NOT_STARTED = (Status.PLANNED, Status.REFUSED, Status.UNNEEDED)


def check(
    folder: Path | str, used: Preregistration, runs: Iterable[Run], labels: Sequence[str]
) -> PreregistrationCheck | None:
    """The preregistration of an experiment, and in which points the report and the runs deviate from it.

    `used` is what the report goes by; `labels` are all variants that ran; None if nothing was preregistered.
    """
    existing = read(folder)
    if existing is None:
        return None
    registered, deviations = existing.preregistration, list(existing.deviations)
    for key in ("baseline", "metric", "margin", "alpha"):
        before, now = getattr(registered, key), getattr(used, key)
        if before != now:
            deviations.append(f"{key} was preregistered as {before}, and is {now}")
    if set(registered.family) != set(used.family):
        deviations.append(f"the family was {', '.join(registered.family)}, and is {', '.join(used.family)}")
    runs = list(runs)
    if registered.runs is not None:
        deviations += _other_runs(registered.runs, runs)
    else:
        if more := sorted(set(labels) - {*registered.family, registered.baseline}):
            deviations.append(f"not preregistered, but run: {', '.join(more)}")
        if missing := sorted(set(registered.seeds) - {run.seed for run in runs if run.status == Status.FINISHED}):
            deviations.append(f"preregistered seeds without a finished run: {', '.join(map(str, missing))}")
        if extra := sorted({run.seed for run in runs if run.seed is not None} - set(registered.seeds)):
            deviations.append(f"seeds that were not preregistered: {', '.join(map(str, extra))}")
        deviations += _several_configs({registered.baseline, *registered.family}, runs)
    started = [str(run.summary["started"]) for run in runs if "started" in run.summary]
    if early := [when for when in started if _time(when) < _time(existing.created)]:
        deviations.append(f"{len(early)} runs had started before it was written ({min(early)}, {existing.created})")
    return existing._replace(deviations=deviations)


def _time(when: str) -> datetime:
    """A time with its zone; what cannot be read counts as the beginning of all time."""
    try:
        time = datetime.fromisoformat(when)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _other_runs(registered: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Runs that were not preregistered, by their configs, and preregistered ones that have no result."""
    started = [run for run in runs if run.status not in NOT_STARTED]
    others = [run for run in started if run.name not in registered]
    settings = {group.folder: group.settings for group in groups_of(runs)}
    deviations = []
    for folder, seeds in seeds_by_folder(run.name for run in others).items():
        alike = next((run.variant for run in others if run.group == folder), "")
        meant = [name for name in seeds_by_folder(registered) if name.rpartition("-")[0] == alike]
        if folder in meant:
            deviations.append(f"seeds that were not preregistered: {folder} ({seeds})")
        elif meant:
            apart = [
                f"{key} {settings[folder].get(key)}, not {settings[name].get(key)}"
                for name in meant[:1]
                if name in settings and folder in settings
                for keys in changing([settings[name], settings[folder]])
                for key in keys
            ]
            what = f": {'; '.join(apart)}" if apart else ""
            deviations.append(
                f"run with another config than {', '.join(meant)}, which was preregistered: {folder} ({seeds}){what}"
            )
        else:
            deviations.append(f"not preregistered, but run: {folder} ({seeds})")
    became = {run.name: run.status for run in runs}
    lost = [name for name in registered if became.get(name) not in (Status.FINISHED, Status.UNNEEDED)]
    for folder, seeds in seeds_by_folder(lost).items():
        fates = dict.fromkeys(became.get(name, "not there") for name in lost if name.startswith(f"{folder}/"))
        deviations.append(f"preregistered, and without a result: {folder} ({seeds}; {', '.join(fates)})")
    return deviations


def _several_configs(names: Iterable[str], runs: Sequence[Run]) -> list[str]:
    """Variants that ran in more than one config, where the preregistration does not tell which one was meant."""
    folders = dict.fromkeys((run.variant, run.group) for run in runs if run.status not in NOT_STARTED)
    by_name = {name: [folder for variant, folder in folders if variant == name] for name in sorted(names)}
    return [
        f"{name} ran with {len(each)} configs ({', '.join(each)}), and the preregistration names none of them"
        for name, each in by_name.items()
        if len(each) > 1
    ]
