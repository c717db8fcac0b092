"""The arms of an experiment, the baseline that each is compared with, and the blocks that are never mixed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attnlab.analysis.groups import JUDGED_BY, OF_THE_VARIANT, changing, differing
from attnlab.analysis.lr_curve import LRCurve
from attnlab.analysis.metric_names import PER_TOKEN, TOKENIZER
from attnlab.analysis.reading import Run
from attnlab.analysis.samples import Sample
from attnlab.errors import UsageError, nearest
from attnlab.store.status import Status

USUAL_BASELINE = "multi_head"
MODES = ("match", "match_to")
HASH_DIGITS = 64

Block = tuple[tuple[str, Any], ...]  # settings that an arm shares with its baseline and others do not have


@dataclass(frozen=True, kw_only=True)
class Arm(Sample):
    """One variant as it is compared: at one learning rate, with the seeds that count."""

    variant: str
    folder: str
    settings: Mapping[str, Any]
    runs: Sequence[Run] = field(repr=False)  # whatever became of them
    lr_curve: LRCurve | None = None
    block: Block = ()
    full_label: str = ""  # by the variant's whole name, where the label is shorter

    @property
    def finished(self) -> dict[int, Run]:
        """The runs that have a result, by seed."""
        return _finished(self.runs)

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.label, self.full_label or self.label, self.variant, self.folder})

    @property
    def title(self) -> str:
        return " ".join(filter(None, (self.label, self.setting)))

    @property
    def setting(self) -> str:
        """The settings of its block in words."""
        return ", ".join(f"{key}={shown(value)}" for key, value in self.block)


def arm_of_runs(
    variant: str, folder: str, settings: Mapping[str, Any], runs: Sequence[Run], lr_curve: LRCurve | None = None
) -> Arm:
    """An arm with the results of its runs, labelled by its variant."""
    finished = _finished(runs)
    lost = (run for run in runs if run.status not in (Status.FINISHED, Status.REFUSED, Status.UNNEEDED))
    declared = (run.summary.get("solved_at") for run in finished.values())
    return Arm(
        variant,
        {seed: run.final for seed, run in finished.items()},
        {run.seed: run.status for run in lost if run.seed is not None},
        next((float(at) for at in declared if isinstance(at, int | float)), None),
        variant=variant,
        folder=folder,
        settings=settings,
        runs=runs,
        lr_curve=lr_curve,
    )


def _finished(runs: Sequence[Run]) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.status == Status.FINISHED and run.seed is not None}


@dataclass(frozen=True)
class Arms:
    """The arms of an experiment: configurations that differ in their learning rate alone are one arm, or each is."""

    arms: list[Arm]
    single_rates: list[Arm]
    remarks: list[str]


@dataclass(frozen=True)
class BlockDesign:
    """Arms in order, the baseline of each block, and what has no baseline."""

    arms: list[Arm]
    baselines: dict[Block, Arm]
    remarks: list[str]
    incomparable: list[tuple[Arm, Arm]] = field(default_factory=list)  # pairs whose metrics are not of one kind

    def pairs(self) -> list[tuple[Arm, Arm]]:
        """Every arm that has a baseline, with it."""
        return _pairs(self.arms, self.baselines)


def _pairs(arms: Sequence[Arm], baselines: Mapping[Block, Arm]) -> list[tuple[Arm, Arm]]:
    return [(a, baselines[a.block]) for a in arms if a.block in baselines and baselines[a.block] is not a]


def planned_arms(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that a sweep planned."""
    return [arm for arm in arms if any(run.overrides for run in arm.runs)]


def choose_baseline(
    arms: Sequence[Arm], named: str | None, declared: object, planned: Sequence[Arm], key: str = "baseline"
) -> str:
    """The name of the baseline: the one that was named, else declared, else multi_head, else the first of the plan.

    Raises UsageError if the one that was named is not there, or if nobody planned anything and there is no multi_head.
    """
    variants, labels = (list(dict.fromkeys(names)) for names in zip(*((a.variant, a.label) for a in arms), strict=True))
    if named is not None:
        if not arms_called(arms, named):
            options = sorted({*variants, *labels})
            options = options if len(options) > 1 else [arm.folder for arm in arms]
            raise UsageError(
                f"{key} ({named}) is not in this experiment{nearest(named, options)} (choose from: "
                f"{', '.join(options)})"
            )
        return named
    if isinstance(declared, str) and arms_called(arms, declared):
        return declared
    if len(variants) == 1:
        return planned[0].folder if planned else variants[0]
    if USUAL_BASELINE in variants:
        return USUAL_BASELINE
    if planned:
        return planned[0].variant
    raise UsageError(f"{key} must be named, as there is no {USUAL_BASELINE} here: {', '.join(sorted(variants))}")


def arms_called(arms: Sequence[Arm], name: str) -> list[Arm]:
    """The arms that a name may mean: a label, a folder, its hashes, the config's hash alone, or a variant."""
    ways: tuple[Callable[[Arm], str], ...] = (
        *(lambda arm: arm.label, lambda arm: arm.full_label, lambda arm: arm.folder, _hashes),
        *(lambda arm: _hashes(arm).partition(".")[0], lambda arm: arm.variant),
    )
    return next((alike for way in ways if (alike := [arm for arm in arms if way(arm) == name])), [])


