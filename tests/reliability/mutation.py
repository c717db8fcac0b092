"""How many faults in the files of the variants are noticed, and by what.

    python -m tests.reliability.mutation [--faults 300] [--seed 1] [--out FILE.csv]

A fault is one mechanical change of a syntax tree: an operator, a comparison, a number, a sign, a flag, a function's
counterpart, a statement left out. Each is executed in a process of its own, from the mutated source. Where outputs,
gradients, maps and decoding of every named variant are what they were, to the rounding of float64, it is no fault and
does not count. The others are shown to the laws (what `attnlab check` runs, on one variant whose numbers changed), to
the reduction lattice and to the recorded oracles. The list of those that nothing noticed is printed at the end.
"""

import argparse
import ast
import csv
import hashlib
import importlib.abc
import importlib.util
import io
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "attnlab"
LENGTHS = (7, 67, 149)  # shorter, longer than a chunk of the recurrent rules, and than four windows
SAME = 1e-11  # float64, relative: sums in another order
SECONDS = 600  # a fault that makes a variant hang counts as noticed
# Cheap laws first; `learns` and `every_position` take seconds.
ORDER = ("shape", "causality", "map", "decode", "batch_independence", "no_dead_parameter", "fused_equals_explicit")
ALONE = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow"]
ALONE += ["-o", "addopts=", "-o", "filterwarnings="]
SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
COUNTERPARTS = {
    **{"tril": "triu", "triu": "tril", "sum": "mean", "mean": "sum", "amax": "amin", "amin": "amax", "exp": "expm1"},
    **{"expm1": "exp", "sigmoid": "tanh", "tanh": "sigmoid", "relu": "abs", "cos": "sin", "sin": "cos"},
    **{"maximum": "minimum", "minimum": "maximum", "argmax": "argmin", "sqrt": "abs", "rsqrt": "abs", "silu": "relu"},
}


class Fault(NamedTuple):
    """The `index`-th place of a file where a change is possible."""

    file: str
    index: int
    line: int
    what: str


# From a syntax tree to its faults


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, Callable[[], object]]]:
    """(node, what is changed, how) for every possible change; refusals, annotations and texts are left alone."""
    if isinstance(tree, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    yield from _changes(tree)
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from places(child)


def _changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, Callable[[], object]]]:
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield (
                node,
                f"{type(op).__name__} -> {SWAPS[type(op)].__name__}",
                lambda: _set(node, "op", SWAPS[type(op)]()),
            )
        case ast.Compare(ops=[op]) if type(op) in SWAPS:
            new = SWAPS[type(op)]
            yield node, f"{type(op).__name__} -> {new.__name__}", lambda: _set(node, "ops", [new()])
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            yield (
                node,
                f"{type(node.op).__name__} dropped",
                lambda: _set(node, "operand", ast.UnaryOp(node.op, node.operand)),
            )
        case ast.Constant(value=bool() as value):
            yield node, f"{value} -> {not value}", lambda: _set(node, "value", not value)
        case ast.Constant(value=int() as value):
            yield node, f"{value} -> {value + 1}", lambda: _set(node, "value", value + 1)
        case ast.Constant(value=float() as value):
            new_value = 2 * value or 1.0
            yield node, f"{value} -> {new_value}", lambda: _set(node, "value", new_value)
        case ast.Attribute(attr=name) if name in COUNTERPARTS:
            yield node, f"{name} -> {COUNTERPARTS[name]}", lambda: _set(node, "attr", COUNTERPARTS[name])
        case ast.IfExp(body=body, orelse=other):
            yield node, "branches swapped", lambda: (_set(node, "body", other), _set(node, "orelse", body))
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        for i, child in enumerate(block if isinstance(block, list) else []):
            call = isinstance(child, ast.Expr) and isinstance(child.value, ast.Call)
            text = ast.unparse(child) if call or isinstance(child, ast.AugAssign) else "super()"
            if not text.startswith("super()"):
                yield child, f"left out: {text[:40]}", lambda b=block, i=i: b.__setitem__(i, ast.Pass())


def _set(node: ast.AST, name: str, value: object) -> None:
    setattr(node, name, value)


