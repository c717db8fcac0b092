"""The jobs of a sweep: composed and checked before anything starts, without torch."""

import copy
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.compose import Usual, check_job, variant_name
from attnlab.config.messages import explain
from attnlab.config.run_config import RunConfig
from attnlab.errors import AttnlabError, UsageError

# A key with dots names no group: such a word chooses no file, and changes one value of what is composed without it.
VALUE_WORD = re.compile(r"(?!hydra\.)[a-z]\w*(?:\.\w+)+=[^{$]*")
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


class Composer:
    """Composes the jobs of one sweep. What they have in common is composed once, so seeds and values are cheap."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[DictConfig, Any]] = {}
        self._chosen: dict[tuple[str, ...], tuple[DictConfig, dict[Any, Any]]] = {}
        self._usual: Usual = {}

    def job(self, overrides: Sequence[str], levels: dict[str, str] | None = None, is_baseline: bool = False) -> Job:
        """The job of these words; raises UsageError for what a single run would refuse, or what a sweep cannot do.

        One thread each, unless the words say more: as many jobs run side by side as there are cores, and results do
        not depend on who else is running.
        """
        config, hydra = self._check(overrides)
        if config.trainer.threads is None:
            overrides = [*overrides, ONE_THREAD]
            config = replace(config, trainer=replace(config.trainer, threads=1))
        return Job(tuple(overrides), config, variant_name(config, hydra), levels or {}, is_baseline)

    def _check(self, overrides: Sequence[str]) -> tuple[RunConfig, Any]:
        seeds = {match[1]: int(match[2]) for match in map(SEED_WORD.fullmatch, overrides) if match}
        rest = without_seeds(overrides)
        try:
            cfg, hydra = self._composition(rest, tuple(seeds))
            for key, value in seeds.items():
                OmegaConf.update(cfg, key, value)
            return check_job(cfg, hydra, self._usual), hydra
        except AttnlabError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            raise UsageError(explain(error, overrides)) from error

    def _composition(self, overrides: tuple[str, ...], seeds: tuple[str, ...]) -> tuple[DictConfig, Any]:
        if (overrides, seeds) not in self._composed:
            values = OverridesParser.create().parse_overrides([o for o in overrides if VALUE_WORD.fullmatch(o)])
            if any(map(IN_ORDER.match, overrides)) or any(value.is_sweep_override() for value in values):
                values = []
            typed = {value.input_line for value in values}
            cfg, hydra = self._choice(tuple(word for word in overrides if word not in typed))
            cfg = copy.deepcopy(cfg)
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
            hydra = {**hydra, "overrides": {**hydra["overrides"], "task": list(overrides)}}
            self._composed[overrides, seeds] = cfg, OmegaConf.create(hydra)
        return self._composed[overrides, seeds]

    def _choice(self, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[Any, Any]]:
        """What Hydra makes of the words that choose options, and its own part of it."""
        if overrides not in self._chosen:
            cfg = self.loader.load_sweep_config(self.master, list(overrides))
            with open_dict(cfg):
                hydra = OmegaConf.to_container(cfg.pop("hydra"), resolve=False)
            assert isinstance(hydra, dict)
            self._chosen[overrides] = cfg, hydra
        return self._chosen[overrides]
