"""From a checked config to objects: the one place where a `_target_` becomes a class."""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import torch

from attnlab.attention.base import Attention, AttentionFactory
from attnlab.attention.embedding import Embedding
from attnlab.attention.position import Position
from attnlab.attention.softmax import SoftmaxAttention
from attnlab.config.allowed_classes import allowed_below, allowed_packages, check_targets
from attnlab.config.code import note_sources
from attnlab.config.run_config import RunConfig
from attnlab.data.corpus import Source
from attnlab.data.task import Task
from attnlab.data.vocabularies import Vocabulary
from attnlab.errors import UsageError, nearest, shown
from attnlab.model import GPT
from attnlab.options import PER_LAYER, OptionError, check, is_abstract, options_of, settable

KEYWORDS = ("_target_", "_partial_")
note_sources()  # of what the imports above have brought
FUNCTIONS = "attnlab.attention."  # where a `_target_` may name a function; elsewhere in attnlab only classes
SLOTS: dict[str, Any] = {  # what each group of the config is; a slot below it is what its owner's constructor says
    "attention": Callable[..., Attention],
    "position.embed": Callable[..., Embedding],
    "position.inside": Callable[..., Position],
    "data": Source | Task,
    "tokenizer": Vocabulary,
}


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
        except OptionError as error:
            raise UsageError(str(error.below(self.key))) from error
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{self.key}: {_one_line(error)}") from error
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise UsageError(f"{self.key}: {_one_line(error)}") from error  # one too many, or one that is missing


class _Once(Factory):
    """A class and its settings that are to become one object: what a `_target_` without `_partial_` gives."""


def instantiate(config: RunConfig, group: str, kind: Any = None) -> Any:
    """What a group of the config describes: an object, or a factory if it says `_partial_`.

    `kind` is what it must be, of groups that are not in SLOTS. Every class is found and held against the slot that it
    stands in before any of them is constructed.
    """
    here = str(Path.cwd())
    if config.allow_targets and here not in sys.path:
        sys.path.append(here)  # a package that the user allows may simply lie in the current folder
    node: Any = attrgetter(group)(config)
    if not node:
        raise UsageError(f"{group} is missing in the config")
    check_targets({group: node, "allow_targets": config.allow_targets})
    kind = SLOTS.get(group, kind)
    if kind is not None and not (isinstance(node, Mapping) and "_target_" in node):
        raise UsageError(f"{group} ({shown(node)}) must hold settings with a _target_")
    return construct(_plan(node, group, Any if kind is None else kind, allowed_packages(config.allow_targets)))


def plan_group(config: RunConfig, group: str, kind: Any) -> dict[str, Factory]:
    """What the options of logger= or callbacks= describe, by name; each class is found and judged, none constructed."""
    nodes = attrgetter(group)(config)
    check_targets({group: nodes, "allow_targets": config.allow_targets})
    allowed = allowed_below(group, allowed_packages(config.allow_targets))
    settings = {name: {k: v for k, v in node.items() if k != "watches"} for name, node in nodes.items()}
    return {name: _plan(node, f"{group}.{name}", kind, allowed) for name, node in settings.items()}