def files() -> list[Path]:
    """The files whose faults are drawn: those of the variants and of positions."""
    return sorted((PACKAGE / "attention").glob("*.py"))


def drawn(n: int, seed: int) -> list[Fault]:
    """`n` faults: two of each file, if it has two, and the rest from all places alike."""
    chance, first, rest = random.Random(seed), [], []
    for file in files():
        name = file.relative_to(PACKAGE).as_posix()
        tree = ast.parse(file.read_text(encoding="utf-8"))
        own = [Fault(name, i, getattr(p[0], "lineno", 0), p[1]) for i, p in enumerate(places(tree))]
        chance.shuffle(own)
        first += own[:2]
        rest += own[2:]
    chance.shuffle(rest)
    return [*first, *rest][:n]


def mutated(fault: Fault) -> ast.AST:
    """The syntax tree of a file with the fault in it."""
    tree = ast.parse((PACKAGE / fault.file).read_text(encoding="utf-8"))
    change = [place[2] for place in places(tree)][fault.index]
    change()
    return ast.fix_missing_locations(tree)


class Loader(importlib.abc.Loader):
    """Executes a syntax tree as a module."""

    def __init__(self, tree: ast.AST, path: str) -> None:
        self.tree, self.path = tree, path

    def exec_module(self, module: Any) -> None:
        exec(compile(self.tree, self.path, "exec"), module.__dict__)  # type: ignore[call-overload]


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module in a mutated form."""

    def __init__(self, fault: Fault) -> None:
        self.name = "attnlab." + fault.file.removesuffix(".py").replace("/", ".")
        self.path = str(PACKAGE / fault.file)
        self.loader = Loader(mutated(fault), self.path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self.loader)


# What a process with a fault in it finds out


def numbers(name: str) -> list[torch.Tensor]:
    """Everything a variant computes for fixed inputs in float64: logits, gradients, maps, and logits by decoding."""
    from attnlab.laws.subject import ids, perturbed, subject_of

    subject = subject_of(name)
    model = subject.gpt(subject.depth).double().eval()
    perturbed(model)
    results = []
    for length in LENGTHS:
        tokens = ids(2, length)
        model.zero_grad()
        logits = model(tokens)
        logits.square().mean().backward()
        results += [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        with torch.no_grad():
            results += [m.weights for m in model.attention_maps(tokens) if m.weights is not None]
            for layer, block in enumerate(model.layers):
                if layer == 0:
                    x = torch.randn(2, length, 24, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
                    state, parts = block.attention.init_state(2, length), []
                    for part in x.split([3, 1, length - 4], dim=1):
                        y, state = block.attention.step(part, state)
                        parts.append(y)
                    results.append(torch.cat(parts, dim=1))
    return results


def equal(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    """Whether two variants compute the same, to rounding."""
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return False
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.numel()]
    gaps = [float((a - b).abs().max() / b.abs().max().clamp(min=1.0)) for a, b in pairs]
    return all(gap <= SAME for gap in gaps)  # NaN is not


def judged(fault: Fault, reference: Path, variants: Sequence[str]) -> str:
    """By what a fault is noticed: "equal", a law, "lattice", "oracle", "recorded", or "survived".

    The laws of the first variant with other numbers come first, then lattice and oracles, which are quick; then the
    laws of the other variants that the fault changes, and last what was recorded of every variant.
    """
    changed = (name for name in variants if changes(name, reference))
    first = next(changed, None)
    if first is None:
        return "equal"
    if law := broken_law(first):
        return f"law {law}"
    import pytest

    for kind, words in (
        ("lattice", ["tests/laws/test_lattice.py"]),
        ("oracle", ["tests/oracles/test_oracles.py"]),
    ):
        if pytest.main([*words, *ALONE]):
            return kind
    for name in changed:
        if law := broken_law(name):
            return f"law {law} of {name}"
    if pytest.main(["tests/golden/test_variants.py", *ALONE]):
        return f"recorded ({first})"
    return f"survived ({first})"


def changes(name: str, reference: Path) -> bool:
    """Whether a variant computes other numbers than it does without the fault, or cannot be computed any more."""
    with reference.joinpath(f"{name}.pt").open("rb") as file:
        theirs = pickle.load(file)
    try:
        ours = numbers(name)
    except Exception:  # the laws say so, too
        return True
    return not equal(ours, theirs)


def broken_law(name: str) -> str | None:
    """The first law that a variant breaks."""
    from attnlab.laws import LAWS, judge, subject_of

    subject = subject_of(name)
    laws = [*ORDER, *(law for law in LAWS if law not in ORDER)]
    return next((law for law in laws if judge(law, subject).outcome == "broken"), None)


def in_a_child(work: Callable[[], str], log: Path) -> str:
    """The answer of a process of its own, which this one has forked; "hangs" or "dies" if there is none."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        signal.alarm(SECONDS)
        text = io.StringIO()
        try:
            with redirect_stdout(text), redirect_stderr(text):
                answer = work()
        except BaseException as error:
            answer = f"fails ({type(error).__name__})"
        os.write(write, answer.encode())
        log.write_text(text.getvalue())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return answer or ("hangs" if os.WTERMSIG(status) == signal.SIGALRM else "dies")


