"""The modules of attnlab that this model runs, word for word, each by the name of its file.

They are imported below this module, as any others are: an attnlab that is installed, whatever its version, is neither
used nor touched, and none is needed. In their import statements alone the names are changed while they are read.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

SOURCES: dict[str, str] = {}

__path__: list[str] = []  # a package, so that others lie below it


def find_class(name: str) -> Any:
    """A class or function by the dotted name that attnlab has for it."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), last)


class Shaped:
    """Stands for jaxtyping's Float, Int and the like: an annotation without its shape."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


class Sources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds in SOURCES what lies below this module."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        file = self.file(fullname)
        if file is None:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=file.endswith("/__init__.py"))

    def file(self, fullname: str) -> str | None:
        """The file of a module; an `__init__.py` that is not there is empty."""
        if not fullname.startswith(f"{__name__}."):
            return None
        path = fullname.removeprefix(f"{__name__}.").replace(".", "/")
        is_package = any(file.startswith(f"{path}/") for file in SOURCES)
        return f"{path}/__init__.py" if is_package else f"{path}.py" if f"{path}.py" in SOURCES else None

    def get_source(self, fullname: str) -> str:
        return SOURCES.get(self.file(fullname) or "", "")

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = f"{__file__}/{self.file(module.__name__)}"  # where tracebacks say that their lines stand
        tree = ast.parse(self.get_source(module.__name__))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and _is_here(node.module or ""):
                node.module = f"{__name__}.{node.module}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _is_here(alias.name):
                        alias.asname, alias.name = alias.asname or alias.name, f"{__name__}.{alias.name}"
        exec(compile(tree, module.__file__, "exec"), vars(module))


def _is_here(name: str) -> bool:
    root = name.partition(".")[0]
    return root == "jaxtyping" or f"{root}.py" in SOURCES or any(file.startswith(f"{root}/") for file in SOURCES)


def _shapes(name: str) -> type[Shaped]:
    if name.startswith("__"):
        raise AttributeError(name)
    return Shaped


_jaxtyping: Any = ModuleType(f"{__name__}.jaxtyping")
_jaxtyping.__getattr__ = _shapes
sys.modules[_jaxtyping.__name__] = _jaxtyping
sys.meta_path.insert(0, Sources())
