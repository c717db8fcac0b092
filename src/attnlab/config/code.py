"""The code that a run executes: which modules that is, a hash of each, and the repository that each package lies in.

The import statements of the modules that hold the classes of a config are followed, those within functions too, to
every module of attnlab, of a package that the user allows, and of whatever else lies outside the installed libraries.
Where a package imports by a computed name, all its modules count. Not seen: files that are no modules, such as weights
that a package reads, and what is executed without being imported.

What counts is the source as it was when the module was imported, not as it is on disk by now.
"""

import ast
import hashlib
import importlib.metadata
import json
import marshal
import os
import re
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import MAGIC_NUMBER, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.config.keys import without_watchers
from attnlab.errors import UsageError
from attnlab.store.leaves import leaves

# What every run uses besides the classes of its config.
STEP = ("attnlab.model", "attnlab.training.module", "attnlab.data.datamodule", "attnlab.data.load")
NOT_FOLLOWED = ("attnlab",)  # its __init__ offers `load`, which no run uses
ALL = ":all"  # behind the name of a package: all its modules
LIBRARIES = tuple({f"{Path(path).resolve()}{os.sep}" for path in sysconfig.get_paths().values()})
INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
NO_MATTER = ("ctx", "kind", "type_comment")  # fields of a syntax tree that follow from others, or do nothing
HANDED_OVER = re.compile(r"callbacks\.[^.]+\.class")  # the class of a callback that stands in no YAML file
MOST_NAMED = 4
BY_TIME, NEVER_CHECKED = 0, 1  # kinds of compiled files: how Python sees that one is of its source


class Code(NamedTuple):
    """The modules of a run: name -> SHA-256 of its source without comments, docstrings and layout."""

    modules: dict[str, str]

    @property
    def hash(self) -> str:
        """Equal where every module is."""
        return hashlib.sha256(json.dumps(self.modules, sort_keys=True).encode()).hexdigest()

    def described(self) -> dict[str, Any]:
        """What code.json holds: the hash, the modules, and where their packages come from."""
        roots = dict.fromkeys(name.partition(".")[0] for name in self.modules)
        return {"hash": self.hash, "packages": {root: _origin(root) for root in roots}, "modules": self.modules}


def code_of(config: Mapping[str, Any], allowed: Sequence[str]) -> Code:
    """The code that a run of this config executes; its classes have been imported. `allowed` are package names."""
    modules = _closure([*STEP, *homes_of(config)], {"attnlab", *allowed})
    return Code({name: modules[name] for name in sorted(modules)})


def homes_of(config: Mapping[str, Any]) -> list[str]:
    """The modules that hold the classes of a config."""
    settings = leaves(without_watchers(config))
    names = [
        str(value)
        for key, value in settings
        if (key.endswith("_target_") and not key.startswith("baseline")) or HANDED_OVER.fullmatch(key)
    ]
    return [name.rpartition(".")[0] for name in names] + [home for name in names if (home := _home(name))]


