"""What a file of a folder given with --config-dir may hold: data of bounded size, and nothing of Hydra's own.

Hydra builds its callbacks, its logging and its launcher from the config, with any class and any file that is named
there. So its part must be what attnlab's own files and the words on the command line make it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attnlab.config.keys import config_dir, nodes
from attnlab.errors import UsageError, shown
from attnlab.store.files import check_yaml, read_file
from attnlab.store.leaves import leaves

OF_THE_JOB = ("runtime", "overrides", "job", "searchpath", "mode")  # parts of hydra that differ from job to job
REFERENCE = re.compile(r"\$\{([^{}:]+)\}")
MOST_CHARACTERS = 1_000_000  # that a value may come to
NUMBERS_OF = ("hydra.launcher.", "hydra.sweeper.")  # how many jobs at once, how many trials: a file may say it


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, Hydra refuses files that are more than data."""
    read, compose = OmegaConf.load, ConfigLoaderImpl.load_configuration

    def checked_read(file: Any) -> Any:
        _check_file(Path(getattr(file, "name", file)))
        return read(file)

    def checked_compose(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        cfg = compose(self, *args, **kwargs)
        typed = kwargs["overrides"] if "overrides" in kwargs else args[1]
        if _has_foreign_files(self, typed):
            of_hydra = tuple(word for word in typed if word.lstrip("+~").startswith(("hydra.", "hydra/")))
            _check_hydra(cfg, _usual(tuple(w for w in of_hydra if "hydra.searchpath=" not in w), compose))
        return cfg

    OmegaConf.load = checked_read  # type: ignore[method-assign,assignment]  # Hydra leaves no other way
    ConfigLoaderImpl.load_configuration = checked_compose  # type: ignore[method-assign]
    try:
        yield
    finally:
        OmegaConf.load = read  # type: ignore[method-assign]
        ConfigLoaderImpl.load_configuration = compose  # type: ignore[method-assign]


def _check_file(path: Path) -> None:
    if not path.exists() or path.resolve().is_relative_to(config_dir().resolve()):
        return
    try:
        check_yaml(read_file(path).decode())
    except yaml.MarkedYAMLError:
        return  # Hydra says so
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not read: {getattr(error, 'strerror', None) or error}") from error


def _has_foreign_files(loader: ConfigLoaderImpl, typed: Sequence[str]) -> bool:
    folders = [e.path for e in loader.get_search_path().get_path() if (e.path or "").startswith("file://")]
    foreign = [f for f in folders if Path(f.removeprefix("file://")).resolve() != config_dir().resolve()]
    return bool(foreign) or any("hydra.searchpath=" in word for word in typed)


@lru_cache(maxsize=8)
def _usual(typed: tuple[str, ...], compose: Any) -> DictConfig | None:
    """The config as attnlab's files and these words make it; None where they do not exist without other files."""
    loader = ConfigLoaderImpl(config_search_path=create_config_search_path(str(config_dir())))
    try:
        cfg: DictConfig = compose(loader, config_name="train", overrides=list(typed), run_mode=RunMode.RUN)
    except Exception:  # an option that only another file has
        return None
    return cfg


def _check_hydra(cfg: DictConfig, usual: DictConfig | None) -> None:
    if usual is None:
        raise UsageError("an option of hydra/ is not one that is installed: name one that is, and type its settings")
    ours, theirs = (dict(leaves(_part(side), "hydra")) for side in (usual, cfg))
    for key in sorted({*ours, *theirs}, key=str):
        value = theirs.get(key)
        same = key in ours and key in theirs and ours[key] == value
        if not same and not (key.startswith(NUMBERS_OF) and isinstance(value, int | float)):
            raise UsageError(
                f"{key} ({shown(value)}) is set by a file, but Hydra can run code and write anywhere: what is Hydra's "
                f"own must be typed, as in {key}=..."
            )


def _part(cfg: DictConfig) -> Mapping[str, Any]:
    """Hydra's own part of a config, as plain data."""
    plain: Any = OmegaConf.to_container(cfg.hydra, resolve=False)
    job = plain["job"]
    chosen = {key: job.get(key) for key in ("chdir", "env_set", "env_copy")}
    return {**{key: value for key, value in plain.items() if key not in OF_THE_JOB}, "job": chosen}


def check_references(plain: Mapping[str, Any]) -> None:
    """Refuse a config whose references would come to more than memory holds: each can double what it refers to.

    `plain` holds them as they are written, ${key} or ${.key}.
    """
    sizes: dict[str, int] = {}
    values = {path: (value, path.rpartition(".")[0]) for path, value, _ in nodes(plain)}

    def size(path: str) -> int:
        if path not in sizes and path in values:
            sizes[path] = 0  # one that leads back to itself is OmegaConf's to refuse
            value, owner = values[path]
            inner = value if isinstance(value, list) else [value]
            texts = [text for each in inner for _, text in leaves(each) if isinstance(text, str)]
            sizes[path] = 1 + sum(
                len(text) + sum(size(_absolute(key, owner)) for key in REFERENCE.findall(text)) for text in texts
            )
            if sizes[path] > MOST_CHARACTERS:
                raise UsageError(f"{path} refers to more than {MOST_CHARACTERS:,} characters by its references")
        return sizes.get(path, 0)

    try:
        for path in values:
            size(path)
    except RecursionError as error:
        raise UsageError("the references of the config form a chain that is too long") from error


def from_environment(raw: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a config that come from the environment, by key, as they are written: they may be secrets.

    `raw` holds references as they are written, and `plain` what they came to. A number is none.
    """
    values = {path: (value, path.rpartition(".")[0]) for path, value in leaves(dict(raw)) if isinstance(value, str)}
    texts, resolved = dict[str, str](), {path: value for path, value, _ in nodes(plain)}

    def comes(path: str, asked: frozenset[str] = frozenset()) -> bool:
        if path in asked or path not in values:
            return any(comes(inner, asked | {path}) for inner in values if inner.startswith((f"{path}.", f"{path}[")))
        text, owner = values[path]
        keys = (_absolute(key, owner) for key in REFERENCE.findall(text))
        return "${oc." in text.replace(" ", "") or any(comes(key, asked | {path}) for key in keys)

    for path, (text, _) in values.items():
        if "${" in text and not isinstance(resolved.get(path), int | float) and comes(path):
            texts[path] = text
    return texts


def _absolute(key: str, owner: str) -> str:
    """The dotted key that a reference within a group means: .key is beside it, ..key one level higher."""
    name = key.lstrip(".")
    for _ in range(len(key) - len(name) - 1):
        owner = owner.rpartition(".")[0]
    return name if name == key else f"{owner}.{name}".lstrip(".")