def _plan(node: Any, key: str, annotation: Any, allowed: tuple[str, ...]) -> Any:
    """The settings with a Factory for each `_target_` that fits its annotation; nothing is constructed."""
    if isinstance(node, list):
        return [_plan(value, f"{key}[{i}]", _element(annotation), allowed) for i, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {name: _plan(v, f"{key}.{name}", _element(annotation), allowed) for name, v in node.items()}
    target, partial = _find_target(node["_target_"], f"{key}._target_", allowed), node.get("_partial_", False)
    if not isinstance(partial, bool):
        raise UsageError(f"{key}._partial_ ({shown(partial)}) must be true or false")
    _check_slot(target, partial, annotation, key, node["_target_"])
    options = options_of(target)
    settings = {
        name: _plan(value, f"{key}.{name}", options[name].type if options and name in options else Any, allowed)
        for name, value in node.items()
        if name not in KEYWORDS
    }
    if options is not None:
        try:
            check(settable(options), settings, node["_target_"].rpartition(".")[2])
        except OptionError as error:
            raise UsageError(str(error.below(key))) from error
    return (Factory if partial else _Once)(target, settings, key)


def construct(plan: Any) -> Any:
    """What was planned, with the objects that are built at once."""
    if isinstance(plan, list):
        return [construct(value) for value in plan]
    if isinstance(plan, dict):
        return {name: construct(value) for name, value in plan.items()}
    if isinstance(plan, Factory):
        plan.settings = {name: construct(value) for name, value in plan.settings.items()}
    return plan() if isinstance(plan, _Once) else plan


def _element(annotation: Any) -> Any:
    """The annotation of what a list or a mapping holds; None where the annotation is of neither."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return next((element for one in inner if (element := _element(one)) is not None), None)
    if inspect.isclass(kind) and issubclass(kind, Mapping | Sequence) and kind is not str:
        return inner[-1 if issubclass(kind, Mapping) else 0] if inner else Any
    return Any if annotation is Any else None


def _bases(annotation: Any) -> list[tuple[Any, bool]]:
    """(class, whether a factory of it is meant) for everything that an annotation lets a `_target_` be."""
    kind, inner = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return [base for one in inner for base in _bases(one)]
    if kind is Callable:
        return [(base, True) for base, _ in _bases(inner[1])] if inner else [(object, True)]
    if kind is Any:
        return [(object, False), (object, True)]
    plain = (int, float, bool, str, NoneType)
    return [(kind, False)] if inspect.isclass(kind) and kind not in plain and not inner else []


def _check_slot(target: Callable[..., Any], partial: bool, annotation: Any, key: str, name: str) -> None:
    """Refuse a class, or a function by what it says it returns, that is not what stands in this slot."""
    gives = target if inspect.isclass(target) else _return_type(target)
    bases = _bases(annotation)
    fitting = [once for base, once in bases if base is object or (inspect.isclass(gives) and issubclass(gives, base))]
    if partial in fitting:
        return
    if fitting:
        raise UsageError(f"{key} needs _partial_: {shown(not partial)}" + PER_LAYER * (not partial))
    names = " or ".join(dict.fromkeys(base.__name__ for base, _ in bases))
    must = f"must name a subclass of {names}, or a function that says it returns one" if names else "names a class"
    raise UsageError(f"{key}._target_ ({name}) {must}" + ("" if names else f", but {key} takes none"))


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return inspect.signature(function, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError, AttributeError, SyntaxError):
        return None


def _find_target(name: str, key: str, allowed: tuple[str, ...]) -> Callable[..., Any]:
    """The class or function with this name, if it is defined in a package that may be used."""
    module_name, _, last = name.rpartition(".")
    is_new = module_name not in sys.modules
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(f"{key} ({name}) needs {error.name}, which is not installed") from error
        hint = "" if module_name.startswith("attnlab") else ": install it, or start in the folder that holds it"
        raise UsageError(f"{key} ({name}) does not exist: there is no module {error.name}{hint}") from error
    except Exception as error:
        raise UsageError(f"{key} ({name}) cannot be imported: {_one_line(error)}") from error
    if is_new:
        note_sources(allowed)
    target = vars(module).get(last)
    here = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name]
    if target is None:
        raise UsageError(f"{key} ({name}) does not exist in {module_name}{nearest(last, here)}")
    home = str(getattr(target, "__module__", None))
    is_function = inspect.isfunction(target) and (not home.startswith("attnlab.") or home.startswith(FUNCTIONS))
    if not (inspect.isclass(target) or is_function) or home.split(".")[0] not in allowed:
        raise UsageError(f"{key} ({name}) is not a class of {' or '.join(allowed)}{nearest(last, here)}")
    if is_abstract(target):
        raise UsageError(f"{key} ({name}) is abstract: name one of its subclasses")
    return target


def attention_factory(config: RunConfig) -> AttentionFactory:
    """The factory of the attention, called once per layer as factory(d_model, layer=, n_layers=, context=)."""
    factory: AttentionFactory = instantiate(config, "attention")
    return factory


def embedding_factory(config: RunConfig) -> Callable[..., Embedding]:
    """The factory of what a position adds to the token embeddings."""
    factory: Callable[..., Embedding] = instantiate(config, "position.embed")
    return factory


def build_model(config: RunConfig, vocab_size: int) -> GPT:
    """The model of a config, with its initial values; on the meta device where that is torch's default."""
    model = GPT(
        config.model,
        vocab_size=vocab_size,
        attention=attention_factory(config),
        embed=embedding_factory(config),
        seed=config.streams.init,
    )
    model.checkpoint_activations = config.trainer.checkpoint_activations
    if config.trainer.attention_dtype == "bf16":
        for module in model.modules():
            if isinstance(module, SoftmaxAttention):
                module.kernel_dtype = torch.bfloat16
    return model


def check_construction(config: RunConfig, vocab_size: int = 2) -> GPT:
    """Build everything once without numbers, so that what only a constructor can refuse is refused early."""
    with torch.device("meta"):
        return build_model(config, vocab_size)


def _one_line(error: BaseException) -> str:
    """What was wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
