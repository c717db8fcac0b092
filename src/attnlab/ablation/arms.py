"""What is compared with what: runs become configurations, configurations become arms, each with its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnlab.ablation import codes
from attnlab.ablation.groups import OF_THE_VARIANT, Group, apart_by_rate, changing, differing, groups_of
from attnlab.ablation.lr_curve import RATE, LRCurve, fit_lr_curve
from attnlab.ablation.lr_tuning import rates_elsewhere
from attnlab.ablation.reading import Experiment, Run
from attnlab.errors import UsageError
from attnlab.rules import nearest
from attnlab.store.names import CONFIG
from attnlab.store.status import Status

USUAL_BASELINE = "multi_head"
MODES = ("match", "match_to")
HASH_DIGITS = 64


@dataclass(frozen=True)
class Arm:
    """One variant as it is compared: at one learning rate, with the seeds that count."""

    label: str
    variant: str
    folder: str
    settings: dict[str, Any]
    runs: list[Run] = field(repr=False)  # whatever became of them
    lr_curve: LRCurve | None = None
    block: tuple[tuple[str, Any], ...] = ()  # settings that it shares with its baseline and others do not have

    @property
    def finished(self) -> dict[int, Run]:
        """The runs that have a result, by seed."""
        return {run.seed: run for run in self.runs if run.status == Status.FINISHED and run.seed is not None}

    @property
    def setting(self) -> str:
        """The settings of its block in words."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.block)


@dataclass(frozen=True)
class BlockDesign:
    """Arms in order, the baseline of each block, and what could not be placed."""

    arms: list[Arm]
    baselines: dict[tuple[tuple[str, Any], ...], Arm]
    remarks: list[str]

    def pairs(self) -> list[tuple[Arm, Arm]]:
        """Every arm that has a baseline, with it."""
        return [
            (c, self.baselines[c.block])
            for c in self.arms
            if c.block in self.baselines and self.baselines[c.block] is not c
        ]


def pair_with_baselines(
    experiment: Experiment,
    baseline: str | None,
    lower_is_better: bool,
    alpha: float,
    separated: Sequence[str] = (),
    code: str = "same",
) -> BlockDesign:
    """Find the arms of an experiment and the baseline of each; refuses a baseline that is not there.

    What differs in one of the `separated` settings is never compared. With `code` "any", runs that differ in nothing
    but seed and code belong together.
    """
    groups = groups_of(experiment.runs)
    if not groups:
        raise UsageError(f"experiment ({experiment.folder}) holds no run with a readable {CONFIG}")
    remarks = codes.remarks(groups, code)
    if code == "any":
        groups = codes.across_codes(groups)
    tuned = _labelled(_arms(groups, experiment, lower_is_better, alpha))
    name = baseline or _usual_baseline(experiment, tuned)
    chosen = _named(tuned, name)
    if not chosen:
        single = _labelled([Arm(g.variant, g.variant, g.folder, g.settings, g.runs) for g in groups])
        chosen = _named(single, name)
        tuned = single if chosen else tuned
    if not chosen:
        known = sorted({c.variant for c in tuned} | {c.label for c in tuned})
        raise UsageError(
            f"baseline ({name}) is not in this experiment{nearest(name, known)} (choose from: {', '.join(known)})"
        )
    design = _placed(tuned, chosen, name, separated)
    return replace(design, remarks=[*design.remarks, *remarks])


def _arms(groups: Sequence[Group], experiment: Experiment, lower_is_better: bool, alpha: float) -> list[Arm]:
    """Configurations that differ in their learning rate alone are one arm."""
    arms = []
    for members in apart_by_rate(groups):
        by_rate: dict[float, Group] = {float(g.settings[RATE]): g for g in members if RATE in g.settings}
        if len(by_rate) < 2 or len(by_rate) < len(members):
            arms += [_single(g, experiment, lower_is_better, alpha) for g in members]
            continue
        curve = fit_lr_curve({rate: g.results for rate, g in by_rate.items()}, lower_is_better, alpha)
        arms.append(_tuned(by_rate[curve.chosen], curve))
    return arms


def _single(group: Group, experiment: Experiment, lower_is_better: bool, alpha: float) -> Arm:
    """A configuration at one learning rate, which another experiment may have chosen."""
    if group.tuned is not None:
        return _tuned(group, rates_elsewhere(group, experiment, lower_is_better, alpha))
    return Arm(group.variant, group.variant, group.folder, group.settings, group.runs)


def _tuned(group: Group, curve: LRCurve) -> Arm:
    kept = [run for run in group.runs if run.seed not in curve.tuning_seeds]
    settings = {key: value for key, value in group.settings.items() if key != RATE}  # tuned: no setting to compare
    return Arm(group.variant, group.variant, group.folder, settings, kept, curve)


