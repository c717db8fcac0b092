"""The jobs of a sweep: composed and checked before anything starts, without torch."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.complaints import explain
from attnlab.config import Usual, check_job, variant_name
from attnlab.errors import AttnlabError, UsageError

SEED_WORD = re.compile(r"(seed|streams\.(?:data|init|noise|eval))=(\d+)")
ONE_THREAD = "trainer.threads=1"


def without_seeds(words: Sequence[str]) -> tuple[str, ...]:
    """The words that make a setting."""
    return tuple(word for word in words if not SEED_WORD.fullmatch(word))


class Job(NamedTuple):
    """One run that is wanted: the words that make it, the config they compose, and the name of its attention."""

    words: tuple[str, ...]
    config: dict[str, Any]
    variant: str
    levels: dict[str, str]  # of the axes of a design
    is_baseline: bool

    @property
    def setting_words(self) -> tuple[str, ...]:
        """The words without the seed's."""
        return without_seeds(self.words)


class Refusal(NamedTuple):
    """A combination that makes no sense, and why."""

    words: tuple[str, ...]
    levels: dict[str, str]
    reason: str

    @property
    def setting_words(self) -> tuple[str, ...]:
        """The words without the seed's."""
        return without_seeds(self.words)


class Composer:
    """Composes the jobs of one sweep. What they have in common is composed once, so seeds are cheap."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self._composed: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[DictConfig, Any]] = {}
        self._usual: Usual = {}

    def job(self, words: Sequence[str], levels: dict[str, str] | None = None, is_baseline: bool = False) -> Job:
        """The job of these words; raises UsageError for what a single run would refuse, or what a sweep cannot do.

        One thread each, unless the words say more: as many jobs run side by side as there are cores, and results do
        not depend on who else is running.
        """
        config, hydra = self._checked(words)
        if config["trainer"]["threads"] is None:
            words = [*words, ONE_THREAD]
            config["trainer"]["threads"] = 1
        return Job(tuple(words), config, variant_name(hydra), levels or {}, is_baseline)

    def _checked(self, words: Sequence[str]) -> tuple[dict[str, Any], Any]:
        seeds = {match[1]: int(match[2]) for match in map(SEED_WORD.fullmatch, words) if match}
        rest = without_seeds(words)
        try:
            cfg, hydra = self._composition(rest, tuple(seeds))
            for key, value in seeds.items():
                OmegaConf.update(cfg, key, value)
            return check_job(cfg, hydra, self._usual), hydra
        except AttnlabError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            raise UsageError(explain(error, words)) from error

    def _composition(self, words: tuple[str, ...], seeds: tuple[str, ...]) -> tuple[DictConfig, Any]:
        if (words, seeds) not in self._composed:
            cfg = self.loader.load_sweep_config(self.master, list(words))
            with open_dict(cfg):
                hydra = cfg.pop("hydra")
            self._composed[words, seeds] = cfg, OmegaConf.create(OmegaConf.to_container(hydra, resolve=False))
        return self._composed[words, seeds]
