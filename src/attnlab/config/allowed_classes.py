"""Which classes a config may name: nothing else of what it says is imported."""

import re
from collections.abc import Mapping
from typing import Any

from attnlab.config.keys import LISTS
from attnlab.errors import UsageError, shown
from attnlab.store import moved
from attnlab.store.leaves import leaves

HOMES = {  # the modules of attnlab whose classes may stand below a group
    "attention": ("attnlab.attention.",),
    "position": ("attnlab.attention.",),
    "data": ("attnlab.data.",),
    "tokenizer": ("attnlab.data.",),
    "optimizer": ("attnlab.training.optimizer.",),
    "logger": ("attnlab.training.recorders.",),
    "callbacks": (),
}
DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def allowed_packages(names: Any) -> tuple[str, ...]:
    """The packages whose classes a config may name, from what stands at allow_targets."""
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        parts = names.replace(",", " ").split() if isinstance(names, str) else []
        sound = [word for word in parts if word.isidentifier()]
        raise UsageError(
            f"allow_targets ({shown(names)}) must be a list of names of packages: "
            f"allow_targets=[{','.join(sound) or 'mypackage'}]"
        )
    return ("attnlab", *names)


def allowed_below(group: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    """The packages whose classes may stand below a group: those of Lightning, too, below logger and callbacks."""
    return (*allowed, "lightning") if group in LISTS else allowed


def check_targets(plain: Mapping[str, Any]) -> None:
    """A config may only name classes of attnlab and of the packages in allow_targets: nothing else is imported.

    Of attnlab, only modules whose classes are made from settings and do nothing else; whether a class is what its slot
    is for is known where it is built.
    """
    allowed = allowed_packages(plain.get("allow_targets", []))
    for path, value in leaves(dict(plain)):
        keywords = [part for part in re.split(r"[.\[]", path) if re.fullmatch("_.*_", part)]
        if not keywords:
            continue
        if not path.endswith(keywords[0]) or keywords[0] not in ("_target_", "_partial_"):
            raise UsageError(f"{path} ({shown(value)}) is not a setting: {keywords[0]} means nothing here")
        if keywords[0] == "_partial_":
            continue
        if not isinstance(value, str) or not DOTTED_NAME.fullmatch(value):
            raise UsageError(f"{path} ({shown(value)}) must be the name of a class: package.module.Class")
        if (now := moved.current(value)) != value:
            raise UsageError(f"{path} ({value}) has moved: write {now}")
        package, owner = value.split(".")[0], path.removeprefix("baseline.").partition(".")[0]
        if package not in allowed_below(owner, allowed):
            raise UsageError(
                f"{path} ({value}) is not allowed: a config may only name classes of {', '.join(allowed)}; "
                f"if you trust {package!r}, add allow_targets=[{','.join([*allowed[1:], package])}]"
            )
        if owner not in HOMES:
            raise UsageError(f"{path} ({value}) is not allowed: only {', '.join(HOMES)} are made of classes")
        if package == "attnlab" and not value.startswith(HOMES[owner]):
            raise UsageError(
                f"{path} ({value}) is not allowed: a setting of {owner} names classes of "
                f"{' and '.join(home.rstrip('.') for home in HOMES[owner]) or 'other packages'}"
            )
