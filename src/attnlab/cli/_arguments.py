"""What a command takes, read from the signature of its function.

The module attnlab.cli.NAME holds a function NAME, whose docstring begins with what it does; both are called NAME_ where
Python has a word of that name. A parameter is a key: its annotation says what may stand there and, in the text of
`Annotated`, what it means; without a default it is required. `*overrides` takes every other setting.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from attnlab.errors import UsageError, nearest, shown
from attnlab.options.rules import Rule, refusal
from attnlab.store.files import expand_path

MODULES = {path.stem.rstrip("_"): path.stem for path in Path(__file__).parent.glob("[!_]*.py")}  # import is no name
COMMANDS = tuple(sorted(MODULES))
REQUIRED = inspect.Parameter.empty
OVERRIDES = "overrides"


class Range(NamedTuple):
    """How large a number may be."""

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None


ConfigDir = Annotated[Path | None, "a folder with YAML files of yours"]
VariantPackages = Annotated[tuple[str, ...], "your own packages whose classes they name"]
Run = Annotated[Path, "the folder of a run"]
RunPackages = Annotated[tuple[str, ...], "your own packages whose classes the run uses"]
RunCode = Annotated[Literal["same", "any"], "any: read a run that other code has trained, all the same"]
Limits = Annotated[bool, "false: read a folder of any size, however long it takes; see docs/security.md"]


class Argument(NamedTuple):
    """One key of a command: what it may hold, what it becomes, what it is if left out, and what it means."""

    rule: Rule
    kind: Any  # Path | tuple | a type that a Rule knows
    default: Any
    meaning: str


class Command(NamedTuple):
    """What `attnlab NAME` does. `others` says what further settings may be."""

    name: str
    function: Callable[..., None]
    arguments: dict[str, Argument]
    others: str

    @property
    def about(self) -> str:
        """What it does, in a sentence."""
        return (self.function.__doc__ or "").split("\n")[0].rstrip(".")


@cache
def command(name: str) -> Command:
    """The command of this name; refuses what is none."""
    if name not in COMMANDS:
        raise UsageError(
            f"attnlab {name} is not a command{nearest(name, COMMANDS)} (choose from: {', '.join(COMMANDS)})"
        )
    function = getattr(import_module(f"attnlab.cli.{MODULES[name]}"), MODULES[name])
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    arguments = {p.name: _argument(hints[p.name], p.default) for p in parameters if p.name != OVERRIDES}
    others = get_args(hints[OVERRIDES])[1] if OVERRIDES in hints else ""
    return Command(name, function, arguments, others)


def _argument(annotation: Any, default: Any) -> Argument:
    kind, *notes = get_args(annotation)
    bounds = next((note for note in notes if isinstance(note, Range)), Range())
    meaning = next(note for note in notes if isinstance(note, str))
    optional = get_origin(kind) in (Union, UnionType)
    if optional:
        (kind,) = (each for each in get_args(kind) if each is not type(None))
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    kind = str if choices else get_origin(kind) or kind
    if kind in (str, Path, tuple) and default not in ("", ()) and not choices:
        bounds = bounds._replace(least=1)
    held = str if kind in (Path, tuple) else kind
    return Argument(Rule(held, **bounds._asdict(), choices=choices, optional=optional), kind, default, meaning)


def run(name: str, argv: Sequence[str]) -> None:
    """Run a command with the arguments that were typed."""
    arguments = parsed(name, argv)
    command(name).function(*arguments.pop(OVERRIDES, ()), **arguments)


def parsed(name: str, argv: Sequence[str]) -> dict[str, Any]:
    """The arguments of a command from texts such as top_k=5; refuses unknown keys and values out of range."""
    _, _, arguments, others = command(name)
    typed: dict[str, str] = {}
    overrides: dict[str, str] = {}
    for token in argv:
        key, equals, text = token.partition("=")
        if others and equals and key not in arguments and not key.startswith("-"):
            if overrides.setdefault(key.lstrip("+"), token) != token:
                raise _twice(key, overrides[key.lstrip("+")], token)
            continue
        if not equals and not token.startswith("-"):
            raise UsageError(
                f"{token!r} has no key in attnlab {name}: write key=value, such as {next(iter(arguments))}={token} "
                f"(keys: {', '.join(arguments)})"
            )
        if not equals or key not in arguments:
            raise UsageError(
                f"{token!r} is not an argument of attnlab {name}{nearest(key, arguments)} (write key=value; "
                f"keys: {', '.join(arguments)})"
            )
        if key in typed:
            raise _twice(key, typed[key], text)
        typed[key] = text
    values = {key: _value(key, text, arguments[key]) for key, text in typed.items()}
    missing = [key for key, argument in arguments.items() if argument.default is REQUIRED and key not in typed]
    if missing:
        raise UsageError(f"attnlab {name} needs {', '.join(f'{key}=...' for key in missing)}")
    chosen = {key: values.get(key, argument.default) for key, argument in arguments.items()}
    return chosen | ({OVERRIDES: tuple(overrides.values())} if others else {})


def _twice(key: str, one: str, other: str) -> UsageError:
    return UsageError(f"{key} is given twice, as {one} and {other}: leave one of them out")


def _value(key: str, text: str, argument: Argument) -> Any:
    rule, value = argument.rule, text
    if rule.optional and text in ("null", "none", ""):
        return None
    if rule.kind is bool and text in ("true", "false"):
        return text == "true"
    number: Any = None
    if rule.kind in (int, float):
        with suppress(ValueError):
            number = rule.kind(text)
    if not rule.accepts(value if number is None else number):
        raise UsageError(refusal(key, value if number is None else number, rule))
    if argument.kind is Path:
        return expand_path(value, key=key)
    if argument.kind is tuple:
        return tuple(value.strip("[]").replace(",", " ").split())
    return value if number is None else number


def usage(name: str | None = None) -> str:
    """What can be typed."""
    if name is None:
        lines = [f"  attnlab {each:12s} {command(each).about}" for each in COMMANDS]
        return "\n".join(
            ["usage: attnlab COMMAND key=value ...", "", *lines, "", "attnlab COMMAND --help shows its keys; --version"]
        )
    _, _, arguments, others = described = command(name)
    lines = [f"usage: attnlab {name} key=value ...   ({described.about})", ""]
    for key, (rule, _, default, meaning) in arguments.items():
        standing = "required" if default is REQUIRED else f"default: {_shown(default)}"
        lines.append(f"  {key:14s} {meaning} ({rule}; {standing})")
    return "\n".join([*lines, *([f"  {'KEY=VALUE':14s} {others}"] if others else [])])


def _shown(default: Any) -> str:
    return (",".join(default) if isinstance(default, tuple) else shown(default)) or "none"
