"""What is tuned: keys with lists or ranges of values, and which settings of them are tried.

    optimizer.lr=3e-4,1e-3,3e-3,1e-2           these values
    optimizer.lr=1e-4..1e-2                    any value between, by its logarithm
    optimizer.weight_decay=0..0.3              any value between; a range from 0 is by the value itself
    model.n_layers=2..6                        any integer between
    optimizer.lr=1e-4..1e-2,optimizer.decay=cosine,linear    several keys

Lists alone are a grid, tried whole. Otherwise so many settings are drawn: half of them evenly at random, the others
by a model of what the first came to (TPE, Bergstra et al. 2011, as Optuna has it), or at random where Optuna is not
installed.
"""

import itertools
import math
import re
import warnings
from collections.abc import Sequence
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import yaml

from attnlab.analysis.tuned_variants import as_typed, spelled
from attnlab.errors import UsageError

SHARES = (0.5, 0.25, 0.25)  # of the settings: at random, then by two models
USUAL_TRIALS = 16
REDRAWN = 4  # how often a setting that came up before is drawn again, as few lists and integers have few settings
DIGITS = 3  # of a value that is drawn
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")
Settings = dict[str, Any]  # values by key


class ValueRange(NamedTuple):
    """All numbers from one to another."""

    low: float
    high: float
    whole: bool

    @property
    def log(self) -> bool:
        """Whether values are drawn by their logarithm."""
        return self.low > 0 and not self.whole

    def at(self, share: float) -> float | int:
        """The value that lies this far along, from 0 to 1."""
        if self.whole:
            return min(int(self.high), int(self.low) + int(share * (self.high - self.low + 1)))
        if self.log:
            return _short(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))
        return _short(self.low + share * (self.high - self.low))

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


class SearchSpace(NamedTuple):
    """The values of each key that is tuned."""

    values: dict[str, list[Any] | ValueRange]

    @property
    def size(self) -> int | None:
        """How many settings there are; None where a range has no end of them."""
        lists = [values for values in self.values.values() if isinstance(values, list)]
        return math.prod(map(len, lists)) if len(lists) == len(self.values) else None

    def grid(self) -> list[Settings]:
        """Every setting of lists."""
        lists = [values for values in self.values.values() if isinstance(values, list)]
        return [dict(zip(self.values, combination, strict=True)) for combination in itertools.product(*lists)]

    def __str__(self) -> str:
        texts = (f"{key}={','.join(map(as_typed, v)) if isinstance(v, list) else v}" for key, v in self.values.items())
        return ",".join(texts)


def read_space(text: str) -> SearchSpace:
    """The search space of a text such as optimizer.lr=1e-4..1e-2,optimizer.weight_decay=0,0.1; refused in one line."""
    values: dict[str, list[str]] = {}
    for piece in re.split(r",\s*|\s+", text.strip()):
        key, equals, value = piece.partition("=")
        if equals and key in values:
            raise UsageError(f"over ({text}) names {key} twice")
        if equals:
            values[key] = [value]
        elif not values:
            raise UsageError(f"over ({text}) must begin with a key, as in optimizer.lr=1e-3..1e-2")
        else:
            values[next(reversed(values))].append(piece)
    return SearchSpace({key: _values(key, pieces) for key, pieces in values.items()})


def _values(key: str, pieces: Sequence[str]) -> list[Any] | ValueRange:
    shown = f"over: {key}={','.join(pieces)}"
    if not key or "" in pieces:
        raise UsageError(f"{shown} must be values or a range, such as 1e-3,1e-2 or 1e-3..1e-2")
    if ".." not in "".join(pieces):
        try:
            values = [_value(piece) for piece in pieces]
        except yaml.YAMLError as error:
            raise UsageError(f"{shown} must be values, without brackets, such as 1e-3,1e-2") from error
        if not all(isinstance(value, bool | int | float | str | NoneType) for value in values):
            raise UsageError(f"{shown} must be numbers or words, such as 1e-3,1e-2")
        if len({as_typed(value) for value in values}) < len(values):
            raise UsageError(f"{shown} names a value twice")
        return values
    match = RANGE.fullmatch(pieces[0]) if len(pieces) == 1 else None
    if match is None or not 0 <= float(match[1]) < float(match[2]) < math.inf:
        raise UsageError(f"{shown} must be one range from a smaller number to a larger one, from 0 on: 1e-3..1e-2")
    whole = all(re.fullmatch(r"\d+", end) for end in match.groups()) and int(match[2]) > 1
    return ValueRange(float(match[1]), float(match[2]), whole)


