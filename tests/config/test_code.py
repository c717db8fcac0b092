"""The code of a run: which modules it is made of, what of an edit counts, and which repository it lies in."""

import importlib
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnlab.build import check_construction
from attnlab.config import code
from attnlab.config.code import Code, changed, changes_since, code_of, in_a_line, repository
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError

RULE = "import torch\n{imports}\n\nclass Rule(torch.nn.Module):\n    def forward(self, x):\n        return x * FACTOR\n"
HELPERS = '"""What rules share."""\n\nFACTOR = 1.0  # of all\n'
IMPORTS = {
    "relative": "from .helpers import FACTOR",
    "relative module": "from . import helpers",
    "absolute": "from my_rules.helpers import FACTOR",
    "dotted": "import my_rules.helpers as helpers",
    "star": "from my_rules import *",
    "in a function": "def late():\n    from my_rules.helpers import FACTOR",
    "by name": "import importlib\nhelpers = importlib.import_module('.helpers', __package__)",
    "by a keyword": "import importlib\nhelpers = importlib.import_module(package=__package__, name='.helpers')",
    "by a package on the way": "from .parts import FACTOR",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a package my_rules of two modules."""
    folder = tmp_path / "my_rules"
    (folder / "parts").mkdir(parents=True)
    (folder / "__init__.py").write_text('__all__ = ["helpers"]\n')
    (folder / "parts" / "__init__.py").write_text("from ..helpers import FACTOR\n")
    (folder / "helpers.py").write_text(HELPERS)
    (folder / "unused.py").write_text("NOTHING = 0\n")
    (folder / "rule.py").write_text(RULE.format(imports=IMPORTS["relative"]))
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_rules", "rule", "helpers")]:
        del sys.modules[name]


BUILT = ("position", "attention", "data", "tokenizer", "optimizer")  # the groups that name classes


def config_with(target: str) -> dict[str, Any]:
    """As much of a config as names classes."""
    return {key: {} for key in BUILT} | {"attention": {"_target_": target, "_partial_": True}}


def modules(target: str = "my_rules.rule.Rule", *allowed: str) -> dict[str, str]:
    """The user's modules among those of a config with this attention."""
    found = code_of(config_with(target), allowed or ("my_rules",)).modules
    return {name: digest for name, digest in found.items() if not name.startswith("attnlab")}


@pytest.mark.parametrize("how", IMPORTS)
def test_helpers_count(package: Path, how: str) -> None:
    """Both modules of a package count however one imports the other, and the one that was edited is named."""
    (package / "rule.py").write_text(RULE.format(imports=IMPORTS[how]))
    if how == "star":
        importlib.import_module("my_rules")  # what a package exports is known once it is imported
    before = modules()
    assert {"my_rules", "my_rules.rule", "my_rules.helpers"} <= set(before) and "my_rules.unused" not in before
    (package / "helpers.py").write_text(HELPERS.replace("1.0", "2.0"))
    assert changed(modules(), before) == ["my_rules.helpers"]


@pytest.mark.parametrize("how", ["import_module(f'.{name}', __name__)", "__import__(f'{__name__}.{name}')"])
def test_computed_names(package: Path, how: str) -> None:
    """A package that imports by a name it computes, as lazy packages do, counts whole: any of its modules may be it."""
    lazy = f"from importlib import import_module\n\ndef __getattr__(name):\n    return {how}\n"
    (package / "__init__.py").write_text(lazy)
    (package / "rule.py").write_text(RULE.format(imports="from my_rules import helpers as _\nFACTOR = _.FACTOR"))
    before = modules()
    assert {"my_rules", "my_rules.rule", "my_rules.helpers", "my_rules.unused", "my_rules.parts"} == set(before)
    (package / "unused.py").write_text("NOTHING = 1\n")
    assert changed(modules(), before) == ["my_rules.unused"]


def test_neighbours_count(package: Path) -> None:
    """A module beside an allowed one counts, though no config may name its classes; torch does not."""
    for name in ("rule", "helpers"):
        (package / f"{name}.py").rename(package.parent / f"{name}.py")
    (package.parent / "rule.py").write_text(RULE.format(imports="import helpers"))
    assert set(modules("rule.Rule", "rule")) == {"rule", "helpers"}


def test_defined_elsewhere(package: Path) -> None:
    """A class may be named where a package hands it on by means that no import statement shows."""
    (package / "__init__.py").write_text("import sys\nRule = getattr(__import__('my_rules' + '.rule'), 'rule').Rule\n")
    importlib.import_module("my_rules")
    assert "my_rules.helpers" in modules("my_rules.Rule")


LAYOUT = {
    "a comment": HELPERS + "# more\n",
    "a docstring": HELPERS.replace("What rules share.", "Another text."),
    "no docstring": HELPERS.partition("\n")[2],
    "a text below a name": HELPERS + '"""How much."""\n',
    "lines": HELPERS.replace("\n", "\n\n\n"),
    "brackets": HELPERS.replace("1.0", "(1.0)"),
    "a float written otherwise": HELPERS.replace("1.0", "1.00"),
}
EDITS = {
    "a value": HELPERS.replace("1.0", "1.5"),
    "a type": HELPERS.replace("1.0", "1"),
    "a name": HELPERS.replace("FACTOR", "FACTORS"),
    "a statement": HELPERS + "FACTOR *= 1\n",
    "a string": HELPERS.replace("1.0", "'1.0'"),
}


@pytest.mark.parametrize("text", LAYOUT.values(), ids=LAYOUT)
def test_layout_is_no_edit(package: Path, text: str) -> None:
    before = modules()
    (package / "helpers.py").write_text(text)
    assert modules() == before


@pytest.mark.parametrize("text", EDITS.values(), ids=EDITS)
def test_edit_counts(package: Path, text: str) -> None:
    before = modules()
    (package / "helpers.py").write_text(text)
    assert changed(modules(), before) == ["my_rules.helpers"]


EVERYTHING = """
from __future__ import annotations
import asyncio as a, b.c
@decorated(1, *x, **y)
class K(Base, metaclass=M):
    u: int = u"text"
    async def f(self, a, /, b: int = 1, *c, d=2j, **e) -> None:
        '''Doc.'''
        async with x as y, z: await g(lambda p, *q: (yield))
        return f"{a!r:>{b}}{c}" "tail" rf"{d:{e}}" + b"".decode()
match v:
    case {"k": [1, *_], **rest} if (n := len(rest)) > -1: pass
    case P(x=1) | None: del v[1:2, ..., ::3]
try:
    raise E from None
except* (A, B) as group: global_ = [i for i in range(3) if i if not i]
else: x[a, *b] = {**c, 1: 2} @ {3}
finally: x = y if z else 1_000.5e3
"""


def test_an_edit_of_the_same_time_and_length(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python takes the compiled file of the earlier text then: the run would not be what its hash says."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    helpers = package / "helpers.py"
    importlib.import_module("my_rules.rule")
    times = helpers.stat()
    helpers.write_text(HELPERS.replace("1.0", "3.0"))
    os.utime(helpers, ns=(times.st_atime_ns, times.st_mtime_ns))
    for name in [name for name in sys.modules if name.startswith("my_rules")]:
        del sys.modules[name]
    assert importlib.import_module("my_rules.rule").FACTOR == 1.0  # what it is about
    with pytest.raises(UsageError, match=r"helpers\.py .* was changed, but Python executes .*helpers\..*\.pyc"):
        modules()
    helpers.write_text(HELPERS)  # the earlier text again, or a copy of it
    os.utime(helpers, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "my_rules.helpers" in modules()


def test_compiled_alone(package: Path) -> None:
    """A package of compiled files has no text to follow: all that was imported of it counts."""
    for path in [*package.glob("*.py")]:
        py_compile.compile(str(path), cfile=f"{path}c")
        path.unlink()
    importlib.import_module("my_rules.rule")
    before = modules()
    assert {"my_rules", "my_rules.rule", "my_rules.helpers"} <= {*before} and "my_rules.unused" not in before


def test_in_a_zip_file(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: importlib.import_module("my_rules.rule") and digest for name, digest in modules().items()}
    for name in [name for name in sys.modules if name.startswith("my_rules")]:
        del sys.modules[name]
    archive = shutil.make_archive(str(package.parent / "rules"), "zip", package.parent, "my_rules")
    monkeypatch.setattr(sys, "path", [archive, *(path for path in sys.path if path != str(package.parent))])
    assert "rules.zip" in str(importlib.import_module("my_rules.rule").__file__)
    assert modules() == whole


def test_same_in_every_python() -> None:
    """The hash of every kind of statement, as recorded: Python 3.11, 3.12 and 3.13 parse it to the same."""
    digest, imported = code._read(EVERYTHING.encode(), True, "package")
    assert digest == "a4ee7160189ea69e"
    assert {"asyncio", "b.c", "__future__"} <= set(imported)


def test_imported_code_counts(package: Path) -> None:
    """Of a module that was imported, the source of then counts, whatever is in the file by now."""
    attention = {"_target_": "my_rules.rule.Rule", "_partial_": True}
    config = replace(compose_config(["allow_targets=[my_rules]"]), attention=attention)
    with pytest.raises(UsageError):  # it is no attention, but it is imported
        check_construction(config)
    before = modules()
    (package / "helpers.py").write_text(HELPERS.replace("1.0", "2.0"))
    assert "my_rules.helpers" in sys.modules and modules() == before
    importlib.reload(sys.modules["my_rules.helpers"])
    assert changed(modules(), before) == ["my_rules.helpers"]


NOT_EXECUTED = ("analysis", "card", "cli", "explain", "inspection", "laws", "sweep", "training.description")
USED = {
    "multi_head": (
        "attention.softmax",
        "attention.mask",
        "model",
        "attention.position",
        "attention.norm",
        "training.module",
    ),
    "gated_delta": ("attention.recurrent", "attention.scan", "attention.write", "training.optimizer", "data.batches"),
    "hybrid": ("attention.softmax", "attention.multi_head", "training.scoring", "data.corpus"),
}


@pytest.mark.parametrize("variant", USED)
def test_own_modules(variant: str) -> None:
    """What model, data, optimizer and step use of attnlab, and nothing that only looks on."""
    config = compose_config([f"attention={variant}"])
    check_construction(config)
    names = code_of(config.as_dict(), ()).modules
    assert {f"attnlab.{name}" for name in USED[variant]} <= set(names)
    assert not [name for name in names if name.startswith(tuple(f"attnlab.{part}" for part in NOT_EXECUTED))]
    assert ("attnlab.attention.softmax" in names) == (variant != "gated_delta")
    assert "attnlab.attention.rwkv" not in names, "the file of an unrelated variant"


def test_own_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of softmax attention is one of multi_head, and none of gated_delta."""
    configs = [compose_config([f"attention={variant}"]) for variant in ("multi_head", "gated_delta")]
    before = [code_of(config.as_dict(), ()) for config in configs]
    read = code._source

    def edited(name: str) -> tuple[bytes, bool]:
        source, is_python = read(name)
        return source + b"\nEDITED = 1\n" * (name == "attnlab.attention.softmax"), is_python

    monkeypatch.setattr(code, "_source", edited)
    after = [code_of(config.as_dict(), ()) for config in configs]
    assert changed(after[0].modules, before[0].modules) == ["attnlab.attention.softmax"]
    assert after[0].hash != before[0].hash and after[1] == before[1]


def test_line_names_a_few() -> None:
    assert in_a_line(["a", "b"]) == "changed: a, b"
    assert in_a_line(list("abcdef")) == "changed: a, b, c, d and 2 more"


def test_record() -> None:
    """What the record of a run says of its code: unknown, the same, or what changed in any part of the run."""
    ours = Code({"a": "1", "b": "2"})
    record = ours.described()
    assert changes_since(None, ours) is None
    assert changes_since(record, ours) == []
    assert changes_since(record, Code({"a": "1", "c": "3"})) == ["b", "c"]
    record["later"] = [{"from_step": 3, **Code({"a": "9"}).described()}]
    assert changes_since(record, ours) == ["a", "b"]


def git(folder: Path, *words: str) -> None:
    named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *named, *words], check=True, capture_output=True)


def test_repository(package: Path) -> None:
    """The commit is that of the repository that a package lies in, and dirty is what is not in it."""
    assert repository(package) == (None, None)
    git(package.parent, "init", "-q")
    git(package.parent, "add", "my_rules/rule.py")
    git(package.parent, "commit", "-qm", "one")
    commit, dirty = repository(package)
    assert commit is not None and len(commit) == 40 and dirty, "helpers.py is not in the commit"
    git(package.parent, "add", "my_rules")
    git(package.parent, "commit", "-qm", "two")
    (package.parent / "results").write_text("a file that is no code")
    assert repository(package)[1] is False and repository(package / "rule.py")[1] is False
    (package / "helpers.py").write_text("FACTOR = 3.0\n")
    assert repository(package)[1] is True
    installed = package.parent / "env" / "site-packages" / "library"
    installed.mkdir(parents=True)
    (package.parent / ".gitignore").write_text("env\n")
    assert repository(installed) == (None, None), "an environment in a checkout is no part of it"