def users(file: str, closures: dict[str, list[str]]) -> list[str]:
    """The variants that execute a file, in an order that is the same everywhere, those of few modules first."""
    module = "attnlab." + file.removesuffix(".py").replace("/", ".")
    names = [name for name, modules in closures.items() if module in modules]
    return sorted(names, key=lambda name: (len(closures[name]), hashlib.sha256(f"{file}{name}".encode()).hexdigest()))


def prepare(reference: Path) -> str:
    """Write down the numbers of every variant, and which modules each executes."""
    from attnlab.config.code import code_of
    from attnlab.config.compose import config_dir
    from attnlab.laws.subject import subject_of

    closures = {}
    for file in sorted((config_dir() / "attention").glob("*.yaml")):
        with reference.joinpath(f"{file.stem}.pt").open("wb") as out:
            pickle.dump(numbers(file.stem), out)
        closures[file.stem] = list(code_of(subject_of(file.stem).config.as_dict(), ()).modules)
    with reference.joinpath("closures").open("wb") as out:
        pickle.dump(closures, out)
    return "done"


def main() -> None:
    parser = argparse.ArgumentParser(description="How many faults in the files of the variants are noticed.")
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("mutation.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[Fault, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        reference, log = Path(folder), Path(folder) / "log"
        if (answer := in_a_child(lambda: prepare(reference), log)) != "done":
            sys.exit(f"the variants as they are cannot be computed: {answer}\n{log.read_text()}")
        with reference.joinpath("closures").open("rb") as file:
            closures = pickle.load(file)
        started = time.monotonic()
        for fault in drawn(options.faults, options.seed):

            def work(fault: Fault = fault) -> str:
                sys.meta_path.insert(0, Finder(fault))
                return judged(fault, reference, users(fault.file, closures))

            rows.append((fault, in_a_child(work, log)))
            counts = Counter(outcome.partition(" ")[0] for _, outcome in rows)
            told = f"{fault.file}:{fault.line} {fault.what}: {rows[-1][1]}"
            print(f"{len(rows):4d} {time.monotonic() - started:6.0f} s  {told}  {dict(counts)}", flush=True)
    with options.out.open("w", newline="") as out:
        csv.writer(out).writerows(
            [("file", "line", "what", "outcome"), *((f.file, f.line, f.what, o) for f, o in rows)]
        )
    faults = [(fault, outcome) for fault, outcome in rows if outcome != "equal"]
    lived = [(fault, outcome) for fault, outcome in faults if outcome.startswith(("recorded", "survived"))]
    by_check = sum(outcome.startswith(("law", "hangs", "dies")) for _, outcome in faults)
    print(f"{len(rows)} changes, {len(rows) - len(faults)} of them equal in float64; of {len(faults)} faults")
    print(f"  noticed by check alone: {by_check} ({by_check / max(1, len(faults)):.1%})")
    share = 1 - len(lived) / max(1, len(faults))
    print(f"  noticed by laws, lattice and oracles: {len(faults) - len(lived)} ({share:.1%})")
    for fault, outcome in lived:
        print(f"  {outcome}: {fault.file}:{fault.line} {fault.what}")


if __name__ == "__main__":
    main()
