"""In which settings the arms of an experiment differ, told whole: those that change together, too."""

from collections.abc import Mapping, Sequence
from typing import Any

from attnlab.analysis.arms import Arm, shown
from attnlab.analysis.comparison import Comparison
from attnlab.analysis.groups import ATTENTION, CODE, FROM_SUMMARY, changing, spelling
from attnlab.analysis.report.document import Block, table
from attnlab.config.code import in_a_line

# Should be the same for all runs that are compared; the keys are those of summary.json.
CONDITIONS = {
    "git_commit": "commit",
    "git_dirty": "uncommitted changes",
    "versions": "versions",
    "threads": "threads",
    "devices": "devices",
    "device": "device",
    "precision": "precision",
    "platform": "platform",
    "data_sha256": "data",
    "tokenizer_sha256": "tokenizer",
}
STATED_ELSEWHERE = ("data_sha256", "tokenizer_sha256")  # settings, and what differs in them is named as such
# Where each module that a run executed is recorded, what differs in the code is named by module, and a commit of other
# files is no other condition.
STATED_BY_MODULE = ("git_commit", "git_dirty")


def unequal_conditions(comparison: Comparison[Arm]) -> list[str]:
    """The conditions in which the runs of a comparison differ, in a few words each."""
    sides = (comparison.arm.finished, comparison.baseline.finished)
    summaries = [runs[seed].summary for seed in comparison.seeds for runs in sides]
    names = []
    elsewhere = [*STATED_ELSEWHERE]
    if all(summary.get("code") for summary in summaries):
        elsewhere += STATED_BY_MODULE
    for key, name in CONDITIONS.items():
        values = list({repr(summary.get(key)): summary.get(key) for summary in summaries}.values())
        if len(values) < 2 or key in elsewhere:
            continue
        versions = [value for value in values if isinstance(value, Mapping)]
        if key == "versions" and len(versions) == len(values):
            packages = dict.fromkeys(package for value in versions for package in value)
            kinds = {package: dict.fromkeys(str(value.get(package)) for value in versions) for package in packages}
            names += [f"{package} {' and '.join(kind)}" for package, kind in kinds.items() if len(kind) > 1]
        else:
            names.append(name)
    return names


def beside_the_variants(arms: Sequence[Arm]) -> list[list[str]]:
    """The settings other than those of the attention that differ anywhere, those that change together in one list."""
    left_out = (ATTENTION, f"{CODE}.")  # of the code, what differs within a variant has a remark of its own
    together = ([key for key in keys if not key.startswith(left_out)] for keys in changing(_settings(arms)))
    return [keys for keys in together if keys]


def _settings(arms: Sequence[Arm]) -> list[Mapping[str, Any]]:
    return [c.settings for c in arms]


def settings_that_differ(arms: Sequence[Arm]) -> list[Block]:
    """Every setting in which two arms differ, with its values; those by which the variants themselves differ by
    name."""
    varied = changing(_settings(arms))
    own = {key for alike in _by_variant(arms) for keys in changing(_settings(alike)) for key in keys}
    listed = [[key for key in keys if key in own or not key.startswith(ATTENTION)] for keys in varied]
    rows = [
        [key, _values(key, arms), ", ".join(other for other in keys if other != key)] for keys in listed for key in keys
    ]
    inherent = [key for keys in varied for key in keys if key not in own and key.startswith(ATTENTION)]
    inherent = [key for key in inherent if not key.endswith("._partial_")]
    blocks: list[Block] = [table(["setting", "values", "changes together with"], rows)] if rows else []
    if inherent:
        blocks.append(f"The variants themselves differ in {', '.join(sorted(inherent))} (values: settings.csv).")
    return blocks


def _by_variant(arms: Sequence[Arm]) -> list[list[Arm]]:
    return [[c for c in arms if c.variant == name] for name in dict.fromkeys(c.variant for c in arms)]


def _values(key: str, arms: Sequence[Arm]) -> str:
    """Each value of a setting and who has it; all but the value that most have."""
    having: dict[str, list[Arm]] = {}
    for c in arms:
        having.setdefault(spelling(c.settings.get(key)), []).append(c)
    usual = max(having.values(), key=len)
    parts = [
        f"{'all others' if members is usual and len(usual) > 1 else _names(members)}: {_setting(members[0], key)}"
        for members in having.values()
    ]
    return "; ".join(parts)


def _names(arms: Sequence[Arm]) -> str:
    return ", ".join(c.title for c in arms)


def _setting(arm: Arm, key: str) -> str:
    """A setting as it is typed; what was tuned has no single one."""
    if arm.lr_curve is not None and key in arm.lr_curve.tuned_keys:
        return "tuned"
    return shown(arm.settings.get(key))


def unnamed_differences(arm: Arm, baseline: Arm) -> list[str]:
    """In which settings an arm differs from its baseline, besides what its name tells, its attention is, matching
    moved or tuning chose: one remark for each."""
    match: Mapping[str, Any] = next(
        (run.summary["match"] for run in arm.runs if isinstance(run.summary.get("match"), Mapping)), {}
    )
    stated = {word.partition("=")[0] for word in f"{arm.full_label or arm.label} {arm.setting}".split()}
    stated |= {*match.get("moved", {}), *FROM_SUMMARY.values()}
    stated |= {key for each in (arm, baseline) if each.lr_curve is not None for key in each.lr_curve.tuned_keys}
    keys = [key for keys in changing([baseline.settings, arm.settings]) for key in keys if key not in stated]
    modules = [key.removeprefix(f"{CODE}.") for key in keys if key.startswith(f"{CODE}.")]
    settings = [
        f"{key} ({_setting(arm, key)}, not {_setting(baseline, key)})"
        for key in keys
        if not key.startswith((ATTENTION, f"{CODE}."))
    ]
    return [*settings, *([f"code ({in_a_line(modules)})"] if modules else [])]
