"""An option of a class, written once, in the class: name, type, constraint, default and sentence. Imports no torch.

    class Window(Mask):
        window: Count = option(doc="Keys that a query may read, its own included.")

        def setup(self) -> None:
            self.cache_size = self.max_lookback = self.window

A class that is `Configurable` gets the constructor that its options, and those of its bases, describe: it checks the
values, sets them, and calls `setup`. Options are inherited; those that a class settles itself it names in `withdrawn`.
`options_of` reads a class with a plain constructor, too, from its signature. attnlab.options.skeleton lets it read a
class without importing torch.
"""

import functools
import inspect
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin

from attnlab.errors import UsageError, nearest, shown
from attnlab.options.rules import COUNT, FRACTION, NATURAL, NONNEGATIVE, POSITIVE, TEXT, Rule, refusal

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])
Count = Annotated[int, COUNT]
Natural = Annotated[int, NATURAL]
Fraction = Annotated[float, FRACTION]
Positive = Annotated[float, POSITIVE]
NonNegative = Annotated[float, NONNEGATIVE]
Text = Annotated[str, TEXT]
PER_LAYER = ", so that each layer gets one of its own"
REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()


class OptionError(UsageError, TypeError):
    """A value that may not stand at an option; whoever knows where the option stands puts that in front of `key`."""

    def __init__(self, key: str, value: Any, problem: Rule | str, typed: str | None = None) -> None:
        text = f"{key} {problem}" if value is REQUIRED else f"{key} ({shown(value)}) {problem}"
        super().__init__(refusal(key, value, problem, typed) if isinstance(problem, Rule) else text)
        self.key, self.value, self.problem = key, value, problem

    def below(self, key: str) -> "OptionError":
        """The same complaint about an option of what stands at `key`."""
        return OptionError(f"{key}.{self.key}", self.value, self.problem)


@dataclass(frozen=True)
class Option:
    """What one option may hold. `null` says what null stands for; what is `given` is told by the layer's surroundings.

    `short` is the most that a worked example on six tokens leaves of a length. The `type` of a slot is that of a
    factory of what the layer builds of it.
    """

    default: Any = REQUIRED
    doc: str = ""
    null: str = ""
    short: int | None = None
    is_given: bool = False
    is_slot: bool = False
    kw_only: bool = True
    type: Any = Any

    @functools.cached_property
    def rules(self) -> tuple[Rule, ...]:
        """One for each kind of value that may stand here; none where only the class can tell."""
        kinds = _members(self.type)
        optional = self.default is None or NoneType in kinds
        rules = [_rule(kind) for kind in kinds if kind is not NoneType]
        return () if None in rules else tuple(replace(rule, optional=optional) for rule in rules if rule)

    def problem(self, value: Any) -> Rule | str | None:
        """What is wrong with a value; None if nothing is, or if only the class can tell."""
        if self.rules:
            return None if any(rule.accepts(value) for rule in self.rules) else self.rules[0]
        if value is None and (self.default is None or {NoneType, Any} & {*_members(self.type)}):
            return None
        return _misfit(value, self.type)

    @property
    def allowed(self) -> str:
        """What may stand here, in words; empty if only the class can tell."""
        return " or ".join(map(str, self.rules)) or self.is_slot * (
            "a class" if get_origin(self.type) is Callable else "classes by name"
        )

    def __str__(self) -> str:
        default = getattr(self.default, "__name__", shown(self.default))
        parts = [self.allowed, "required" if self.default is REQUIRED else f"default {default}"]
        return f"{', '.join(filter(None, parts))}{f' ({self.null})' if self.null else ''}. {self.doc}".strip()


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _rule(kind: Any) -> Rule | None:
    if get_origin(kind) is Annotated:
        rules = [note for note in get_args(kind)[1:] if isinstance(note, Rule)]
        return rules[0] if rules else _rule(get_args(kind)[0])
    if get_origin(kind) is Literal and all(isinstance(choice, str) for choice in get_args(kind)):
        return Rule(str, choices=get_args(kind))
    return Rule(kind) if kind in (int, float, bool, str) else None


def _misfit(value: Any, annotation: Any) -> str | None:
    """Why a value can be neither of what an annotation names, where that can be seen from the outside."""
    problems: list[str | None] = []
    for kind in _members(annotation):
        origin, inner = get_origin(kind) or kind, get_args(kind)
        settings = isinstance(value, Mapping)
        if origin is Callable and not callable(value) and not (settings and "_target_" in value):
            problems.append(f"must hold settings with a _target_{PER_LAYER}")
        elif origin in (Mapping, dict) and not settings:
            problems.append("must hold settings by name")
        elif origin in (Mapping, dict) and inner:
            each = ((name, _misfit(one, inner[1])) for name, one in value.items())
            problems += [next((f"at {name!r} {problem}" for name, problem in each if problem), None)]
        else:
            return None
    return None if None in problems else problems[0]


