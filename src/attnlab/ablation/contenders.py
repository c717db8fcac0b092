"""What is compared with what: runs become configurations, configurations become contenders, each with its baseline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnlab.ablation import codes
from attnlab.ablation.grid import rates_elsewhere
from attnlab.ablation.groups import OF_THE_VARIANT, Group, arms_of, changing, differing, groups_of
from attnlab.ablation.rates import RATE, Rates, curve_of_rates
from attnlab.ablation.reading import Experiment, Run
from attnlab.errors import UsageError
from attnlab.rules import nearest

USUAL_BASELINE = "multi_head"
MODES = ("match", "match_to")
HASH_DIGITS = 64


@dataclass(frozen=True)
class Contender:
    """One variant as it is compared: at one learning rate, with the seeds that count."""

    label: str
    variant: str
    folder: str
    settings: dict[str, Any]
    runs: list[Run] = field(repr=False)  # whatever became of them
    rates: Rates | None = None
    block: tuple[tuple[str, Any], ...] = ()  # settings that it shares with its baseline and others do not have

    @property
    def finished(self) -> dict[int, Run]:
        """The runs that have a result, by seed."""
        return {run.seed: run for run in self.runs if run.status == "finished" and run.seed is not None}

    @property
    def place(self) -> str:
        """The settings of its block in words."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.block)


@dataclass(frozen=True)
class Design:
    """Contenders in order, the baseline of each block, and what could not be placed."""

    contenders: list[Contender]
    baselines: dict[tuple[tuple[str, Any], ...], Contender]
    remarks: list[str]

    def pairs(self) -> list[tuple[Contender, Contender]]:
        """Every contender that has a baseline, with it."""
        return [
            (c, self.baselines[c.block])
            for c in self.contenders
            if c.block in self.baselines and self.baselines[c.block] is not c
        ]


def arrange(
    experiment: Experiment,
    baseline: str | None,
    lower_is_better: bool,
    alpha: float,
    separated: Sequence[str] = (),
    code: str = "same",
) -> Design:
    """Find the contenders of an experiment and the baseline of each; refuses a baseline that is not there.

    What differs in one of the `separated` settings is never compared. With `code` "any", runs that differ in nothing
    but seed and code belong together.
    """
    groups = groups_of(experiment.runs)
    if not groups:
        raise UsageError(f"experiment ({experiment.folder}) holds no run with a readable config.yaml")
    remarks = codes.remarks(groups, code)
    if code == "any":
        groups = codes.across_codes(groups)
    tuned = _labelled(_arms(groups, experiment, lower_is_better, alpha))
    name = baseline or _usual_baseline(experiment, tuned)
    chosen = _named(tuned, name)
    if not chosen:
        single = _labelled([Contender(g.variant, g.variant, g.folder, g.settings, g.runs) for g in groups])
        chosen = _named(single, name)
        tuned = single if chosen else tuned
    if not chosen:
        known = sorted({c.variant for c in tuned} | {c.label for c in tuned})
        raise UsageError(
            f"baseline ({name}) is not in this experiment{nearest(name, known)} (choose from: {', '.join(known)})"
        )
    design = _placed(tuned, chosen, name, separated)
    return replace(design, remarks=[*design.remarks, *remarks])


def _arms(groups: Sequence[Group], experiment: Experiment, lower_is_better: bool, alpha: float) -> list[Contender]:
    """Configurations that differ in their learning rate alone are one contender."""
    contenders = []
    for members in arms_of(groups):
        by_rate: dict[float, Group] = {float(g.settings[RATE]): g for g in members if RATE in g.settings}
        if len(by_rate) < 2 or len(by_rate) < len(members):
            contenders += [_single(g, experiment, lower_is_better, alpha) for g in members]
            continue
        rates = curve_of_rates({rate: g.results for rate, g in by_rate.items()}, lower_is_better, alpha)
        contenders.append(_tuned(by_rate[rates.chosen], rates))
    return contenders


