"""Reads the options of a class without importing it: runs its skeleton, in which torch is not needed.

The skeleton of a class has its bases, its declarations and the signature of its constructor. What these name is read
from its module in turn, by the same rule; whatever else they name is a `Stub`. So declarations run through the same
code as in earnest, and there is no second reader of them. A class that cannot be read is judged when it is made.
"""

import ast
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REAL = (
    "abc",
    "collections.abc",
    "dataclasses",
    "typing",
    "attnlab.options",
    "attnlab.options.rules",
)  # imported as they are
WORDS = ("option", "slot", "given")  # of a declaration
BARE = ("torch.nn.Module", "torch.nn.modules.module.Module")  # bases that take no options


class Unknown:
    """A base that cannot be read: a class below it takes anything."""

    def __init__(self, *args: Any, **settings: Any) -> None: ...


class Stub:
    """A name that is not read; whatever is done with it gives a stub."""

    __iter__ = None  # else __getitem__ would make an endless sequence of it

    def __init__(self, full: str, reader: "Skeletons") -> None:
        self.__name__, self.full, self.reader = full.rpartition(".")[2], full, reader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.reader.find(f"{self.full}.{name}")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return () if self.full in BARE else (Unknown,)

    def __call__(self, *args: Any, **settings: Any) -> "Stub":
        return self

    __getitem__ = __or__ = __ror__ = __call__


class Skeletons:
    """The classes of some packages, each read when it is asked for; `failed` tells which did not run, and why."""

    def __init__(self, *packages: str) -> None:
        self.packages = packages
        self.names: dict[str, Any] = {}
        self.failed: dict[str, Exception] = {}
        self.modules: dict[str, dict[str, ast.stmt]] = {}

    def find(self, full: str) -> Any:
        """A class or function by its dotted name; a stub if it is not there to be read."""
        if full.startswith("attnlab.") and self is not shipped():
            return shipped().find(full)
        if full not in self.names:
            self.names[full] = Stub(full, self)  # what it is while it is being read, and if it cannot be
            try:
                self.names[full] = self._read(*full.rpartition(".")[::2])
            except Exception as error:
                self.failed[full] = error
        return self.names[full]

    def _read(self, module: str, name: str) -> Any:
        statements = self._statements(module)
        node = statements.get(name)
        if isinstance(node, ast.Import):
            return Stub(next(a.name for a in node.names if (a.asname or a.name.partition(".")[0]) == name), self)
        if isinstance(node, ast.ImportFrom):
            home = importlib.util.resolve_name("." * node.level + (node.module or ""), module.rpartition(".")[0])
            original = next(a.name for a in node.names if (a.asname or a.name) == name)
            return getattr(importlib.import_module(home), original) if home in REAL else self.find(f"{home}.{original}")
        if node is None:
            return Stub(f"{module}.{name}", self)
        bare = _bare(node)
        used = {n.id for n in ast.walk(bare) if isinstance(n, ast.Name) and n.id in statements and n.id != name}
        scope = {"__name__": module, **{n: self.find(f"{module}.{n}") for n in used}}
        exec(compile(ast.Module([bare], []), module, "exec"), scope)
        return scope[name]

    def _statements(self, module: str) -> dict[str, ast.stmt]:
        """What each name of a module is bound by."""
        if module not in self.modules:
            file = _source(module) if module.partition(".")[0] in self.packages else None
            body = ast.parse(file.read_text(encoding="utf-8")).body if file else []
            self.modules[module] = {name: node for node in body for name in _bound(node)}
        return self.modules[module]


@functools.cache
def shipped() -> Skeletons:
    """The classes of attnlab."""
    return Skeletons("attnlab")


def _bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _bare(node: Any) -> ast.stmt:
    """A function without its body; a class with nothing but declarations and a constructor without its body."""
    if isinstance(node, ast.FunctionDef):
        return ast.FunctionDef(**{**_fields(node), "body": [ast.copy_location(ast.Pass(), node)], "decorator_list": []})
    if isinstance(node, ast.ClassDef):
        records = [d for d in node.decorator_list if "dataclass" in ast.unparse(d)]
        if len(records) < len(node.decorator_list):
            raise ValueError("a decorator may change the constructor")
        body = [_bare(n) for n in node.body if _declares(n) or (records and isinstance(n, ast.AnnAssign))]
        body = body or [ast.copy_location(ast.Pass(), node)]
        return ast.ClassDef(**{**_fields(node), "body": body, "decorator_list": records})
    statement: ast.stmt = node
    return statement


def _fields(node: ast.AST) -> dict[str, Any]:
    location = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    return dict(ast.iter_fields(node)) | location


def _declares(node: ast.stmt) -> bool:
    if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "id", "") in WORDS
    return getattr(node, "name", "") == "__init__" or "withdrawn" in _bound(node)


def _source(module: str) -> Path | None:
    """The file of a module, without importing the packages that it is in."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None or not rest:
        return Path(spec.origin) if spec and spec.origin else None
    base = Path(spec.origin).parent.joinpath(*rest)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)