# The words of a declaration. `default=` is spelled, None included: type checkers look for that keyword.
def option(
    *, default: Any = REQUIRED, doc: str = "", null: str = "", short: int | None = None, kw_only: bool = True
) -> Any:
    """A number, a text or a flag that a config may set."""
    return Option(default, doc, null, short, kw_only=kw_only)


def slot(*, default: Any = REQUIRED, doc: str = "") -> Any:
    """A class that a config may choose; annotated with what the layer builds of it, in `setup`, by `self.build`."""
    return Option(default, doc, is_slot=True)


def given(*, default: Any = REQUIRED, doc: str = "", null: str = "", kw_only: bool = True) -> Any:
    """What the surroundings of a layer tell it, such as the width of the model: no option of a config."""
    return Option(default, doc, null, is_given=True, kw_only=kw_only)


def part(kind: Callable[..., T], **settings: Any) -> T:
    """A class and its settings for a slot; typed as what is built of it, as `dataclasses.field` is."""
    return functools.partial(kind, **settings)  # type: ignore[return-value]


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option, slot, given))
class Configurable:
    """Gives a class the constructor that its options, and those of its bases, describe.

    A subclass may write a constructor of its own, which calls this one; it then declares no options.
    """

    neutral: ClassVar[bool] = False  # True of the option of a slot that changes nothing, which is not worth a line
    withdrawn: ClassVar[set[str]] = set()  # inherited options that nobody may set: `setup` does, or nothing
    _declared: ClassVar[dict[str, Option]] = {}
    _slots: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        types = inspect.get_annotations(cls, eval_str=True) if any(_own(cls)) else {}
        cls._declared = {name: _typed(o, types.get(name, Any)) for name, o in _own(cls)}
        for name in cls._declared:
            delattr(cls, name)  # left on the class, a default would hide a submodule of that name
        base = next((c for c in cls.__mro__ if "_declared" in vars(c) and "__init__" in vars(c)), None)
        if base is None or hasattr(base.__init__, "options"):  # type: ignore[misc]
            cls.__init__ = _constructor(cls)  # type: ignore[method-assign]
        elif cls._declared:
            raise TypeError(f"{cls.__name__} declares options, but {base.__name__} writes its constructor itself")

    def setup(self) -> None:
        """Build the layer. All options are set before the first line runs; a slot is built by `self.build`."""

    def build(self, name: str, **sizes: Any) -> Any:
        """What a slot holds, built for these sizes: one object, or one for each name of a mapping."""
        try:
            make = self._slots[name]
            return {n: m(**sizes) for n, m in make.items()} if isinstance(make, Mapping) else make(**sizes)
        except OptionError as error:
            raise error.below(name) from error


def is_abstract(cls: Any) -> bool:
    """Whether a class is only there for its subclasses: it says so by ABC among its bases, or lacks a method."""
    return ABC in getattr(cls, "__bases__", ()) or inspect.isabstract(cls)


def _own(cls: type) -> list[tuple[str, Option]]:
    return [(name, o) for name, o in vars(cls).items() if isinstance(o, Option)]


def _typed(o: Option, annotation: Any) -> Option:
    """An option with its type, which for a slot is that of a factory, or of factories by name."""
    if not o.is_slot:
        return replace(o, type=annotation)
    if get_origin(annotation) in (dict, Mapping):
        return replace(o, type=Mapping[str, Callable[..., get_args(annotation)[1]]])  # type: ignore[misc]
    return replace(o, type=Callable[..., annotation])


