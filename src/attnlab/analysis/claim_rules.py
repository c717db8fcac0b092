"""Rules that a published claim is judged by: inequalities between measures, and whether the seeds bear them out.

A measure is a formula over metrics of a run, whose names stand in brackets: `2 * [val/accuracy] - 1`; a name alone is
the metric. A condition compares measures of arms, seed by seed, or the shares of seeds that fulfil something:

    gap(two_layers) >= 0.7                                   in most runs
    loss(window) - loss(full) > 0.1                          in most pairs of runs with one seed
    share(accuracy(two) >= 0.99) > share(accuracy(one) >= 0.99)

*In most runs* is the sign test, exact for any law of results: were a run as likely to fulfil the condition as not, so
many would fulfil it with a chance of p. Shares are compared by Fisher's exact test, one-sided. A run without a result
counts against whichever answer is asked about.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from attnlab.config.metric_kinds import parse_metric
from attnlab.errors import UsageError, nearest

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "cannot tell"
ALPHA = 0.05  # of each answer
IN_BRACKETS = re.compile(r"\[([^][]+)\]")
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
RELATIONS = {ast.GtE: operator.ge, ast.LtE: operator.le, ast.Gt: operator.gt, ast.Lt: operator.lt}
Results = Mapping[str, Sequence[Mapping[str, float] | None]]  # by arm: the measures of each seed; None: a lost run


class Measure(NamedTuple):
    """A number of a run, made of its metrics."""

    formula: ast.expr
    metrics: tuple[str, ...]

    def value(self, numbers: Mapping[str, float]) -> float:
        """What it comes to, given the metrics; nan where it divides by 0."""
        return _value(self.formula, lambda leaf: numbers[self.metrics[int(leaf.id[1:])]])  # type: ignore[attr-defined]


class Condition(NamedTuple):
    """One inequality of a rule; of shares, each side is an inequality of its own."""

    text: str
    left: ast.expr
    relation: ast.cmpop
    right: ast.expr


class Answer(NamedTuple):
    """What the seeds say of one condition. `left` and `right` are medians over the seeds, or shares."""

    condition: str
    left: float
    right: float
    fulfilled: int  # seeds that fulfil it; of shares, those of the left side
    lost: int
    seeds: int
    p_holds: float
    p_fails: float
    verdict: str


def parse_measure(key: str, text: Any) -> Measure:
    """A measure from its formula. Raises UsageError, which begins with the key."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            f"{key} ({text}) must be a metric, or a formula with metrics in brackets: 2 * [val/accuracy] - 1"
        )
    if not IN_BRACKETS.search(text):
        text = f"[{text.strip()}]"
    metrics = tuple(dict.fromkeys(IN_BRACKETS.findall(text)))
    for metric in metrics:
        parse_metric(metric, key)
    formula = _parsed(key, IN_BRACKETS.sub(lambda match: f" m{metrics.index(match[1])} ", text), text)
    _check(key, formula, lambda leaf: isinstance(leaf, ast.Name) and re.fullmatch(r"m\d+", leaf.id) is not None, text)
    return Measure(formula, metrics)


def parse_condition(key: str, text: Any, measures: Sequence[str], arms: Sequence[str]) -> Condition:
    """A condition over these measures and arms. Raises UsageError, which begins with the key."""
    node = _parsed(key, text, text) if isinstance(text, str) else None
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or type(node.ops[0]) not in RELATIONS:
        raise UsageError(f"{key} ({text}) must be one inequality, such as {measures[0]}({arms[0]}) >= 0.9")
    condition = Condition(text, node.left, node.ops[0], node.comparators[0])
    inside = [_inside(side) for side in (condition.left, condition.right)]
    if any(inside):
        sides = [parse_condition(key, each, measures, arms) for each in inside if each]
        if len(sides) < 2 or not isinstance(condition.relation, ast.Gt):
            raise UsageError(f"{key} ({text}) must be share(...) > share(...)")
        return Condition(text, _compared(sides[0]), ast.Gt(), _compared(sides[1]))

    def is_measure(leaf: ast.expr) -> bool:
        if not isinstance(leaf, ast.Call) or len(leaf.args) != 1 or not isinstance(leaf.args[0], ast.Name):
            return False
        for name, names in ((_called(leaf), measures), (leaf.args[0].id, arms)):
            if name not in names:
                raise UsageError(f"{key} ({text}): {name} is not one of {', '.join(names)}{nearest(name, names)}")
        return True

    for side in (condition.left, condition.right):
        _check(key, side, is_measure, text)
    return condition


