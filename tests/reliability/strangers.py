"""A finished run of two layers, what somebody may do to its folder, and how a command ends that reads it."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from tests.reliability import SMALL

from attnlab.cli import main
from attnlab.config.compose import compose_config
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.run import run

TINY = ("data=file", "tokenizer=bpe", "model.n_layers=2", "model.n_heads=2", *SMALL)
COMMANDS = {
    "generate": ["prompt=1 times", "tokens=4"],
    "maps": ["prompt=1 times"],
    "explain": ["prompt=1 times"],
    "evaluate": ["lengths=2"],
    "ablate_heads": ["tokens=64"],
}
Damage = Callable[[Path], Any]


class Outcome(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def fault(self) -> str:
        """What is wrong with the ending itself: neither success nor one line with a code that is documented."""
        lines = self.err.splitlines()
        complaints = [line for line in lines if line.startswith("error: ")]
        strange = [line for line in lines if not line.startswith(("error: ", "warning: ", "note: "))]
        if strange:
            return f"more than its lines on stderr: {strange[0]}"
        if self.code == 0:
            return "an error, and success" if complaints else ""
        return "" if self.code in range(1, 6) and len(complaints) == 1 else f"code {self.code}: {lines}"

    @property
    def noticed(self) -> bool:
        """Whether it says that something is wrong."""
        return bool(self.err)


def finished_run(folder: Path, *words: str) -> Path:
    """Train the run, with further words; gives its folder, two levels below that of its experiment."""
    (folder / "text.txt").write_text("\n".join(f"{i} times {i + 7} is {i * (i + 7)}." for i in range(60)))
    paths = [f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    given = [*words] or [f"data.path={folder / 'text.txt'}"]
    with contextlib.redirect_stdout(io.StringIO()):
        run(compose_config([*TINY, *paths, *given]), variant="multi_head")
    return next((folder / "runs").glob("*/*/seed_0"))


def copied(finished: Path, folder: Path) -> Path:
    """A copy of a run's experiment; gives the folder of the run in it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished.parents[1], folder, symlinks=True)
    return folder / finished.parent.name / finished.name


def typed(*words: str) -> Outcome:
    """What `attnlab WORDS` does, in this process; whatever it raises is a fault of its own."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            code = int(str(end.code or 0))
        except BaseException as error:
            code = -1
            print(f"{type(error).__name__}: {error}"[:300], file=err)
    return Outcome(code, out.getvalue(), err.getvalue())


def looked_at(run: Path, command: str, into: Path) -> Outcome:
    """What a command says of a run or, if it is `report`, of the experiment that the run belongs to."""
    if command == "report":
        return typed("report", f"experiment={run.parents[1]}", f"out={into}")
    folder = [f"folder={into}"] if command in ("maps", "explain") else []
    return typed(command, f"run={run}", *COMMANDS[command], *folder)


# What somebody may do


def text(name: str, content: str | bytes) -> Damage:
    """Another content for a file."""
    data = content.encode() if isinstance(content, str) else content

    def write(run: Path) -> None:
        (run / name).write_bytes(data)

    return write


def flipped(name: str, place: int, bit: int = 1) -> Damage:
    """One bit of a file, counted from its start."""

    def flip(run: Path) -> None:
        path = next(run.glob(name))
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= bit
        path.write_bytes(data)

    return flip


def cut(name: str, share: float) -> Damage:
    """The first part of a file."""

    def cut_off(run: Path) -> None:
        path = next(run.glob(name))
        path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * share)])

    return cut_off


def config(**changes: Any) -> Damage:
    """Other settings in config.yaml, by dotted key with __ for the dots."""

    def change(run: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        for key, value in changes.items():
            *owners, last = key.split("__")
            node = content
            for owner in owners:
                node = node[owner]
            node[last] = value
        (run / "config.yaml").write_text(yaml.safe_dump(content))

    return change


def checkpoint(change: Callable[[Any], Any]) -> Damage:
    """Another content in all checkpoints, listed as if it had been written by a run."""

    def write(run: Path) -> None:
        folder = CheckpointFolder(run / "checkpoints")
        for name, entry in folder.listed().items():
            content = change(load_checkpoint(folder.path / name))
            file = io.BytesIO()
            if isinstance(content, bytes):
                file.write(content)
            else:
                torch.save(content, file)
            folder.write(name, entry["step"], file.getvalue())

    return write


def link(name: str, target: str) -> Damage:
    """A link in the place of a file or a folder."""

    def put(run: Path) -> None:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return put


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file with its contents, links not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.read_bytes()