def _labelled(arms: Sequence[Arm]) -> list[Arm]:
    """Give arms of one variant labels that say in which settings they differ."""
    labelled = []
    for arm in arms:
        alike = [c for c in arms if c.variant == arm.variant]
        keys = differing([c.settings for c in alike])
        words = [f"{key}={shown(arm.settings.get(key))}" for key in keys]
        if len(alike) > 1 and not words:
            words = [arm.folder.rpartition("-")[2]]
        labelled.append(_with(arm, label=" ".join([arm.variant, *words])))
    return labelled


def _usual_baseline(experiment: Experiment, arms: Sequence[Arm]) -> str:
    """The baseline that the sweep declared, or multi_head, or the first that was planned."""
    declared = experiment.declared.get("baseline")
    if isinstance(declared, str) and _named(arms, declared):
        return declared
    variants = [c.variant for c in arms]
    if USUAL_BASELINE in variants:
        return USUAL_BASELINE
    first = next((run for run in experiment.runs if run.overrides and run.variant in variants), None)
    if first is not None:
        return first.variant
    if len(set(variants)) == 1:
        return variants[0]
    raise UsageError(
        f"baseline must be named, as there is no {USUAL_BASELINE} here: {', '.join(sorted(set(variants)))}"
    )


def _named(arms: Sequence[Arm], name: str) -> list[Arm]:
    """The arms that a name may mean: a label, a folder, its hashes, the config's hash alone, or a variant."""
    for called in ("label", "folder", "hashes", "hash", "variant"):
        if found := [c for c in arms if _called(c, called) == name]:
            return found
    return []


def _called(arm: Arm, by: str) -> str:
    hashes = arm.folder.rpartition("-")[2]
    names = {"label": arm.label, "folder": arm.folder, "hashes": hashes, "variant": arm.variant}
    return names.get(by, hashes.partition(".")[0])


def _placed(arms: Sequence[Arm], baselines: Sequence[Arm], name: str, separated: Sequence[str]) -> BlockDesign:
    """Several arms that the baseline's name fits are baselines of blocks, told apart by size, data and so on."""
    keys = [key for key in differing([c.settings for c in baselines]) if not key.startswith(OF_THE_VARIANT)]
    modes = [key for key in MODES if len({repr(c.settings.get(key)) for c in arms}) > 1]
    keys = [*modes, *(key for key in keys if key not in modes)]  # what was matched differently is never compared
    for alike in changing([c.settings for c in arms]):
        texts = [key for key in alike if key.startswith(("data.", "tokenizer."))]
        if {*separated} & {*alike} and not {*keys} & {*alike}:
            keys.append(texts[0])

    def block(arm: Arm) -> tuple[tuple[str, Any], ...]:
        return tuple((key, arm.settings.get(key)) for key in keys)

    placed = [_with(c, block=block(c)) for c in arms]
    names = {c.folder for c in baselines}
    found: dict[tuple[tuple[str, Any], ...], Arm] = {}
    for arm in placed:
        if arm.folder in names and found.setdefault(arm.block, arm) is not arm:
            labels = ", ".join(repr(c.label) for c in baselines)
            raise UsageError(f"baseline ({name}) may mean {labels}; name one, in quotes")
    alone = [c.label for c in placed if c.block not in found]
    why = (
        " (a result on another text or in other tokens is not compared)"
        if {*separated} & {*_hidden(keys, placed)}
        else ""
    )
    remarks = [f"without a baseline of the same {', '.join(keys)}{why}: {', '.join(alone)}"] if alone else []
    if len(found) > 1:  # the block has a column of its own
        placed = [_with(c, label=_without(c.label, keys)) for c in placed]
        found = {c.block: c for c in placed if c.folder in names}
    return BlockDesign(sorted(placed, key=lambda c: c.folder not in names), found, remarks)


def _hidden(keys: Sequence[str], arms: Sequence[Arm]) -> list[str]:
    """All settings that change together with one of these."""
    return [key for alike in changing([c.settings for c in arms]) if {*keys} & {*alike} for key in alike]


def _without(label: str, keys: Sequence[str]) -> str:
    return " ".join(word for word in label.split(" ") if word.partition("=")[0] not in keys)


def _with(arm: Arm, **changes: Any) -> Arm:
    return Arm(**{**arm.__dict__, **changes})


def shown(value: Any) -> str:
    """A setting in a word, as it is typed; of a hash its first digits."""
    if isinstance(value, str) and len(value) == HASH_DIGITS and value.isalnum():
        return value[:8]
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