def _constructor(cls: type) -> Callable[..., None]:
    every: dict[str, Option] = {}
    withdrawn: set[str] = set()
    for base in reversed(cls.__mro__):
        every |= vars(base).get("_declared", {})
        withdrawn = (withdrawn - {*vars(base).get("_declared", {})}) | {*vars(base).get("withdrawn", ())}
    if strange := withdrawn - {*every}:
        raise TypeError(f"{cls.__name__} withdraws {', '.join(sorted(strange))}, which it does not inherit")
    taken = {name: o for name, o in sorted(every.items(), key=lambda item: item[1].kw_only) if name not in withdrawn}
    slots = [name for name, o in every.items() if o.is_slot]
    in_order = [name for name, o in taken.items() if not o.kw_only]

    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        if is_abstract(type(self)):
            raise TypeError(f"{type(self).__name__} is abstract: name one of its subclasses")
        if len(args) > len(in_order):
            raise TypeError(f"{type(self).__name__} takes by position only {', '.join(in_order) or 'nothing'}")
        values = dict(zip(in_order, args, strict=False)) | settings
        check(taken, values, type(self).__name__)
        if missing := [name for name, o in taken.items() if o.default is REQUIRED and name not in values]:
            allowed = taken[missing[0]].allowed or "it"
            raise OptionError(missing[0], REQUIRED, f"is missing: {type(self).__name__} needs {allowed}")
        super(Configurable, self).__init__()
        values = {name: None if o.default is REQUIRED else o.default for name, o in every.items()} | values
        self.__dict__["_slots"] = {name: values.pop(name) for name in slots}
        for name, value in values.items():
            setattr(self, name, value)
        self.setup()
        del self.__dict__["_slots"]  # factories are no state: nobody copies, compiles or pickles them

    kind = inspect.Parameter
    parameters = [
        kind(
            name,
            kind.KEYWORD_ONLY if o.kw_only else kind.POSITIONAL_OR_KEYWORD,
            default=kind.empty if o.default is REQUIRED else o.default,
        )
        for name, o in taken.items()
    ]
    __init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [kind("self", kind.POSITIONAL_OR_KEYWORD), *parameters]
    )
    __init__.__doc__ = "\n".join(f"{name}: {o}" for name, o in taken.items())
    __init__.options = taken  # type: ignore[attr-defined]
    return __init__


def check(options: Mapping[str, Option], values: Mapping[str, Any], owner: str) -> None:
    """Refuse a name that is no option of `owner`, and a value that may not stand at one."""
    for name, value in values.items():
        if name not in options:
            raise not_an_option(options, name, value, owner)
        if (problem := options[name].problem(value)) is not None:
            raise OptionError(name, value, problem)


def not_an_option(options: Mapping[str, Option], name: str, value: Any, owner: str) -> OptionError:
    """The complaint about a name that `owner` has no option for."""
    return OptionError(name, value, f"is not an option: {owner} has none called {name!r}{nearest(name, options)}")


def settable(options: Mapping[str, Option]) -> dict[str, Option]:
    """The options that a config may set; the others are told by what surrounds a layer."""
    return {name: o for name, o in options.items() if not o.is_given}


def checked(constructor: F) -> F:
    """A plain constructor behind a look at its arguments, by their annotations."""
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        values = dict(signature.bind(self, *args, **settings).arguments)
        check(options_of(type(self)) or {}, {n: v for n, v in values.items() if n != "self"}, type(self).__name__)
        constructor(self, *args, **settings)

    return __init__  # type: ignore[return-value]


def options_of(target: Any) -> dict[str, Option] | None:
    """The options of a class or function by name: declared, or read off a plain signature; None if it takes anything.

    A constructor with **settings hands them on to the next one, and an argument without an annotation is what the base
    says of one by that name.
    """
    if not (inspect.isclass(target) or inspect.isfunction(target)):
        return None
    bases = target.__mro__ if inspect.isclass(target) else ()
    options: dict[str, Option] = {}
    is_open = False
    for make in [vars(c)["__init__"] for c in bases if "__init__" in vars(c)] or [target]:
        more = getattr(make, "options", None) or _of_signature(make, is_method=inspect.isclass(target))
        if more is None or (is_open and not more):
            return None
        for name, o in more.items():
            own = options.setdefault(name, o)
            options[name] = replace(own, type=o.type) if own.type is Any else own
        is_open = options.pop("**", None) is not None
        if not is_open:
            return options
    return None


def _of_signature(make: Any, *, is_method: bool) -> dict[str, Option] | None:
    """Options by argument, "**" among them if it takes more; None for the constructor of a class that tells nothing."""
    if not inspect.isfunction(make):
        return {} if make is object.__init__ else None
    if (make.__module__ or "").startswith("torch."):
        return {}  # nn.Module takes none
    try:
        signature = inspect.signature(make, eval_str=True)
    except (NameError, TypeError, ValueError, AttributeError, SyntaxError):  # which only a type checker understands
        signature = inspect.signature(make)
    options: dict[str, Option] = {}
    for p in list(signature.parameters.values())[int(is_method) :]:
        if p.kind is p.VAR_KEYWORD:
            options["**"] = Option()
        elif p.kind not in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY):
            is_annotated = p.annotation is not p.empty and not isinstance(p.annotation, str)
            default = REQUIRED if p.default is p.empty else p.default
            options[p.name] = Option(default, type=p.annotation if is_annotated else Any)
    return options
