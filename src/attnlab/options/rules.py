"""What a key of a config may hold: its type, range or choices, and the words of a refusal."""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from attnlab.errors import UsageError, shown

KINDS: dict[type, str] = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Rule:
    """What one key may hold: a type, a range (inclusive unless `above` or `below`), a choice, or null.

    `least` 1 of a text means that it is not empty. With `length`, the key holds a list of so many of them. Where
    true and false belong, `choices` are words that may stand there, too.
    """

    kind: type
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    length: int | None = None

    def accepts(self, value: Any) -> bool:
        """Whether the value may stand here; an integer may stand for a number, but infinity and nan may not."""
        if self.length is not None:
            return (
                isinstance(value, list | tuple) and len(value) == self.length and all(self._accepts(v) for v in value)
            )
        return self.optional if value is None else self._accepts(value)

    def _accepts(self, value: Any) -> bool:
        if isinstance(value, bool) or self.kind is bool:
            return self.kind is bool and (isinstance(value, bool) or value in self.choices)
        if not isinstance(value, int | float if self.kind is float else self.kind):
            return False
        if isinstance(value, int) and abs(value) > MOST_INTEGER:
            return False
        if self.choices:
            return value in self.choices
        size: Any = len(value) if isinstance(value, str) else value
        within = (
            self.least is None or size >= self.least,
            self.above is None or size > self.above,
            self.below is None or size < self.below,
            self.most is None or size <= self.most,
        )
        return all(within) and not (isinstance(size, float) and not math.isfinite(size))

    def __str__(self) -> str:
        allowed = (*self.choices, "true", "false") if self.choices and self.kind is bool else self.choices
        text = " | ".join(allowed) if allowed else KINDS[self.kind]
        if self.kind is str and self.least:
            text = "non-empty text"
        elif self.least is not None:
            text += f" of at least {_number(self.least)}"
        if self.above is not None:
            text += f" above {_number(self.above)}"
        if self.most is not None:
            text += f", at most {_number(self.most)}"
        if self.below is not None:
            text += f", below {_number(self.below)}"
        if self.length is not None:
            text = f"a list of {self.length}, each {text}"
        return ("null or " if self.optional else "") + text


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) and abs(value) < 10**9 else f"{value:g}"


MOST_AT_ONCE = 10_000  # numbers that one range may stand for
MOST_INTEGER = MOST_SEED = 10**18  # torch's integers and generators take up to 2^63 - 1
COUNT = Rule(int, least=1)
NATURAL = Rule(int, least=0)
FRACTION = Rule(float, least=0, below=1)
POSITIVE = Rule(float, above=0)
NONNEGATIVE = Rule(float, least=0)
TEXT = Rule(str, least=1)


def refusal(key: str, value: Any, rule: Rule, typed: str | None = None) -> str:
    """What is wrong with a value, and how it would have to be; `typed` is what stood after key= where it was typed."""
    text, hint = shown(value), ""
    if rule.kind is str and isinstance(value, int | float) and not rule.choices:
        text = typed or text  # 1e5, which is read as 100000.0
        hint = f"; as text, write {as_typed(key, text)}"
    elif rule.kind is int and isinstance(value, float) and value.is_integer():
        hint = f"; write {int(value)}"
    elif isinstance(value, int) and abs(value) > MOST_INTEGER:
        text, hint = f"{text[:20]}... of {len(text)} digits", "; what a machine counts has at most 18"
    elif _unquoted(value, rule):
        text, hint = f'"{value}"', f" and no text; write {value} without quotation marks"
    return f"{key} ({text}) must be {rule}{hint}"


def _unquoted(value: Any, rule: Rule) -> bool:
    """Whether a text would be right if it were no text, such as "5" where a number belongs."""
    if not isinstance(value, str) or rule.kind is str:
        return False
    constants: dict[str, Any] = {"true": True, "false": False, "null": None}
    if value.lower() in constants:
        return rule.accepts(constants[value.lower()])
    try:
        return rule.kind is not bool and rule.accepts(rule.kind(value))
    except ValueError:
        return False


def as_typed(key: str, text: str) -> str:
    """How key=text is typed in a shell so that all of it is text."""
    inside = text.replace('"', '\\"')
    if "'" not in text:
        return f"'{key}=\"{inside}\"'"
    for sign in '\\"$`':
        inside = inside.replace(sign, "\\" + sign)
    return f'"{key}=\\"{inside}\\""'


def nearest_key(key: str, among: Iterable[str]) -> list[str]:
    """The dotted keys that may have been meant: those that end alike, else one that is written alike."""
    keys = sorted(set(among), key=lambda k: (k.count("."), k))
    ends = {k: k.rpartition(".")[2] for k in keys}
    parent, _, last = key.rpartition(".")
    if alike := [k for k in keys if ends[k] == last][:3]:
        return alike
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    for group, cutoff in ((siblings, 0.6), (keys, 0.75)):
        if near := difflib.get_close_matches(last, [ends[k] for k in group], n=1, cutoff=cutoff):
            return [k for k in group if ends[k] == near[0]][:1]
    return [] if siblings else difflib.get_close_matches(key, keys, n=1, cutoff=0.65)


def parse_integers(key: str, text: str, *, most: int, like: str) -> list[int]:
    """Integers as they are typed, 0,2 or [0,2] or 1-3, in order and each once; `like` is an example of some."""
    numbers: set[int] = set()
    for word in text.strip("[]").replace(",", " ").split():
        first, dash, last = word.partition("-")
        sound = first.isdecimal() and (last.isdecimal() or not dash)
        if not sound or not int(first) <= int(last or first) <= min(most, int(first) + MOST_AT_ONCE):
            raise UsageError(f"{key} ({text}) must be integers of at most {most}, such as {like}")
        numbers |= set(range(int(first), int(last or first) + 1))
    if not numbers:
        raise UsageError(f"{key} ({text}) must name at least one integer, such as {like}")
    return sorted(numbers)
