"""The jobs of a sweep: composed and checked before anything starts, without torch."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.compose import (
    Typed,
    check,
    check_plain,
    chooses_option,
    fit_job,
    variant_name,
    with_values,
)
from attnlab.config.guard import check_references
from attnlab.config.keys import nodes, shipped_settings
from attnlab.config.messages import explain
from attnlab.config.run_config import RunConfig
from attnlab.errors import AttnlabError, UsageError

# A key with dots names no group, nor does a key that holds one value: such a word chooses no file, and changes one
# value of what is composed without it.
SCALARS = "|".join(
    [*(key for key, value in shipped_settings().items() if not isinstance(value, Mapping)), "allow_targets"]
)
VALUE_WORD = re.compile(rf"((?!hydra\.)[a-z]\w*(?:\.\w+)+|{SCALARS})=[^{{$]*")
IN_ORDER = re.compile(r"[+~][\w/]*\.|.*[{]", re.DOTALL)  # words whose place among the others matters
SEED_WORD = re.compile(r"(seed|streams\.(?:data|init|noise|eval))=(\d+)")
ONE_THREAD = "trainer.threads=1"


def without_seeds(overrides: Sequence[str]) -> tuple[str, ...]:
    """The words that make a setting."""
    return tuple(word for word in overrides if not SEED_WORD.fullmatch(word))


class Job(NamedTuple):
    """One run that is wanted: the words that make it, the config they compose, and the name of its attention."""

    overrides: tuple[str, ...]
    config: RunConfig
    variant: str
    levels: dict[str, str]  # of the axes of a design
    is_baseline: bool

    @property
    def setting_overrides(self) -> tuple[str, ...]:
        """The words without the seed's."""
        return without_seeds(self.overrides)


class Refusal(NamedTuple):
    """A combination that makes no sense, and why."""

    overrides: tuple[str, ...]
    levels: dict[str, str]
    reason: str

    @property
    def setting_overrides(self) -> tuple[str, ...]:
        """The words without the seed's."""
        return without_seeds(self.overrides)


class Chosen(NamedTuple):
    """What words that choose options make, for all jobs that choose the same."""

    cfg: DictConfig
    raw: dict[str, Any]  # the same as plain data, with references as they are written
    plain: dict[str, Any] | None  # with references resolved; None where that takes OmegaConf
    usual: Mapping[str, Any]  # the same by key
    choices: Mapping[str, Any]  # the option of each group


class Composer:
    """Composes the jobs of one sweep. What they have in common is composed once, so seeds and values are cheap."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.main = str(master.hydra.job.config_name)
        self.searched = [str(word) for word in master.hydra.overrides.hydra if "hydra.searchpath=" in word]
        self._choices: dict[tuple[str, ...], Chosen] = {}
        self._values: dict[str, tuple[str, Any] | None] = {}

    def job(self, overrides: Sequence[str], levels: dict[str, str] | None = None, is_baseline: bool = False) -> Job:
        """The job of these words; raises UsageError for what a single run would refuse, or what a sweep cannot do.

        One thread each, unless the words say more: as many jobs run side by side as there are cores, and results do
        not depend on who else is running.
        """
        config, variant = self._check(overrides)
        if config.trainer.threads is None:
            overrides = [*overrides, ONE_THREAD]
            config = replace(config, trainer=replace(config.trainer, threads=1))
        return Job(tuple(overrides), config, variant, levels or {}, is_baseline)

    def _check(self, overrides: Sequence[str]) -> tuple[RunConfig, str]:
        try:
            typed, config = self._by_values(overrides) or self._whole(overrides)
            return fit_job(config, typed), variant_name(config, typed)
        except AttnlabError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            raise UsageError(explain(error, overrides)) from error

    def _by_values(self, overrides: Sequence[str]) -> tuple[Typed, RunConfig] | None:
        """A job that is what options make with other values at some keys; None where only Hydra can tell what it is."""
        if any(map(IN_ORDER.match, overrides)):
            return None
        values = {word: self._value(word) for word in overrides if VALUE_WORD.fullmatch(word)}
        if None in values.values():
            return None
        choice = self._choice(tuple(word for word in overrides if word not in values))
        plain = with_values(choice.raw, dict(value for value in values.values() if value is not None))
        if plain is None or choice.plain is None:
            return None
        typed = self._typed(overrides, choice)
        return typed, check_plain(
            plain, choice.usual, overrides, main=self.main, searched=self.searched, environment={}
        )

    def _whole(self, overrides: Sequence[str]) -> tuple[Typed, RunConfig]:
        """The same by way of Hydra."""
        choice = self._choice(without_seeds(overrides))
        cfg = copy.deepcopy(choice.cfg)
        for match in filter(None, map(SEED_WORD.fullmatch, overrides)):
            OmegaConf.update(cfg, match[1], int(match[2]))
        shipped = self._choice(tuple(word for word in overrides if chooses_option(word, self.searched))).plain
        config = check(cfg, overrides, main=self.main, searched=self.searched, shipped=shipped)
        return self._typed(overrides, choice), config

    def _typed(self, overrides: Sequence[str], choice: Chosen) -> Typed:
        return Typed(overrides, choice.choices, self.main, self.searched, is_single=False)

    def _value(self, word: str) -> tuple[str, Any] | None:
        """The key and the value of a word that sets one; None if it does more than that."""
        if word not in self._values:
            (override,) = OverridesParser.create().parse_overrides([word])
            is_plain = not override.is_sweep_override() and not override.is_delete()
            self._values[word] = (override.key_or_group, override.value()) if is_plain else None
        return self._values[word]

    def _choice(self, overrides: tuple[str, ...]) -> Chosen:
        """What Hydra makes of the words that choose options."""
        if overrides not in self._choices:
            cfg = self.loader.load_sweep_config(self.master, list(overrides))
            with open_dict(cfg):
                choices = OmegaConf.to_container(cfg.pop("hydra").runtime.choices, resolve=False)
            container = OmegaConf.to_container(cfg, resolve=False)
            assert isinstance(container, dict) and isinstance(choices, dict)
            raw = {str(key): value for key, value in container.items()}
            check_references(raw)
            is_usual = all(chooses_option(word, self.searched) for word in overrides)
            plain = with_values(raw, {}) if is_usual else None
            usual = {path: value for path, value, _ in nodes(plain)}
            self._choices[overrides] = Chosen(cfg, raw, plain, usual, {str(k): v for k, v in choices.items()})
        return self._choices[overrides]
