"""Which groups, options and keys there are, and which one may have been meant by a key that is not among them."""

import copy
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from fnmatch import fnmatch
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from attnlab.options.model_config import FIRST, ModelConfig
from attnlab.options.rules import nearest_key
from attnlab.store.files import parse_yaml, read_file
from attnlab.store.leaves import leaves
from attnlab.store.moved import first_name

APPENDED = ("experiment", "sweep", "card")  # groups that the main config chooses nothing from
CLAIMS = "claim"  # the folder of published claims, whose files hold no settings of a run
LISTS = ("logger", "callbacks")  # groups of which any number is chosen, each option below a name of its own
# Where results go, what is drawn of them, how often they are saved and how they are judged changes no result.
NOT_RESULTS = (
    "experiment_name",
    "paths.*",
    "maps.*",
    "sample.*",
    "baseline.*",  # what it led to is in the sizes
    "tuned",  # and this in optimizer.lr
    "evaluation.*",
    "report.*",
    "plan",
    "assume.*",
    "preregister",
    "overwrite",
    "code",
    "resume_from",
    "init_from",  # the hash of its weights is
    "allow_targets*",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "trainer.progress",
    "trainer.nodes",  # with how many processes a run goes on is in its record
    "trainer.timeout",
)
# Settings that came later, with the value at which a run is the one it was before: there, and where it is not settled
# yet, they are in no identity, and may be left out of a file.
LATER = {f"model.{f.name}": f.default for f in fields(ModelConfig) if f.name not in FIRST}
LATER |= {"trainer.attention_backend": "torch", "trainer.checkpoint_activations": False}
LATER |= {"data.pool": None, "data.min_length": None, "data.test_fraction": 0.0}


def config_dir() -> Path:
    """Where the shipped YAML files are: inside an installed package, or beside src/ in a checkout."""
    packaged = Path(__file__).parents[1] / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def search_folders() -> list[Path]:
    """The folders YAML files are looked for in: ours, and those of the user."""
    folders = [config_dir(), *_searched]
    hydra = sys.modules.get("hydra.core.global_hydra")  # it takes long to import, and where it is not, it searches none
    if hydra is not None and hydra.GlobalHydra.instance().is_initialized():
        path = hydra.GlobalHydra.instance().config_loader().get_search_path().get_path()
        folders += [Path(e.path.removeprefix("file://")) for e in path if e.path and "pkg://" not in e.path]
    return list(dict.fromkeys(folder.absolute() for folder in folders if folder.is_dir()))


_searched: list[Path] = []  # the folders of the innermost `searching`


@contextmanager
def searching(folders: Iterable[Path]) -> Iterator[None]:
    """Inside the block, options are looked for in these folders, too, before Hydra is told of them and after."""
    before = _searched[:]
    _searched[:] = folders
    try:
        yield
    finally:
        _searched[:] = before


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """The folders that were typed behind --config-dir."""
    folders = [word.partition("=")[2] for word in arguments if word.startswith(("--config-dir=", "-cd="))]
    folders += [folder for flag, folder in pairwise(arguments) if flag in ("--config-dir", "-cd")]
    return [Path(folder) for folder in folders]


def groups() -> list[str]:
    """Every group a user can choose from, such as "attention" or "attention/mask"."""
    folders = {p.parent.relative_to(root).as_posix() for root in search_folders() for p in root.glob("**/*.yaml")}
    return sorted(folders - {".", CLAIMS} | set(APPENDED))


def options(group: str) -> list[str]:
    """The names that a group can be set to."""
    return sorted({file.stem for root in search_folders() for file in (root / group).glob("*.yaml")})


def sentence(group: str, name: str, folder: Path | str | None = None) -> str:
    """What a YAML says of itself: its first line, if that is a comment; empty if it is not."""
    folders = [config_dir()] if folder is None else [config_dir(), Path(folder)]
    for file in (root / group / f"{name}.yaml" for root in folders):
        if file.is_file():
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            return first.removeprefix("#").strip() if first.startswith("#") else ""
    return ""


