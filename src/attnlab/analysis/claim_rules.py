"""Rules that a published claim is judged by: inequalities between measures, and whether the seeds bear them out.

A measure is a formula over metrics of a run, whose names stand in brackets: `2 * [val/accuracy] - 1`; a name alone is
the metric. A condition compares measures of arms, seed by seed, or the shares of seeds that fulfil something:

    gap(two_layers) >= 0.7                                   in most runs
    loss(window) - loss(full) > 0.1                          in most pairs of runs with one seed
    max(accuracy(slow), accuracy(fast)) < 0.5                at the better of two rates
    share(accuracy(two) >= 0.99) > share(accuracy(one) >= 0.99)

Both are made of numbers with + - * / and the functions abs, min, max, log and exp. What is no number (0 / 0, the log of
a negative one, anything made of a run that was lost) counts as a run without a result.

*In most runs* is the sign test, exact for any law of results: were a run as likely to fulfil the condition as not, so
many would fulfil it with a chance of p. Shares are compared by Fisher's exact test, one-sided. A run without a result
counts against whichever answer is asked about.
"""

import ast
import keyword
import math
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from attnlab.config.metric_kinds import parse_metric
from attnlab.errors import UsageError, nearest, shown

HOLDS, FAILS, OPEN = "holds here", "does not hold here", "cannot tell"
ALPHA = 0.05  # of each answer
IN_BRACKETS = re.compile(r"\[([^][]+)\]")
METRIC = re.compile(r"[^\W\d][\w/.:-]*")  # one that may stand without
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
RELATIONS = {ast.GtE: operator.ge, ast.LtE: operator.le, ast.Gt: operator.gt, ast.Lt: operator.lt}
FUNCTIONS: dict[str, Callable[..., float]] = {"abs": abs, "min": min, "max": max, "log": math.log, "exp": math.exp}
OF_SEVERAL = ("min", "max")  # of the functions, those of two numbers or more; the others take one
SHARE = "share"
MADE_WITH = f"+ - * / {' '.join(FUNCTIONS)}"
# What a run comes to besides its metrics: where in summary.json it stands. Bounds are what a task says of its rows.
OF_SUMMARY: dict[str, tuple[str, ...]] = {
    f"{bound}/{kind}": ("bounds", bound, kind) for bound in ("floor", "ceiling") for kind in ("loss", "accuracy")
}
OF_SUMMARY |= {"size/parameters": ("parameters",)}
OF_SUMMARY |= {f"size/{cost}": ("attention_cost", cost) for cost in ("state_bytes", "forward_flops")}
MOST_SIGNS = 1000  # of a formula
DRAWS = 8  # with which it is asked whether a formula depends on anything
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
    if not isinstance(text, str) or not (IN_BRACKETS.search(text) or METRIC.fullmatch(text.strip())):
        raise UsageError(
            f"{key} ({shown(text)}) must be a metric, or a formula with metrics in brackets: 2 * [val/accuracy] - 1"
        )
    if not IN_BRACKETS.search(text):
        text = f"[{text.strip()}]"
    metrics = tuple(dict.fromkeys(IN_BRACKETS.findall(text)))
    for metric in metrics:
        if metric not in OF_SUMMARY and metric.partition("/")[0] in {name.partition("/")[0] for name in OF_SUMMARY}:
            raise UsageError(f"{key}: {metric} is not one of {', '.join(OF_SUMMARY)}{nearest(metric, OF_SUMMARY)}")
        parse_metric(metric, key, any_way=True)
    if typed := re.search(r"\bm\d+\b", IN_BRACKETS.sub("", text)):  # as which metrics stand in what is parsed
        raise UsageError(f"{key} ({_short(text)}): {typed[0]} is neither a number nor a metric in brackets")
    formula = _parsed(key, IN_BRACKETS.sub(lambda match: f" m{metrics.index(match[1])} ", text), text)

    def is_metric(leaf: ast.expr) -> bool:
        return isinstance(leaf, ast.Name) and re.fullmatch(r"m\d+", leaf.id) is not None

    def readable(node: ast.expr) -> str:
        return re.sub(r"\bm(\d+)\b", lambda match: f"[{metrics[int(match[1])]}]", ast.unparse(node))

    _check(key, formula, is_metric, text, f"a metric in brackets, such as [{metrics[0]}]", readable)
    _check_depends(key, text, lambda draw: _value(formula, lambda leaf: draw(ast.dump(leaf))))
    return Measure(formula, metrics)


def check_name(key: str, name: str) -> None:
    """Refuse a name that no rule could call an arm or a measure by."""
    if not name.isidentifier() or keyword.iskeyword(name) or name in (*FUNCTIONS, SHARE):
        raise UsageError(
            f"{key}: {name!r} must be a name of letters, digits and _, as rules write it, and none of "
            f"{', '.join((*FUNCTIONS, SHARE))} or a keyword of Python"
        )


