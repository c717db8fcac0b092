"""From a checked config to objects: the one place where a `_target_` becomes a class."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import torch

from attnlab.attention.base import AttentionFactory
from attnlab.config import allowed_packages, check_targets
from attnlab.errors import UsageError
from attnlab.model import GPT
from attnlab.position import Embedding
from attnlab.rules import Rule, nearest, shown

Config = Mapping[str, Any]  # a composed config as plain dicts, lists and numbers, after `config.check`
KEYWORDS = ("_target_", "_partial_")
FUNCTIONS = "attnlab.attention."  # where a `_target_` may name a function; elsewhere in attnlab only classes


class Factory:
    """A class and its settings, called once per layer with what depends on the layer: what `_partial_` gives.

    `key` is where the settings stand in the config, for error messages.
    """

    def __init__(self, target: Callable[..., Any], settings: Mapping[str, Any], key: str) -> None:
        self.target, self.settings, self.key = target, dict(settings), key

    def __repr__(self) -> str:
        return getattr(self.target, "__name__", str(self.target))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.target(*args, **self.settings, **kwargs)
        except UsageError as error:
            name = str(error).partition(" ")[0]
            if name not in self.settings or name == "n_heads":  # the heads are model.n_heads, as a rule
                raise
            raise UsageError(f"{self.key}.{error}") from error
        except ValueError as error:
            raise UsageError(f"{self.key}: {_one_line(error)}") from error
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise UsageError(f"{self.key}: {_one_line(error)}") from error  # one too many, or one that is missing


def made(config: Config, group: str) -> Any:
    """What a group of the config describes: an object, or a factory if it says `_partial_`."""
    here = str(Path.cwd())
    if config.get("allow_targets") and here not in sys.path:
        sys.path.append(here)  # a package that the user allows may simply lie in the current folder
    node: Any = config
    for part in group.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise UsageError(f"{group} is missing in the config")
        node = node[part]
    check_targets({group: node, "allow_targets": config.get("allow_targets", [])})
    return _made(node, group, allowed_packages(config))


def _made(node: Any, key: str, allowed: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_made(value, f"{key}[{i}]", allowed) for i, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    settings = {name: _made(v, f"{key}.{name}", allowed) for name, v in node.items() if name not in KEYWORDS}
    if "_target_" not in node:
        return settings
    target = _named(node["_target_"], f"{key}._target_", allowed)
    _check_settings(target, settings, key)
    factory = Factory(target, settings, key)
    return factory if node.get("_partial_", False) else factory()


def _named(name: str, key: str, allowed: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function with this name, if it is defined in a package that may be used."""
    place, _, last = name.rpartition(".")
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if not f"{place}.".startswith(f"{error.name}."):
            raise UsageError(f"{key} ({name}) needs {error.name}, which is not installed") from error
        hint = "" if place.startswith("attnlab") else ": install it, or start in the folder that holds it"
        raise UsageError(f"{key} ({name}) does not exist: there is no module {error.name}{hint}") from error
    except Exception as error:
        raise UsageError(f"{key} ({name}) cannot be imported: {_one_line(error)}") from error
    found = vars(module).get(last)
    here = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == place]
    if found is None:
        raise UsageError(f"{key} ({name}) does not exist in {place}{nearest(last, here)}")
    home = str(getattr(found, "__module__", None))
    is_function = inspect.isfunction(found) and (not home.startswith("attnlab.") or home.startswith(FUNCTIONS))
    if not (inspect.isclass(found) or is_function) or home.split(".")[0] not in allowed:
        raise UsageError(f"{key} ({name}) is not a class of {' or '.join(allowed)}{nearest(last, here)}")
    if inspect.isabstract(found):
        raise UsageError(f"{key} ({name}) is abstract: name one of its subclasses")
    return found


def _check_settings(target: Callable[..., Any], settings: Mapping[str, Any], key: str) -> None:
    """Refuse what the class takes no argument for, and what its annotations rule out."""
    try:
        parameters = inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, ValueError):
        return  # annotations that only a type checker understands
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name, value in settings.items():
        if name not in parameters:
            kind = getattr(target, "__name__", str(target))
            raise UsageError(
                f"{key}.{name} ({shown(value)}) is not an option: {kind} has none called {name!r}"
                f"{nearest(name, parameters)}"
            )
        if complaint := _misfit(f"{key}.{name}", value, parameters[name].annotation):
            raise UsageError(complaint)


def _misfit(key: str, value: Any, annotation: Any) -> str:
    """Why a setting cannot be what its annotation says; nothing if it can, or if nobody knows."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        complaints = [_misfit(key, value, one) for one in inner]
        return "" if "" in complaints else complaints[0]
    if kind is NoneType:
        return "" if value is None else f"{key} ({shown(value)}) must be null"
    if kind in (int, float, bool, str):
        return "" if Rule(kind).accepts(value) else f"{key} ({shown(value)}) must be {Rule(kind)}"
    if kind is Literal:
        return "" if value in inner else f"{key} ({shown(value)}) must be {' | '.join(map(shown, inner))}"
    if kind is Callable and not isinstance(value, Factory):
        plain = value is None or isinstance(value, str | int | float | list | dict)
        what = f"({shown(value)}) must hold settings with a _target_" if plain else "needs _partial_: true"
        return f"{key} {what}, so that each layer gets one of its own"
    if kind is Mapping:
        if not isinstance(value, Mapping):
            return f"{key} ({shown(value)}) must hold settings by name"
        complaints = [_misfit(f"{key}.{name}", v, inner[1]) for name, v in value.items()] if inner else []
        return next((complaint for complaint in complaints if complaint), "")
    return ""


def attention_factory(config: Config) -> AttentionFactory:
    """The factory of the attention, called once per layer as factory(d_model, layer=, n_layers=, context=)."""
    factory: AttentionFactory = made(config, "attention")
    return factory


def embedding_factory(config: Config) -> Callable[..., Embedding]:
    """The factory of what a position adds to the token embeddings."""
    factory: Callable[..., Embedding] = made(config, "position.embed")
    return factory


def build_model(config: Config, vocab_size: int) -> GPT:
    """The model of a config, with its initial values; on the meta device where that is torch's default."""
    sizes = {key: value for key, value in config["model"].items() if key != "n_heads"}  # n_heads: the attention's
    try:
        return GPT(
            vocab_size=vocab_size,
            attention=attention_factory(config),
            embed=embedding_factory(config),
            seed=made(config, "streams.init"),
            **sizes,
        )
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise UsageError(f"model: {_one_line(error)}") from error  # one that it does not take, or one that is missing


def check_construction(config: Config) -> GPT:
    """Build everything once without numbers, so that what only a constructor can refuse is refused early."""
    with torch.device("meta"):
        return build_model(config, vocab_size=2)


def _one_line(error: BaseException) -> str:
    """What was wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
