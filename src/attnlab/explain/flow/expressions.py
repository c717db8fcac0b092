"""Numbers of a flow as sums of products, written as `decay:ht0 * <state:thrc + k:htr * v:htc`.

A factor is the key of a node and a letter for each of its axes. Letters that the result lacks are summed over; `0` and
`$` are the first and last place of an axis, `<` is the token before, `/` divides, `@scale` is a number of the layer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Function = Literal["", "exp", "sqrt", "abs", "sigmoid", "max"]
"""What is made of the sum; `max` is the largest of the terms."""
ROUGHLY = 1e-3  # of the largest number: what is certainly another one
Numbers = Float[np.ndarray, "..."]


class Factor(NamedTuple):
    """A number of the node `key`, found by its axes, or a plain number."""

    key: str
    axes: str = ""
    before: bool = False  # of the token before
    divides: bool = False
    number: float | None = None


class Summand(NamedTuple):
    """Factors, multiplied."""

    factors: tuple[Factor, ...]
    minus: bool


class Expression(NamedTuple):
    """Terms, added up, and a function of the sum; `axes` are the letters of the result."""

    axes: str
    terms: tuple[Summand, ...]
    function: Function = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The nodes that it reads."""
        return tuple(dict.fromkeys(f.key for term in self.terms for f in term.factors if f.number is None))


def expression(axes: str, text: str, function: Function, layer: object) -> Expression:
    """The expression that is written so, with the numbers of the layer."""
    terms: list[tuple[list[Factor], bool]] = []
    divides = False
    for token in text.split():
        if token in "+-" or not terms:
            terms.append(([], token == "-"))
        if token in "*/":
            divides = token == "/"
        elif token not in "+-":
            terms[-1][0].append(_factor(token, divides, layer))
            divides = False
    return Expression(axes, tuple(Summand(tuple(factors), minus) for factors, minus in terms), function)


def _factor(token: str, divides: bool, layer: object) -> Factor:
    if token.startswith("@"):
        return Factor(token, divides=divides, number=float(getattr(layer, token[1:])))
    key, _, axes = token.removeprefix("<").partition(":")
    return (
        Factor(key, axes, token.startswith("<"), divides) if axes else Factor(key, divides=divides, number=float(key))
    )


def evaluated(
    lines: Sequence[tuple[str, Expression]],
    given: Mapping[str, Numbers],
    starts: Mapping[str, Numbers],
    expected: Mapping[str, Numbers],
) -> dict[str, Numbers]:
    """The numbers of each line, from those of `given` and of the lines before; `t` runs from token to token.

    `starts` is what stands before the first token, 0 where nothing is said. `expected` are numbers that lines should
    give: no more than these are made, and a ValueError ends it at the first token where they are others.
    """
    shapes = {key: expected[key].shape for key, one in lines if key in expected and expected[key].ndim == len(one.axes)}
    results: dict[str, Numbers] = {}
    ran: dict[str, list[Numbers]] = {key: [] for key, one in lines if "t" in one.axes}
    length = given["v"].shape[1]
    for i in range(length):
        for key, one in lines:
            if "t" in one.axes:
                ran[key].append(_value(one, given, starts, ran, i, shapes.get(key)))
                if key in shapes:
                    here = expected[key].take(i, axis=one.axes.index("t"))
                    off = np.abs(np.broadcast_to(ran[key][-1], here.shape) - here).max(initial=0.0)
                    if not off <= ROUGHLY * np.abs(expected[key]).max(initial=1e-3):
                        raise ValueError(f"{key} is something else at token {i}")
    for key, one in lines:
        if "t" in one.axes:
            results[key] = np.stack(np.broadcast_arrays(*ran[key]), one.axes.index("t"))
        else:
            results[key] = _value(one, {**given, **results}, starts, {}, None, shapes.get(key))
    return results


def _value(
    one: Expression,
    given: Mapping[str, Numbers],
    starts: Mapping[str, Numbers],
    ran: Mapping[str, Sequence[Numbers]],
    i: int | None,
    shape: tuple[int, ...] | None,
) -> Numbers:
    """Its numbers, those of token `i` if it has a token."""
    sizes = dict(zip(one.axes, shape or (), strict=False))
    axes = one.axes.replace("t", "")

    def numbers(factor: Factor) -> tuple[Numbers, str]:
        at, left = None if i is None else i - factor.before, factor.axes.replace("t", "")
        if at is None or "t" not in factor.axes:
            array, left = given[factor.key], factor.axes
        elif at < 0:
            array = np.asarray(starts.get(factor.key, 0.0))
            array = array.reshape((1,) * len(left)) if array.ndim == 0 else array
        elif factor.key in ran:
            array = ran[factor.key][at]
        else:
            array = given[factor.key].take(at, axis=factor.axes.index("t"))
        ends = {"0": 0, "$": -1}
        cut = tuple(ends.get(c, slice(sizes.get(c))) for c in left)
        return array.astype(np.float64)[cut], "".join(c for c in left if c not in ends)

    terms = [_product(term, axes, numbers) for term in one.terms]
    if one.function == "max":
        return np.maximum.reduce(np.broadcast_arrays(*terms))
    total = sum(terms[1:], terms[0])
    match one.function:
        case "exp":
            return np.exp(total)
        case "sqrt":
            return np.sqrt(total)
        case "abs":
            return np.abs(total)
        case "sigmoid":
            return 1 / (1 + np.exp(-total))
    return total


def _product(term: Summand, axes: str, numbers: Callable[[Factor], tuple[Numbers, str]]) -> Numbers:
    result, operands, letters = -1.0 if term.minus else 1.0, [], []
    for factor in term.factors:
        if factor.number is not None:
            result *= 1 / factor.number if factor.divides else factor.number
            continue
        array, found_by = numbers(factor)
        operands.append(1 / array if factor.divides else array)
        letters.append(found_by)
    left = "".join(c for c in axes if any(c in one for one in letters))
    product = np.einsum(f"{','.join(letters)}->{left}", *operands) if operands else np.ones(())
    return result * product[tuple(slice(None) if c in left else None for c in axes)]
