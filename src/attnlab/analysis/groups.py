"""Runs by configuration: those that differ in their seeds alone belong together, whatever became of them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnlab.analysis.reading import Run
from attnlab.config.keys import LATER, one_spelling, settings_of
from attnlab.store.status import ENDED

RATE = "optimizer.lr"
ELSEWHERE = ("variant", "seed", "data.path")  # a field of a run, or what stands in a hash of its own
# What the machine and the files decide, by the keys of summary.json.
FROM_SUMMARY = {
    "data_sha256": "data.sha256",
    "tokenizer_sha256": "tokenizer.sha256",
    "val_sha256": "data.val_sha256",
    "precision": "precision",
    "threads": "trainer.threads",
}
# What a run started from is the folder that was typed, or what summary.json says of its contents.
STARTED_FROM = {"resume_from": "", "init_from": "init_sha256"}
JUDGED_BY = "data.val_sha256"  # the text that a loss is one of
ATTENTION = "attention."
CODE = "code"  # and code.MODULE: as what code is told apart in settings
OF_THE_VARIANT = (ATTENTION, "position.")  # settings that make a variant what it is


@dataclass(frozen=True)
class Group:
    """All runs of one configuration: they differ in their seeds alone."""

    folder: str
    variant: str
    settings: dict[str, Any]
    runs: list[Run]
    tuned: str | None = None  # the experiment that chose its learning rate

    @property
    def code(self) -> Mapping[str, str] | None:
        """The hash of each module that made the runs; None where that is unknown."""
        return next((run.code for run in self.runs if run.code), None)

    @property
    def started(self) -> str:
        """When the latest of the runs that have ended was begun."""
        return max((str(run.summary.get("started", "")) for run in self.runs), default="")

    @property
    def results(self) -> dict[int, Run]:
        """The runs that came to an end, good or bad, by seed."""
        return {run.seed: run for run in self.runs if run.status in ENDED and run.seed is not None}


def groups_of(runs: Iterable[Run]) -> list[Group]:
    """The runs by configuration; what has no readable config.yaml is left out."""
    by_folder: dict[str, list[Run]] = {}
    for run in runs:
        by_folder.setdefault(run.group, []).append(run)
    groups = []
    for folder, members in ((folder, part) for folder, whole in by_folder.items() for part in _by_code(whole)):
        config = next((run.config for run in members if run.config), {})
        summary = next((run.summary for run in members if run.summary), {})
        settings = {key: _value(value) for key, value in settings_of(config, besides=ELSEWHERE).items()}
        settings |= {
            key: summary[name] for name, key in FROM_SUMMARY.items() if isinstance(summary.get(name), str | int)
        }
        for key, digest in STARTED_FROM.items():
            if source := config.get(key):
                settings[key] = summary.get(digest, source)
        if config:
            tuned = next((str(name) for run in members if (name := run.config.get("tuned"))), None)
            groups.append(Group(folder, members[0].variant, settings, members, tuned))
    for key in FROM_SUMMARY.values():  # where no run has ended yet, what holds for all others
        values = {spelling(group.settings[key]): group.settings[key] for group in groups if key in group.settings}
        for group in groups if len(values) == 1 else ():
            group.settings.setdefault(key, *values.values())
    for key, usual in LATER.items():  # where some set what came later, the others have what was usual before
        for group in groups if any(key in group.settings for group in groups) else ():
            group.settings.setdefault(key, usual)
    _name_validation_texts(groups)
    _set_code(groups)
    return groups


def _value(value: Any) -> Any:
    """A setting as one of a set; an empty list or mapping is a leaf, too."""
    return str(value) if isinstance(value, list | dict) else value


def _name_validation_texts(groups: Sequence[Group]) -> None:
    """Runs that do not tell the hash of their validation text are judged by another one if their data are others."""
    cuts = {id(g): (g.settings.get("data.sha256"), spelling(g.settings.get("data.val_fraction"))) for g in groups}
    texts = {cuts[id(g)]: g.settings[JUDGED_BY] for g in groups if JUDGED_BY in g.settings}
    for group in groups:
        data, fraction = cuts[id(group)]
        if data is not None:
            text = texts.get((data, fraction), f"of {str(data)[:8]} at val_fraction {fraction}")
            group.settings.setdefault(JUDGED_BY, text)


def _by_code(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of a folder by the code that made them; those that have not begun are with the first."""
    parts: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.code is None):
        modules = tuple(sorted(run.code.items())) if run.code else next(iter(parts), ())
        parts.setdefault(modules, []).append(run)
    return list(parts.values())


def _set_code(groups: Sequence[Group]) -> None:
    """Give every group as settings the hashes of the modules that are not the same everywhere.

    A group that does not use such a module has the latest hash: it is what it would be by the latest code.
    """
    latest: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for group in sorted(groups, key=lambda group: group.started):
        latest |= group.code or {}
        for name, digest in (group.code or {}).items():
            hashes.setdefault(name, set()).add(digest)
    unknown = sum(group.code is None for group in groups)
    for group in groups:
        for name in sorted(name for name, each in hashes.items() if len(each) > 1):
            digests = ((group.code or latest).get(name) or latest[name]).split("+")
            group.settings[f"{CODE}.{name}"] = "+".join(digest[:8] for digest in digests)
        if 0 < unknown < len(groups):
            group.settings[CODE] = "unknown" if group.code is None else "recorded"


def apart_by(groups: Sequence[Group], tuned: Collection[str]) -> list[list[Group]]:
    """Configurations that differ in what is tuned alone, such as their learning rate, together."""
    arms: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        rest = sorted((key, repr(value)) for key, value in group.settings.items() if key not in tuned)
        arms.setdefault((group.variant, *rest), []).append(group)
    return list(arms.values())


def groups_by_rate(groups: Sequence[Group]) -> dict[float, Group]:
    """Configurations by their learning rate; those that tell none are left out."""
    return {float(group.settings[RATE]): group for group in groups if RATE in group.settings}


def spelling(value: Any) -> str:
    """A value as it is compared."""
    return repr(one_spelling(value))


def changing(settings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The keys in which configurations differ, those that always change together in one list; in each list the keys of
    the variant stand last, because they often follow from the others."""
    keys = dict.fromkeys(key for each in settings for key in each)
    together: dict[tuple[int, ...], list[str]] = {}
    for key in sorted(keys, key=lambda key: (key.startswith(f"{CODE}."), key.startswith(OF_THE_VARIANT))):
        values = [spelling(each.get(key)) for each in settings]
        partition = tuple(values.index(value) for value in values)
        if any(partition):
            together.setdefault(partition, []).append(key)
    return list(together.values())


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which configurations differ; of keys that always change together the first."""
    return [keys[0] for keys in changing(settings)]
