"""The registry of what is measured: what the name of a metric tells of its numbers, and what a report may ask of them.

Who logs a metric and who judges it go by this one table. A metric is named as it is logged (`val/loss`), or as one
of a group (`val_accuracy/bits_32`, `extrapolation_loss/x4`, `attention_entropy/L00H01`), whose members can be taken
together:

    val_accuracy/bits_8..bits_32    members from one to another, each slice weighted by its answers
    val_accuracy/mean               the mean over all members; max: the largest
    val/loss:area                   the mean of a metric over the steps of a run, the area under its learning curve
    val/accuracy:steps_to_0.95      the step at which it is first reached; inf where it never is
"""

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from attnlab.errors import UsageError, nearest


class Kind(NamedTuple):
    """What numbers of one kind are; `better` is None where neither way is, as of how widely a head looks."""

    better: Literal["lower", "higher"] | None
    share: bool = False  # between 0 and 1
    solvable: bool = False  # a task is solved from some value on
    of_a_text: bool = True  # a number of the text or the tokens that it was measured on


ACCURACY = Kind("higher", share=True, solvable=True)
KINDS = {  # by how names end
    **dict.fromkeys(("loss", "bits_per_byte", "perplexity", "error"), Kind("lower")),
    **dict.fromkeys(("seconds", "bytes"), Kind("lower", of_a_text=False)),
    **dict.fromkeys(("accuracy", "recall", "exact_match"), ACCURACY),
    "tokens_per_second": Kind("higher"),
    **dict.fromkeys(("attention_induction", "attention_previous_token"), Kind("higher", share=True)),
    "attention_answer_mass": Kind("higher", share=True),
    **dict.fromkeys(("attention_sink_rate", "attention_first_token_mass"), Kind("lower", share=True)),
    **dict.fromkeys(("attention_duplicate_token", "attention_negative_share"), Kind(None, share=True)),
    **dict.fromkeys(("attention_entropy", "attention_distance", "attention_effective_rank"), Kind(None)),
    **dict.fromkeys(("attention_row_sum", "attention_diversity"), Kind(None)),
    **dict.fromkeys(("head_ablation_zero", "head_ablation_mean"), Kind(None)),
}
GROUPS = ("val_", "extrapolation_", "attention_", "head_ablation_")  # how names begin whose members follow a slash
BEYOND = "_beyond"  # what such a name may end in after its kind: of what lies beyond the trained length
COUNTS = {"val_accuracy": "val_count", "val_loss": "val_count"}  # how many answers a member's number is a mean of
HEAD = re.compile(r"L\d+(H\d+)?")  # a head, or a layer
TOGETHER = ("mean", "max")
COURSE = re.compile(r"(?P<name>.+?):(?P<course>area|steps_to_(?P<threshold>[-+.\de]+))")


class Metric(NamedTuple):
    """A metric as a report judges it: `name` as logged, or of several members of a group, and what is made of its
    course over the steps: the last value, the area under it, or the first step at a threshold."""

    name: str
    kind: Kind
    course: Literal["last", "area", "steps"] = "last"
    threshold: float = math.nan

    @property
    def group(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def member(self) -> str:
        return self.name.rpartition("/")[2]

    @property
    def lower_is_better(self) -> bool:
        """Which way it improves; where neither is better, a higher number counts as if it were."""
        return self.course == "steps" or self.kind.better == "lower"

    @property
    def judges(self) -> bool:
        """Whether one way is better."""
        return self.course == "steps" or self.kind.better is not None

    @property
    def is_share(self) -> bool:
        return self.kind.share and self.course != "steps"

    @property
    def solvable(self) -> bool:
        return self.kind.solvable and self.course == "last"

    def members(self, logged: Iterable[str]) -> list[str]:
        """Which of the names that were logged it is made of, in their order; none if it is not there."""
        names = list(dict.fromkeys(logged))
        if self.name in names:
            return [self.name]
        within = [name for name in names if self.group and name.rpartition("/")[0] == self.group]
        within = [name for name in within if HEAD.fullmatch(name.rpartition("/")[2])] or within
        if self.member in TOGETHER:
            return within
        first, dots, last = (f"{self.group}/{end}" if end != ".." else end for end in self.member.partition(".."))
        if dots != ".." or first not in within or last not in within:
            return []
        return within[within.index(first) : within.index(last) + 1]


def kind_of(name: str, key: str = "metric") -> Kind:
    """What a metric is by its name: by its last part, or by its group. Raises UsageError if neither tells."""
    group, _, last = name.partition("/")
    endings = [last.rpartition("/")[2] or group]
    if group.startswith(GROUPS):
        endings.append(group.removesuffix(BEYOND))
    for ending in endings:
        if kinds := [kind for kind in KINDS if ending.endswith(kind)]:
            return KINDS[max(kinds, key=len)]
    ends = ", ".join(kind for kind in KINDS if not kind.startswith(GROUPS))
    raise UsageError(f"{key} ({name}) does not say which way is better; its name must end in one of {ends}")


def parse_metric(text: str, key: str = "metric", *, any_way: bool = False) -> Metric:
    """The metric that a text names. Raises UsageError if it names none that could be judged; `any_way` takes one whose
    name does not say which way is better, too."""
    name, _, course = text.partition(":")
    if not course and ":" not in text:
        return Metric(name, _any_kind(name) if any_way else kind_of(name, key))
    match = COURSE.fullmatch(text)
    threshold = _number(match["threshold"]) if match and match["threshold"] else None
    if match is None or (match["course"] != "area" and threshold is None):
        raise UsageError(f"{key} ({text}) must end in :area or :steps_to_NUMBER after the name, such as {name}:area")
    kind = _any_kind(name) if any_way and threshold is None else kind_of(name, key)
    if threshold is None:
        return Metric(name, kind, "area")
    if kind.better is None:
        raise UsageError(f"{key} ({text}): neither way of {name} is better, so that no threshold is reached")
    return Metric(name, kind, "steps", threshold)


def _any_kind(name: str) -> Kind:
    try:
        return kind_of(name)
    except UsageError:
        return Kind(None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_logged(text: str, logged: Iterable[str], key: str = "metric", *, any_way: bool = False) -> None:
    """Refuse a metric that is not logged, in a line that names what is, or that no report can judge."""
    names, name = list(dict.fromkeys(logged)), text.partition(":")[0]
    if not Metric(name, Kind(None)).members(names):
        raise UsageError(f"{key} ({text}) is not logged{nearest(name, names)} (logged: {in_a_line(names)})")
    parse_metric(text, key, any_way=any_way)


def in_a_line(names: Iterable[str]) -> str:
    """Names of metrics, those of a group by its first and its last."""
    groups: dict[str, list[str]] = {}
    for name in names:
        group = name.rpartition("/")[0]
        groups.setdefault(group if group.startswith(GROUPS) else name, []).append(name)
    ends = [(each[0], each[-1].rpartition("/")[2], len(each)) for each in groups.values()]
    return ", ".join(first if n == 1 else f"{first}..{last}" for first, last, n in ends)