def _single(group: Group, experiment: Experiment, lower_is_better: bool, alpha: float) -> Contender:
    """A configuration at one learning rate, which another experiment may have chosen."""
    if group.tuned is not None:
        return _tuned(group, rates_elsewhere(group, experiment, lower_is_better, alpha))
    return Contender(group.variant, group.variant, group.folder, group.settings, group.runs)


def _tuned(group: Group, rates: Rates) -> Contender:
    kept = [run for run in group.runs if run.seed not in rates.tuning_seeds]
    settings = {key: value for key, value in group.settings.items() if key != RATE}  # tuned: no setting to compare
    return Contender(group.variant, group.variant, group.folder, settings, kept, rates)


def _labelled(contenders: Sequence[Contender]) -> list[Contender]:
    """Give contenders of one variant labels that say in which settings they differ."""
    labelled = []
    for contender in contenders:
        alike = [c for c in contenders if c.variant == contender.variant]
        keys = differing([c.settings for c in alike])
        words = [f"{key}={shown(contender.settings.get(key))}" for key in keys]
        if len(alike) > 1 and not words:
            words = [contender.folder.rpartition("-")[2]]
        labelled.append(_with(contender, label=" ".join([contender.variant, *words])))
    return labelled


def _usual_baseline(experiment: Experiment, contenders: Sequence[Contender]) -> str:
    """The baseline that the sweep declared, or multi_head, or the first that was planned."""
    declared = experiment.declared.get("baseline")
    if isinstance(declared, str) and _named(contenders, declared):
        return declared
    variants = [c.variant for c in contenders]
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


def _named(contenders: Sequence[Contender], name: str) -> list[Contender]:
    """The contenders that a name may mean: a label, a folder, its hashes, the config's hash alone, or a variant."""
    for called in ("label", "folder", "hashes", "hash", "variant"):
        if found := [c for c in contenders if _called(c, called) == name]:
            return found
    return []


def _called(contender: Contender, by: str) -> str:
    hashes = contender.folder.rpartition("-")[2]
    names = {"label": contender.label, "folder": contender.folder, "hashes": hashes, "variant": contender.variant}
    return names.get(by, hashes.partition(".")[0])


def _placed(
    contenders: Sequence[Contender], baselines: Sequence[Contender], name: str, separated: Sequence[str]
) -> Design:
    """Several contenders that the baseline's name fits are baselines of blocks, told apart by size, data and so on."""
    keys = [key for key in differing([c.settings for c in baselines]) if not key.startswith(OF_THE_VARIANT)]
    modes = [key for key in MODES if len({repr(c.settings.get(key)) for c in contenders}) > 1]
    keys = [*modes, *(key for key in keys if key not in modes)]  # what was matched differently is never compared
    for alike in changing([c.settings for c in contenders]):
        texts = [key for key in alike if key.startswith(("data.", "tokenizer."))]
        if {*separated} & {*alike} and not {*keys} & {*alike}:
            keys.append(texts[0])

    def block(contender: Contender) -> tuple[tuple[str, Any], ...]:
        return tuple((key, contender.settings.get(key)) for key in keys)

    placed = [_with(c, block=block(c)) for c in contenders]
    names = {c.folder for c in baselines}
    found: dict[tuple[tuple[str, Any], ...], Contender] = {}
    for contender in placed:
        if contender.folder in names and found.setdefault(contender.block, contender) is not contender:
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
    return Design(sorted(placed, key=lambda c: c.folder not in names), found, remarks)


def _hidden(keys: Sequence[str], contenders: Sequence[Contender]) -> list[str]:
    """All settings that change together with one of these."""
    return [key for alike in changing([c.settings for c in contenders]) if {*keys} & {*alike} for key in alike]


def _without(label: str, keys: Sequence[str]) -> str:
    return " ".join(word for word in label.split(" ") if word.partition("=")[0] not in keys)


def _with(contender: Contender, **changes: Any) -> Contender:
    return Contender(**{**contender.__dict__, **changes})


def shown(value: Any) -> str:
    """A setting in a word, as it is typed; of a hash its first digits."""
    if isinstance(value, str) and len(value) == HASH_DIGITS and value.isalnum():
        return value[:8]
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