def owner_of(content: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The part of a plain config that holds what stands at a dotted key, and its name there.

    Raises KeyError or TypeError where nothing does.
    """
    *owners, last = key.split(".")
    node = content
    for owner in owners:
        node = node[owner]
    node[last]
    return node, last


def without_watchers(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without loggers, and without callbacks that say `watches: true`: what they do changes no result."""
    rest = {key: value for key, value in config.items() if key != "logger"}
    if isinstance(nodes := rest.pop("callbacks", None), Mapping):
        nodes = {
            n: node for n, node in nodes.items() if not (isinstance(node, Mapping) and node.get("watches") is True)
        }
    return {**rest, **({"callbacks": nodes} if nodes else {})}


def settings_of(config: Mapping[str, Any], *, besides: Sequence[str]) -> dict[str, Any]:
    """The settings that a result depends on, by dotted key; `besides` are patterns of others to leave out."""
    dropped = [*NOT_RESULTS, *besides]
    if config.get("match") is None:  # then neither is a setting, and a run is called as it was before there were any
        dropped += ["match", "match_to"]
    secret = config.get("environment") or {}
    settings = [
        (key, f"{secret[key]} ({hashlib.sha256(str(value).encode()).hexdigest()[:8]})" if key in secret else value)
        for key, value in leaves({k: v for k, v in without_watchers(config).items() if k != "environment"})
        if key not in LATER or value not in (LATER[key], "auto")
    ]
    return {key: stable(key, value) for key, value in settings if not _matches(key, tuple(dropped))}


@cache
def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def one_spelling(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def stable(key: str, value: Any) -> Any:
    """A setting by what it means: a class of attnlab by its name alone, in whatever module it stands.

    No two that a config may name are called alike; those of users are known by their full names.
    """
    ours = key.endswith("_target_") and isinstance(value, str) and value.startswith("attnlab.")
    return first_name(value) if ours else value


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it may be stored: what came from the environment stands there as it was written, ${oc.env:NAME}."""
    content: dict[str, Any] = copy.deepcopy({key: value for key, value in config.items() if key != "environment"})
    for path, text in config.get("environment", {}).items():
        *owners, last = re.split(r"[.\[]", path.replace("]", ""))
        node: Any = content
        for owner in owners:
            node = node[int(owner) if isinstance(node, list) else owner]
        node[int(last) if isinstance(node, list) else last] = text
    return content


def nodes(node: Any, path: str = "", owner: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted key, value, name of the class that it is a setting of) of everything in a config, settings and groups."""
    if path:
        yield path, node, owner
    if isinstance(node, Mapping):
        owner = str(node.get("_target_", owner))
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key), owner)


@cache
def shipped_settings() -> dict[str, Any]:
    """What stands at the keys that every config has: those of the main config, of the model and of the trainer."""
    names = {"model": "model/nano", "trainer": "trainer/cpu", "": "train"}
    read = {k: yaml.safe_load((config_dir() / f"{n}.yaml").read_text(encoding="utf-8")) for k, n in names.items()}
    return {k: v for k, v in (read.pop("") | read).items() if k not in ("defaults", "hydra", "allow_targets")}


@cache
def fixed_keys() -> frozenset[str]:
    """The keys that every config has."""
    return frozenset(path for path, _, _ in nodes(shipped_settings()))


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """What to say of a key that is not there: where it would be, or which one may have been meant."""
    keys, elsewhere = set(keys) - {key}, _offers()

    def meant(near: Sequence[str]) -> str:
        shown = [f"{k!r}" + ("" if k in keys else f" (it comes with {elsewhere[k][0]})") for k in near]
        return f"; did you mean {' or '.join(shown)}?" if shown else ""

    if key in elsewhere:
        first, last = key.partition(".")[0], key.rpartition(".")[2]
        deeper = [k for k in sorted(keys | set(elsewhere)) if k.endswith(f".{last}") and k.count(".") > key.count(".")]
        here = [k for k in deeper if k in keys and k.startswith(f"{first}.")][:3]
        hint = meant(here or [k for k in deeper if k in elsewhere and ".kinds." not in k][:1])
        return f"{key} is not a key of this config: it comes with {' or '.join(elsewhere[key][:4])}{hint}"
    near = nearest_key(key, keys | set(elsewhere))
    hint = meant(near)
    parent = key.rpartition(".")[0]
    siblings = sorted({k.rpartition(".")[2] for k in keys if parent and k.rpartition(".")[0] == parent})
    if not near and (names := [s for s in siblings if not s.startswith("_")]):
        hint = f"; {parent} has {', '.join(names)}"
    return f"{key} is not a key of the config{hint} (see: python train.py --cfg job)"


def _offers() -> dict[str, list[str]]:
    """The keys that options bring along, with the words that choose them: attention.mask.window, attention/mask=window.

    Only what stands in the file of an option itself.
    """
    offers: dict[str, list[str]] = {}
    for root in search_folders():
        for file in sorted(root.glob("*/**/*.yaml")):
            group = file.parent.relative_to(root).as_posix()
            if group in (*APPENDED, CLAIMS):
                continue
            try:
                text = read_file(file).decode()
                content = parse_yaml(text)
            except (OSError, UnicodeDecodeError, yaml.YAMLError):
                continue  # a hint less; whoever chooses the file is told what is wrong with it
            if isinstance(content, dict):
                home = f"{group.replace('/', '.')}."
                above = "" if "@package _global_" in text.partition("\n")[0] else home
                for key, _ in leaves({k: v for k, v in content.items() if k not in ("defaults", "_target_")}):
                    path = f"{above}{key.split('[')[0]}"
                    if path.startswith(home) and not path.endswith("._target_"):
                        offers.setdefault(path, []).append(f"{group}={file.stem}")
    for path, choices in offers.items():  # the option that is called like its key is the plainest way to get it
        choices.sort(key=lambda choice: choice.rpartition("=")[2] != path.rpartition(".")[2])
    return offers


def how_to_choose(path: str) -> str:
    """The words that choose what stands at a key."""
    names, parts = groups(), path.split(".")
    slot = f"attention/{parts[-1]}"
    if parts[:2] == ["attention", "kinds"] and slot in names:
        return f": choose them with {slot}@{path}={' | '.join(options(slot))}"
    if parts[-1] in names:
        return f": choose them with {parts[-1]}={' | '.join(options(parts[-1]))}"
    for i in range(len(parts), 0, -1):
        group = "/".join(parts[:i])
        if group in names:
            return f": choose them with {group}={' | '.join(options(group))}"
    return ""