def _value(text: str) -> Any:
    """A value as YAML has it; 1e-3 is a number, too."""
    return float(text) if re.fullmatch(NUMBER, text) and not text.lstrip("+-").isdecimal() else yaml.safe_load(text)


class Proposals:
    """Which settings to try next for one variant: the whole grid, or batches that go by what the last ones came to.

    The same space, number and results give the same settings. The first batch is the same for all variants.
    """

    def __init__(self, space: SearchSpace, trials: int, *, lower_is_better: bool) -> None:
        self.space, self.lower = space, lower_is_better
        size = space.size
        self.is_grid = size is not None and (not trials or size <= trials)
        self.trials = size if self.is_grid and size is not None else trials or USUAL_TRIALS
        self.rng = np.random.default_rng(0)
        self.asked: list[tuple[Settings, Any]] = []
        self.study = None if self.is_grid else _study(lower_is_better, math.ceil(SHARES[0] * self.trials))

    @property
    def how(self) -> str:
        """How settings are chosen, in words."""
        if self.is_grid:
            return "every setting of the grid"
        if self.study is None:
            return "settings drawn at random (pip install 'attnlab[sweep]' for Optuna's)"
        return "settings drawn at random, then by Optuna's TPE"

    def batches(self) -> list[int]:
        """How many settings are asked for at a time."""
        if self.study is None:
            return [self.trials]
        first, second, _ = (math.ceil(share * self.trials) for share in SHARES)
        second = min(second, self.trials - first)
        return [n for n in (first, second, self.trials - first - second) if n]

    def ask(self, n: int) -> list[Settings]:
        """The next settings; one that was asked for before is not among them."""
        if self.is_grid:
            return self.space.grid()
        earlier = [settings for settings, _ in self.asked]
        fresh: list[Settings] = []
        for _ in range(REDRAWN * n):
            if len(fresh) == n:
                break
            settings, trial = self._draw()
            self.asked.append((settings, trial))
            if settings not in earlier and settings not in fresh:
                fresh.append(settings)
        return fresh

    def _draw(self) -> tuple[Settings, Any]:
        if self.study is None:
            return {key: self._at(values, self.rng.random()) for key, values in self.space.values.items()}, None
        from optuna.distributions import CategoricalDistribution, UniformDistribution

        # A range is asked for as a share of it, so that what Optuna draws and what is run are one number.
        kinds = {
            key: UniformDistribution(0, 1)
            if isinstance(values, ValueRange)
            else CategoricalDistribution(tuple(range(len(values))))
            for key, values in self.space.values.items()
        }
        trial = self.study.ask(kinds)
        drawn = {
            key: values.at(trial.params[key]) if isinstance(values, ValueRange) else values[trial.params[key]]
            for key, values in self.space.values.items()
        }
        return drawn, trial

    @staticmethod
    def _at(values: list[Any] | ValueRange, share: float) -> Any:
        return values.at(share) if isinstance(values, ValueRange) else values[int(share * len(values))]

    def tell(self, score: dict[str, float]) -> None:
        """What each setting came to, by its spelling (`spelled`); what diverged is infinitely bad."""
        for settings, trial in self.asked if self.study is not None else ():
            if trial is not None and not self._is_told(trial):
                worst = math.inf if self.lower else -math.inf
                self.study.tell(trial, score.get(spelled(settings), worst))  # type: ignore[union-attr]

    def _is_told(self, trial: Any) -> bool:
        return bool(self.study.trials[trial.number].state.is_finished())  # type: ignore[union-attr]


def _study(lower_is_better: bool, startup: int) -> Any:
    """A study of Optuna, or None where it is not installed."""
    try:
        import optuna
    except ImportError:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        # Of constant_liar, since its version 2.8.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # One more, because it counts the trial that is asked for.
        sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=startup + 1, constant_liar=True)
    return optuna.create_study(direction="minimize" if lower_is_better else "maximize", sampler=sampler)
