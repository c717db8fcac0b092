"""Figures of the house: how large the source is, how much of it repeats, and who leans on whom.

`python -m tests.house` prints them; tests/test_house.py holds each at most where it is. Read off syntax trees, so
nothing is imported. A *room* is a folder or a module directly below src/attnlab; who imports whom is what its modules
import, within functions too, but not for type checking alone.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC, TESTS = ROOT / "src", ROOT / "tests"
REMOTE = "attnlab.interchange.remote_code."  # what transformers executes: tests run it in a process without attnlab
FAMILIES = "attnlab.interchange.families."  # types of model, which the table of tests reaches by their names
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
TARGET = re.compile(r"_target_: ([\w.]+)\.\w+$", re.MULTILINE)  # the module of a class that a YAML names
PAGES = (".html", ".css", ".js")
BANNED = ("found", "made", "said", "kept", "known", "place", "seen", "words", "wanted", "told")  # not what a value is
LONGEST_TEST_NAME = 50
# Where a config may be read by the text of its keys.
SCHEMA = ("attnlab.config.allowed_classes", "attnlab.config.compose", "attnlab.config.keys", "attnlab.config.guard")
CONFIGS = ("config", "cfg", "plain", "trainer")  # what a config, or a part of one, is called
FILES_OF_A_RUN = (
    *("config.yaml", "summary.json", "metrics.csv", "code.json", "tokenizer.json", "manifest.json", "heads.json"),
    *("best.safetensors", "last.safetensors", ".lock", "events.out.tfevents.", "preregistration.json"),
)
FOLDERS_OF_A_RUN = ("checkpoints", "maps")  # counted where they are joined to a path


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of src by its dotted name."""
    trees = {}
    for path in sorted((SRC / "attnlab").rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """Every node of each module."""
    return {name: list(ast.walk(tree)) for name, tree in modules().items()}


def lines_of_source() -> int:
    """Lines of Python and of pages."""
    files = [path for path in SRC.rglob("*") if path.suffix in (".py", *PAGES)]
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files)


def forwarding_lines() -> int:
    """Lines of attention/ that only hand settings on: in a constructor, those of its signature, of the call of its
    parent's and of `*args` and `**kwargs`; outside of one, those of calls that pass `**kwargs` on."""
    count = 0
    for name, tree in modules().items():
        if not name.startswith("attnlab.attention."):
            continue
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            spread = [call for call in calls if function.args.kwarg and _passes(call, function.args.kwarg.arg)]
            lines = {n for call in spread for n in range(call.lineno, (call.end_lineno or 0) + 1)}
            if function.name == "__init__" and (parents := [call for call in calls if _is_parent_init(call)]):
                lines |= set(range(function.lineno, function.body[0].lineno))
                lines |= {n for call in parents for n in range(call.lineno, (call.end_lineno or 0) + 1)}
            count += len(lines)
    return count


def _passes(call: ast.Call, name: str) -> bool:
    return any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name for k in call.keywords)


def _is_parent_init(call: ast.Call) -> bool:
    """Whether a call is `super().__init__(...)` with anything in it, or `Parent.__init__(self, ...)`."""
    function = call.func
    return isinstance(function, ast.Attribute) and function.attr == "__init__" and bool(call.args or call.keywords)


def longest_file_of_attention() -> int:
    return max(len(path.read_text().splitlines()) for path in (SRC / "attnlab" / "attention").rglob("*.py"))