def _hashes(arm: Arm) -> str:
    return arm.folder.rpartition("-")[2]


def pair_with_baselines(arms: Arms, name: str, separated: Sequence[str]) -> BlockDesign:
    """Every arm with its baseline: the arms of that name, each the baseline of a block, told apart by size, data and so
    on. Arms that differ in one of the `separated` settings are never compared."""
    members, baselines = arms.arms, arms_called(arms.arms, name)
    if not baselines:
        members, baselines = arms.single_rates, arms_called(arms.single_rates, name)
    keys = _keys_of_blocks(members, baselines)
    together = changing([arm.settings for arm in members])
    apart = [_text_key(alike) for alike in together if {*separated} & {*alike} and not {*keys} & {*alike}]
    if apart:
        pairs = _pairs(*_in_blocks(members, baselines, name, keys))
        incomparable = [(a, b) for a, b in pairs if any(a.settings.get(key) != b.settings.get(key) for key in apart)]
    else:
        incomparable = []
    keys = [*keys, *apart]
    members, by_block = _in_blocks(members, baselines, name, keys)
    remarks = list(arms.remarks)
    if alone := [arm.label for arm in members if arm.block not in by_block]:
        by_text = any({*keys} & {*alike} and {*separated} & {*alike} for alike in together)
        why = " (a result on another text or in other tokens is not compared)" if by_text else ""
        remarks.insert(0, f"without a baseline of the same {', '.join(keys)}{why}: {', '.join(alone)}")
    if len(by_block) > 1:  # the block has a column of its own
        folders = {arm.folder for arm in by_block.values()}
        members = [replace(arm, label=_without(arm.label, keys)) for arm in members]
        by_block = {arm.block: arm for arm in members if arm.folder in folders}
    first = {arm.folder for arm in by_block.values()}
    return BlockDesign(sorted(members, key=lambda arm: arm.folder not in first), by_block, remarks, incomparable)


def _keys_of_blocks(arms: Sequence[Arm], baselines: Sequence[Arm]) -> list[str]:
    """The settings that make a block: those in which baselines differ, and how budgets were matched, for what was
    matched differently is never compared."""
    keys = [key for key in differing([arm.settings for arm in baselines]) if not key.startswith(OF_THE_VARIANT)]
    modes = [key for key in MODES if len({repr(arm.settings.get(key)) for arm in arms}) > 1]
    return [*modes, *(key for key in keys if key not in modes)]


def _text_key(alike: Sequence[str]) -> str:
    """Of settings that change together the one that is shown of a text or its tokens."""
    return next(key for key in alike if key.startswith(("data.", "tokenizer.")))


def _in_blocks(
    arms: Sequence[Arm], baselines: Sequence[Arm], name: str, keys: Sequence[str]
) -> tuple[list[Arm], dict[Block, Arm]]:
    """The arms in their blocks, and the baseline of each block; refuses two baselines in one."""
    folders = {arm.folder for arm in baselines}
    members = [replace(arm, block=tuple((key, arm.settings.get(key)) for key in keys)) for arm in arms]
    by_block: dict[Block, Arm] = {}
    for arm in members:
        if arm.folder in folders and by_block.setdefault(arm.block, arm) is not arm:
            labels = ", ".join(repr(baseline.label) for baseline in baselines)
            raise UsageError(f"baseline ({name}) may mean {labels}; name one, in quotes")
    return members, by_block


def _without(label: str, keys: Sequence[str]) -> str:
    return " ".join(word for word in label.split(" ") if word.partition("=")[0] not in keys)


def needs_bytes(metric: str, pairs: Iterable[tuple[Arm, Arm]]) -> bool:
    """Whether some pairs cut the same validation text into other tokens, and bits per byte can compare them."""
    if metric != PER_TOKEN:
        return False
    cut_otherwise = [pair for pair in pairs if _differ(pair, TOKENIZER) and not _differ(pair, JUDGED_BY)]
    runs = [run for pair in cut_otherwise for arm in pair for run in arm.finished.values()]
    return bool(runs) and all(isinstance(run.summary.get("val_bits_per_byte"), int | float) for run in runs)


def _differ(pair: tuple[Arm, Arm], key: str) -> bool:
    return pair[0].settings.get(key) != pair[1].settings.get(key)


def labelled(arms: Sequence[Arm], names: Sequence[str]) -> list[Arm]:
    """Give arms their names as labels; those of one name say in which settings they differ."""
    relabelled = []
    for arm, name in zip(arms, names, strict=True):
        alike = [other for other, its in zip(arms, names, strict=True) if its == name]
        apart = [f"{key}={shown(arm.settings.get(key))}" for key in differing([other.settings for other in alike])]
        if len(alike) > 1 and not apart:
            apart = [_hashes(arm)]
        relabelled.append(replace(arm, label=" ".join([name, *apart])))
    return relabelled


def shown(value: Any) -> str:
    """A setting in a word, as it is typed; of a hash its first digits."""
    if isinstance(value, str) and len(value) == HASH_DIGITS and value.isalnum():
        return value[:8]
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