def judge(conditions: Sequence[Condition], results: Results) -> tuple[str, list[Answer]]:
    """The verdict on a claim, and the answer to each of its conditions.

    It holds if each of them does, at ALPHA each, so that a false *holds* has a chance of at most ALPHA; it does not if
    one of them fails, at ALPHA over their number.
    """
    answers = [_answer(condition, results, ALPHA / len(conditions)) for condition in conditions]
    if all(answer.verdict == HOLDS for answer in answers):
        return HOLDS, answers
    return FAILS if any(answer.verdict == FAILS for answer in answers) else OPEN, answers


def fewest_seeds(conditions: Sequence[Condition]) -> int:
    """With fewer, no result could show that one of so many conditions fails."""
    return math.ceil(math.log2(len(conditions) / ALPHA))


def _answer(condition: Condition, results: Results, alpha_fails: float) -> Answer:
    from scipy import stats  # as long to import as all the rest; a mistyped name needs none

    seeds = len(next(iter(results.values())))
    if isinstance(condition.left, ast.Compare):
        (one, lost), (other, their_lost) = (_fulfilled(side, results) for side in (condition.left, condition.right))
        p_holds = _more(one, other + their_lost, seeds)
        p_fails = _more(other, one + lost, seeds)
        left, right, lost = one / seeds, other / seeds, lost + their_lost
    else:
        one, lost = _fulfilled(_compared(condition), results)
        p_holds = float(stats.binom.sf(one - 1, seeds, 0.5))
        p_fails = float(stats.binom.cdf(one + lost, seeds, 0.5))
        left, right = (_median(side, results) for side in (condition.left, condition.right))
    verdict = HOLDS if p_holds <= ALPHA else FAILS if p_fails <= alpha_fails else OPEN
    return Answer(condition.text, left, right, one, lost, seeds, p_holds, p_fails, verdict)


def _inside(side: ast.expr) -> str:
    """What share(...) is taken of; empty for anything else."""
    return ast.unparse(side.args[0]) if isinstance(side, ast.Call) and _called(side) == "share" and side.args else ""


def _compared(condition: Condition) -> ast.Compare:
    return ast.Compare(condition.left, [condition.relation], [condition.right])


def _more(one: int, other: int, n: int) -> float:
    from scipy import stats  # as long to import as all the rest; a mistyped name needs none

    return float(stats.fisher_exact([[one, n - one], [other, n - other]], alternative="greater").pvalue)


def _fulfilled(compared: Any, results: Results) -> tuple[int, int]:
    """How many seeds fulfil a comparison, and for how many there is no result."""
    relation = RELATIONS[type(compared.ops[0])]
    pairs = [
        (_of_seed(compared.left, results, i), _of_seed(compared.comparators[0], results, i)) for i in _seeds(results)
    ]
    lost = sum(math.isnan(a) or math.isnan(b) for a, b in pairs)
    return sum(bool(relation(a, b)) for a, b in pairs), lost


def _median(side: ast.expr, results: Results) -> float:
    values = [value for i in _seeds(results) if not math.isnan(value := _of_seed(side, results, i))]
    return median(values) if values else math.nan


def _seeds(results: Results) -> range:
    return range(len(next(iter(results.values()))))


def _of_seed(side: ast.expr, results: Results, i: int) -> float:
    def look_up(leaf: Any) -> float:
        run = results[leaf.args[0].id][i]
        return math.nan if run is None else run[_called(leaf)]

    return _value(side, look_up)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _value(node: ast.expr, look_up: Callable[[ast.expr], float]) -> float:
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, look_up), _value(node.right, look_up)
        return math.nan if right == 0 and isinstance(node.op, ast.Div) else ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, look_up)
    return float(node.value) if isinstance(node, ast.Constant) else look_up(node)  # type: ignore[arg-type]


def _check(key: str, node: ast.expr, is_leaf: Callable[[ast.expr], bool], text: str) -> None:
    """Refuse whatever is no sum, difference, product or quotient of numbers and leaves."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        _check(key, node.left, is_leaf, text)
        _check(key, node.right, is_leaf, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(key, node.operand, is_leaf, text)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)) and not is_leaf(node):
        raise UsageError(f"{key} ({text}): {ast.unparse(node)} is no number, and no sum or product of some")


def _parsed(key: str, source: str, text: str) -> ast.expr:
    try:
        return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{key} ({text}) is no formula") from error
