"""By which code runs were made: no mean is taken across codes unless that is asked for, and either is said."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from attnlab.analysis.groups import CODE, Group
from attnlab.analysis.reading import Run
from attnlab.config.code import changed, in_a_line
from attnlab.store.names import CODE as CODE_FILE
from attnlab.store.status import Status


def alike_but_for_code(groups: Iterable[Group]) -> list[list[Group]]:
    """The groups of each configuration, the latest last."""
    sets: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        sets.setdefault(_settings(group), []).append(group)
    return [sorted(alike, key=lambda group: group.started) for alike in sets.values()]


def across_codes(groups: Sequence[Group]) -> list[Group]:
    """One group for each configuration, whatever code made its runs; of a seed that ran twice, the latest result."""
    merged = []
    for alike in alike_but_for_code(groups):
        settings = {key: value for key, value in alike[-1].settings.items() if not is_code(key)}
        merged.append(replace(alike[-1], settings=settings, runs=_one_for_each_seed(alike)))
    return merged


def of_latest_code(groups: Sequence[Group], besides: Collection[str]) -> list[Group]:
    """Of groups that differ in nothing but code and the settings `besides`, those by the code of the latest."""
    latest: dict[tuple[str, ...], list[str]] = {}
    for group in sorted(groups, key=lambda group: group.started):
        latest[_settings(group, besides)] = _code(group)
    return [group for group in groups if _code(group) == latest[_settings(group, besides)]]


def _settings(group: Group, besides: Collection[str] = ()) -> tuple[str, ...]:
    rest = (f"{key}={value!r}" for key, value in group.settings.items() if key not in besides and not is_code(key))
    return (group.variant, *sorted(rest))


def _code(group: Group) -> list[str]:
    return sorted(f"{key}={value}" for key, value in group.settings.items() if is_code(key))


def is_code(key: str) -> bool:
    """Whether a setting of a group tells its code."""
    return key == CODE or key.startswith(f"{CODE}.")


def _one_for_each_seed(alike: Sequence[Group]) -> list[Run]:
    chosen: dict[int | None, Run] = {}
    for run in (run for group in alike for run in group.runs):
        held = chosen.get(run.seed)
        if held is None or run.status == Status.FINISHED or held.status != Status.FINISHED:
            chosen[run.seed] = run
    return list(chosen.values())


def remarks(groups: Sequence[Group], code: str) -> list[str]:
    """What is to be said of the code: which of it is unknown, and where one configuration was run by several."""
    ended = [run for group in groups for run in group.results.values()]
    unknown = sum(run.code is None for run in ended)
    lines = [f"which code made {unknown} of {len(ended)} runs is unknown: they have no {CODE_FILE}"] if unknown else []
    for alike in alike_but_for_code(groups):
        if len(alike) > 1:
            codes = [group.code or {} for group in alike]
            names = sorted({name for one in codes for name in changed(one, codes[-1])})
            how = "averaged (code=any)" if code == "any" else "not averaged (code=any does)"
            lines.append(f"{alike[0].variant} was trained by {len(alike)} codes ({in_a_line(names)}): {how}")
    return lines