def parse_condition(key: str, text: Any, measures: Sequence[str], arms: Sequence[str]) -> Condition:
    """A condition over these measures and arms. Raises UsageError, which begins with the key."""
    node = _parsed(key, text, text) if isinstance(text, str) else None
    example = f"{measures[0]}({arms[0]})"
    if not isinstance(node, ast.Compare) or len(node.ops) != 1 or type(node.ops[0]) not in RELATIONS:
        raise UsageError(
            f"{key} ({_short(shown(text))}) must be one inequality with >=, <=, > or <, such as {example} >= 0.9; "
            "two inequalities are two lines of the rule"
        )
    condition = Condition(text, node.left, node.ops[0], node.comparators[0])
    if any(_is_share(side) for side in (condition.left, condition.right)):
        return _of_shares(key, condition, measures, arms)

    def is_measure(leaf: ast.expr) -> bool:
        arm = leaf.args[0] if isinstance(leaf, ast.Call) and len(leaf.args) == 1 and not leaf.keywords else None
        if not isinstance(leaf, ast.Call) or not isinstance(arm, ast.Name) or not isinstance(leaf.func, ast.Name):
            return False
        for name, names in ((leaf.func.id, measures), (arm.id, arms)):
            if name not in names:
                raise UsageError(
                    f"{key} ({_short(text)}): {name} is not one of {', '.join(names)}{nearest(name, names)}"
                )
        return True

    for side in (condition.left, condition.right):
        _check(key, side, is_measure, text, f"a measure of an arm, such as {example}", ast.unparse)

    def difference(draw: Callable[[str], float]) -> float:
        left, right = (_value(side, lambda leaf: draw(ast.dump(leaf))) for side in (condition.left, condition.right))
        return left - right

    _check_depends(key, text, difference)
    return condition


def _of_shares(key: str, condition: Condition, measures: Sequence[str], arms: Sequence[str]) -> Condition:
    sides = [side.args[0] if _is_share(side) else None for side in (condition.left, condition.right)]  # type: ignore[attr-defined]
    inside = [parse_condition(key, ast.unparse(side), measures, arms) for side in sides if side is not None]
    nested = any(isinstance(each.left, ast.Compare) for each in inside)
    if len(inside) < 2 or nested or not isinstance(condition.relation, ast.Gt | ast.Lt):
        raise UsageError(f"{key} ({_short(condition.text)}) must be share(INEQUALITY) > share(INEQUALITY)")
    if isinstance(condition.relation, ast.Lt):
        inside.reverse()
    return Condition(condition.text, _compared(inside[0]), ast.Gt(), _compared(inside[1]))


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


def _is_share(side: ast.expr) -> bool:
    return isinstance(side, ast.Call) and _called(side) == SHARE and len(side.args) == 1 and not side.keywords


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
    if isinstance(node, ast.Call) and _called(node) in FUNCTIONS:
        values = [_value(each, look_up) for each in node.args]
        try:  # min and max of nan and a number are whichever stands first
            return math.nan if any(map(math.isnan, values)) else float(FUNCTIONS[_called(node)](*values))
        except ValueError:  # the logarithm of a number that has none
            return math.nan
        except OverflowError:
            return math.inf
    return float(node.value) if isinstance(node, ast.Constant) else look_up(node)  # type: ignore[arg-type]


def _check(
    key: str,
    node: ast.expr,
    is_leaf: Callable[[ast.expr], bool],
    text: str,
    leaf: str,
    readable: Callable[[ast.expr], str],
) -> None:
    """Refuse whatever is not made of numbers and leaves."""
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        inside = [node.left, node.right]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inside = [node.operand]
    elif isinstance(node, ast.Call) and (name := _called(node)) in FUNCTIONS and not node.keywords:
        if len(node.args) < 2 if name in OF_SEVERAL else len(node.args) != 1:
            number = "two numbers or more" if name in OF_SEVERAL else "one number"
            raise UsageError(f"{key} ({_short(text)}): {name} takes {number}")
        inside = node.args
    elif is_leaf(node) or (isinstance(node, ast.Constant) and _is_number(node.value)):
        inside = []
    else:
        raise UsageError(
            f"{key} ({_short(text)}): {_short(readable(node))} is neither a number nor {leaf}, nor made of them with "
            f"{MADE_WITH}"
        )
    for each in inside:
        _check(key, each, is_leaf, text, leaf, readable)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_depends(key: str, text: str, value: Callable[[Callable[[str], float]], float]) -> None:
    """Refuse a formula that comes to the same whatever the runs come to: one that names none, or a(x) - a(x)."""

    def drawn(i: int) -> float:
        def draw(leaf: str) -> float:
            numbers = random.Random(f"{i} {leaf}")
            return numbers.choice((-1, 1)) * 10 ** numbers.uniform(-3, 3)

        return value(draw)

    numbers = [number for i in range(DRAWS) if not math.isnan(number := drawn(i))]
    if len({float(f"{number:.9g}") for number in numbers}) < 2:
        raise UsageError(f"{key} ({_short(text)}) must depend on what the runs come to")


def _parsed(key: str, source: str, text: str) -> ast.expr:
    if len(source) > MOST_SIGNS:
        raise UsageError(f"{key} ({_short(text)}) is longer than {MOST_SIGNS} signs")
    try:
        return ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{key} ({_short(text)}) is no formula of numbers with {MADE_WITH}") from error


def _short(text: str) -> str:
    """A text as a line of a message."""
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:117]}..."