def sources_of(names: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """The text of these modules and of all that they import, as they were imported, by the path of each file below the
    folder that its package lies in. Raises UsageError for a module that is not written in Python."""
    files = {}
    for name in sorted(_closure(names, {"attnlab", *allowed})):
        source, is_python = _source(name)
        if not is_python:
            raise UsageError(f"{name} is not written in Python, so its source cannot be handed on")
        spec = _spec(name)
        is_package = spec is not None and spec.submodule_search_locations is not None
        files[name.replace(".", "/") + ("/__init__.py" if is_package else ".py")] = source.decode()
    return files


def changed(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """The modules that differ, or that one side lacks."""
    return [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def in_a_line(modules: Sequence[str]) -> str:
    """The names of changed modules, as they stand in a message."""
    more = f" and {len(modules) - MOST_NAMED} more" if len(modules) > MOST_NAMED else ""
    return f"changed: {', '.join(modules[:MOST_NAMED])}{more}"


def changes_since(record: Mapping[str, Any] | None, code: Code) -> list[str] | None:
    """The modules that are not as they were in any part of a run, by its code.json; None where that is unknown."""
    if record is None:
        return None
    records = [record["modules"], *(part["modules"] for part in record.get("later", []))]
    return sorted({name for modules in records for name in changed(code.modules, modules)})


# From names to sources.


def note_sources(allowed: Iterable[str] = ()) -> None:
    """Keep the sources of modules that have just been imported: a file may change while its old code executes."""
    roots = {"attnlab", *allowed}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is not None and _counts(name, spec, roots):
            _source(name)


_kept: dict[str, tuple[ModuleSpec, bytes]] = {}  # by name: a reload makes a new spec


def _source(name: str) -> tuple[bytes, bool]:
    """The bytes of a module's file as they were when it was imported, and whether they are Python."""
    spec = _spec(name)
    assert spec is not None and spec.origin is not None
    if name not in _kept or _kept[name][0] is not spec:
        get_data = getattr(spec.loader, "get_data", None)  # of a module in a zip file, too
        try:
            source = Path(spec.origin).read_bytes() if get_data is None else get_data(spec.origin)
        except OSError as error:
            raise UsageError(f"{spec.origin} ({name}) cannot be read ({error.strerror})") from error
        if _executes_another(spec, source):
            raise UsageError(
                f"{spec.origin} ({name}) was changed, but Python executes {spec.cached}, made of an earlier text of "
                "the same time and length: remove that file"
            )
        _kept[name] = spec, source
    return _kept[name][1], spec.origin.endswith(".py")


def _executes_another(spec: ModuleSpec, source: bytes) -> bool:
    """Whether Python takes a compiled file for that of this source which is not: it goes by time and length alone, and
    copies may keep both. Only one that is older than the source can be."""
    try:
        of_source, of_compiled = os.stat(str(spec.origin)), os.stat(str(spec.cached))
        if of_source.st_ctime_ns <= of_compiled.st_mtime_ns:
            return False
        compiled = Path(str(spec.cached)).read_bytes()
        kind, *by = struct.unpack("<III", compiled[4:16])
    except (OSError, struct.error):
        return False
    goes_by = [int(of_source.st_mtime) & 0xFFFFFFFF, of_source.st_size & 0xFFFFFFFF]
    if compiled[:4] != MAGIC_NUMBER or not (kind == NEVER_CHECKED or (kind == BY_TIME and by == goes_by)):
        return False
    return bool(marshal.loads(compiled[16:]) != compile(source, str(spec.origin), "exec", dont_inherit=True))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module comes from, found without importing anything."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    parent = name.rpartition(".")[0]
    above = _spec(parent) if parent else None
    if parent and (above is None or above.submodule_search_locations is None):
        return None
    return PathFinder.find_spec(name, None if above is None else list(above.submodule_search_locations or ()))


def _counts(name: str, spec: ModuleSpec, roots: Iterable[str]) -> bool:
    """Whether the source of a module belongs to the code of a run."""
    if name in NOT_FOLLOWED or not spec.has_location or spec.origin is None:
        return False
    return name.partition(".")[0] in roots or not _is_installed(spec.origin)


@cache
def _is_installed(file: str) -> bool:
    return any(name in file for name in INSTALLED) or os.path.realpath(file).startswith(LIBRARIES)


def _home(name: str) -> str:
    """The module that a class was defined in, wherever its name was found."""
    module_name, _, last = name.rpartition(".")
    home = getattr(getattr(sys.modules.get(module_name), last, None), "__module__", None)
    return home if isinstance(home, str) else ""


def _closure(names: Sequence[str], roots: set[str]) -> dict[str, str]:
    """The hashes of these modules and of all that they import, as far as they count."""
    hashes, waiting, visited = dict[str, str](), list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in visited:
            continue
        visited.add(name)
        if name.endswith(ALL):
            waiting += _all_of(name.removesuffix(ALL))
            continue
        waiting += [name.rpartition(".")[0]] if "." in name else []  # the packages around it are imported with it
        spec = _spec(name)
        if spec is not None and _counts(name, spec, roots):
            is_package, (source, is_python) = spec.submodule_search_locations is not None, _source(name)
            hashes[name], imported = _read(source, is_python, name if is_package else name.rpartition(".")[0])
            waiting += imported
            if not is_python:  # what it imports stands in no text: all that came of its package
                root = name.partition(".")[0]
                waiting += [each for each in sys.modules if each.startswith(f"{root}.")]
    return hashes


def _all_of(root: str) -> Iterator[str]:
    """Every module that lies in a package, unless it is an installed library."""
    spec = _spec(root)
    for home in (spec.submodule_search_locations if spec is not None else None) or ():
        files = () if _is_installed(home) else sorted(Path(home).rglob("*.py"))
        names = (".".join([root, *file.relative_to(home).with_suffix("").parts]) for file in files)
        yield from (name.removesuffix(".__init__") for name in names)


@cache
def _read(source: bytes, is_python: bool, package: str) -> tuple[str, tuple[str, ...]]:
    """The hash of a module, and the names that it may import; some of them name what stands in a module.

    The hash is equal for sources that differ in comments, docstrings and layout alone.
    """
    try:
        tree = ast.parse(source) if is_python else None
    except SyntaxError:
        tree = None  # not imported, or it would have failed
    if tree is None:
        return _short(source), ()
    parts: list[str] = []
    _write(tree, parts)
    return _short("\n".join(parts).encode("utf-8", "surrogatepass")), tuple(dict.fromkeys(_named(tree, package)))


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _write(node: ast.AST, parts: list[str]) -> None:
    """Write a syntax tree so that it reads the same in every Python: ast.dump and ast.unparse do not.

    What is empty is left out, for later versions of Python add fields; so is a text that stands alone: a docstring.
    """
    parts.append(type(node).__name__)
    for field in node._fields:
        value = getattr(node, field, None)
        if value is None or value == [] or field in NO_MATTER:
            continue
        parts.append(field)
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, ast.AST):
                parts.append(repr(each))
            elif not _does_nothing(each, node):
                _write(each, parts)
    parts.append(")")


def _does_nothing(node: ast.AST, owner: ast.AST) -> bool:
    """Whether this is a text that stands alone, or an empty piece of an f-string, as Python 3.12 puts them there."""
    if isinstance(owner, ast.JoinedStr):
        return isinstance(node, ast.Constant) and node.value == ""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _named(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = _absolute("." * node.level + (node.module or ""), package)
            yield home
            yield from (f"{home}.{alias.name}" for alias in node.names)
            if any(alias.name == "*" for alias in node.names):
                yield from (f"{home}.{each}" for each in _exported(home))
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "name")]
            if called in ("import_module", "__import__"):
                texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
                yield from (_absolute(text, package) for text in texts)
                root = package.partition(".")[0]
                yield from () if texts or root in NOT_FOLLOWED or not root else [f"{root}{ALL}"]


def _absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except (ImportError, ValueError):  # beyond the top: it would fail when imported
        return name.lstrip(".")


def _exported(name: str) -> list[str]:
    """The names in a package's __all__, which a star import takes for modules too."""
    module = sys.modules.get(name)
    return [each for each in getattr(module, "__all__", ()) if isinstance(each, str)]


# Where packages come from.


@cache
def _origin(root: str) -> dict[str, Any]:
    """Version, commit and dirtiness of a package: what its repository says, None where there is none."""
    version = getattr(sys.modules.get(root), "__version__", None)
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version(root)
    spec = _spec(root)
    places = [spec.origin] if spec is not None and spec.has_location and spec.origin else []
    places += list(spec.submodule_search_locations or ()) if spec is not None else []
    commit, dirty = repository(Path(places[-1])) if places else (None, None)
    return {"version": None if version is None else str(version), "commit": commit, "dirty": dirty}


def repository(path: Path) -> tuple[str | None, bool | None]:
    """The commit of the repository in which a file or folder of code lies, and whether that differs from the commit.

    None where there is none, or where it ignores the place: an environment in a checkout is no part of it.
    """
    folder, name = (path, ".") if path.is_dir() else (path.parent, path.name)
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "check-ignore", "-q", name) is not None:
        return None, None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "--", name)
    return commit, None if changes is None else bool(changes or untracked)


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