def imports(tree: ast.Module, among: Set[str]) -> set[str]:
    """The modules of a set that a module imports."""
    names: set[str] = set()
    for node in _running(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inside & among) or {node.module}
    return names & among


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that is executed, so none below `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING"):
            yield from _running(child)


def is_command(module: str) -> bool:
    """Whether a module is a file of cli/ that is named after its command."""
    return module.startswith("attnlab.cli.") and not module.startswith("attnlab.cli._")


def room(module: str) -> str:
    """The first name below attnlab; `python -m attnlab` is a door of cli."""
    return ".".join(module.split(".")[1:2]).replace("__main__", "cli")


def arrows() -> set[tuple[str, str]]:
    """(room, room that it imports); the package itself, which only offers names, is none."""
    pairs = {(room(one), room(other)) for one, other in module_arrows()}
    return {(one, other) for one, other in pairs if one and other and one != other}


@cache
def module_arrows() -> set[tuple[str, str]]:
    names = modules()
    return {(name, other) for name, tree in names.items() for other in imports(tree, names.keys()) if other != name}


def circles(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups in which each reaches each."""
    reach: dict[str, set[str]] = {}
    for one, other in pairs:
        reach.setdefault(one, set()).add(other)
        reach.setdefault(other, set())
    for middle in reach:
        for one in reach:
            if middle in reach[one]:
                reach[one] |= reach[middle]
    groups = {tuple(sorted(o for o in reach[one] if one in reach[o])) for one in reach if one in reach[one]}
    return [list(group) for group in sorted(groups)]


def floors(pairs: set[tuple[str, str]]) -> int:
    """How many rooms stand above each other in the longest tower; rooms in a circle count as one."""
    name_of = {each: group[0] for group in circles(pairs) for each in group}
    below: dict[str, set[str]] = {}
    for one, other in pairs:
        one, other = name_of.get(one, one), name_of.get(other, other)
        below.setdefault(one, set()).update({other} - {one})

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in below.get(name, ())), default=0)

    return max(height(name) for name in below)


def config_subscripts() -> int:
    """How often a config is asked for a key by its text: config["trainer"]["max_steps"], or config.get("tuned")."""
    count = 0
    for name, every in nodes().items():
        if name.startswith(SCHEMA):
            continue
        asking = [node for node in every if _asks_by_text(node)]
        inner = {id(child) for node in asking for child in ast.walk(node) if child is not node}
        count += sum(id(node) not in inner and _of_config(node) for node in asking)
    return count


def _asks_by_text(node: ast.AST) -> bool:
    """Whether a node is something["text"], or something.get("text")."""
    if isinstance(node, ast.Call):
        gets = isinstance(node.func, ast.Attribute) and node.func.attr == "get"
        return gets and bool(node.args) and _is_text(node.args[0])
    return isinstance(node, ast.Subscript) and _is_text(node.slice)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _of_config(node: ast.AST) -> bool:
    """Whether what is asked is a config, or lies below one."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        if isinstance(node, ast.Attribute) and node.attr in CONFIGS:
            return True
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in CONFIGS


def rooms_that_name_files() -> set[str]:
    """The rooms whose code spells the name of a file or a folder of a run."""
    names = set()
    for name, every in nodes().items():
        for node in every:
            joined = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            text = node.right if joined else node  # type: ignore[attr-defined]
            spelled = text.value if isinstance(text, ast.Constant) else None
            if spelled in (FOLDERS_OF_A_RUN if joined else FILES_OF_A_RUN):
                names.add(room(name))
    return names


def untested_modules() -> list[str]:
    """The modules that no test imports. Those that hold nothing but a docstring need none; tests reach the commands by
    their names, and what a YAML names by the YAML."""
    names = {name for name, tree in modules().items() if len(tree.body) > 1 and not is_command(name)}
    names = {name for name in names if not name.startswith((REMOTE, FAMILIES))}
    names -= {target for path in YAMLS for target in TARGET.findall(path.read_text(encoding="utf-8"))}
    return sorted(names - set().union(*(imports(tree, names) for tree in trees_of_tests())))


@cache
def trees_of_tests() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(TESTS.rglob("*.py"))]


def banned_names(every: Iterable[ast.AST]) -> list[str]:
    """The banned names that nodes bind: assigned, looped over, arguments, attributes, functions, classes, imports."""
    return [name for node in every for name in _bound(node) if name in BANNED]


def _bound(node: ast.AST) -> list[str | None]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=name):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in node.names]
    return []


def long_test_names(trees: Iterable[ast.AST]) -> list[str]:
    """The tests whose names nobody can type: a sentence belongs into the docstring."""
    names = (node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return sorted(name for name in names if name.startswith("test_") and len(name) > LONGEST_TEST_NAME)


def repeated_classes() -> list[str]:
    """The public classes whose name stands in several modules."""
    names = Counter(node.name for tree in modules().values() for node in tree.body if isinstance(node, ast.ClassDef))
    return sorted(name for name, count in names.items() if count > 1 and not name.startswith("_"))


def repeated_modules() -> list[str]:
    """The names of modules that stand in several folders; the files of cli/ are named after their commands."""
    names = Counter(name.rpartition(".")[2] for name in modules() if not is_command(name))
    return sorted(name for name, count in names.items() if count > 1)


def figures() -> Mapping[str, int]:
    """Every figure by its name."""
    between = arrows()
    rooms = {one for pair in between for one in pair}
    return {
        "lines of src, pages included": lines_of_source(),
        "forwarding lines in attention/": forwarding_lines(),
        "longest file of attention/": longest_file_of_attention(),
        "modules at the top level": sum(f"attnlab.{name}" in modules() and _is_file(name) for name in rooms),
        "rooms": len(rooms),
        "imports between rooms": len(between),
        "floors of rooms": floors(between),
        "circles of rooms": len(circles(between)),
        "circles of modules": len(circles(module_arrows())),
        "config keys read by their text": config_subscripts(),
        "rooms that name a file of a run": len(rooms_that_name_files()),
        "modules that no test imports": len(untested_modules()),
        "class names that stand twice": len(repeated_classes()),
        "module names that stand twice": len(repeated_modules()),
    }


def _is_file(name: str) -> bool:
    return (SRC / "attnlab" / f"{name}.py").is_file()


def main() -> None:
    counts = figures()
    width = max(map(len, counts))
    for name, value in counts.items():
        print(f"{name:{width}}  {value:6,}")
    for title, names in (
        ("rooms that name a file of a run", sorted(rooms_that_name_files())),
        ("circles", [" - ".join(group) for group in circles(module_arrows())]),
        ("modules that no test imports", [name.removeprefix("attnlab.") for name in untested_modules()]),
        ("class names that stand twice", repeated_classes()),
        ("module names that stand twice", repeated_modules()),
    ):
        print(f"{title}: {', '.join(names) or 'none'}")


if __name__ == "__main__":
    main()
