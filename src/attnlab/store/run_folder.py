"""The folder of one run: the names of its files, which stand here alone, and how they are read and written."""

import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from attnlab.errors import Locked, UsageError
from attnlab.machine.environment import harmless
from attnlab.store.checkpoints import CheckpointFolder
from attnlab.store.damage import Damaged, one_line, read_text
from attnlab.store.digests import Digests, check_files, digest, digests_in, seal, was_changed
from attnlab.store.files import named, parse_json, parse_yaml, read_file, tidy, write_atomically, write_json, writing
from attnlab.store.locks import exclusive, is_owned
from attnlab.store.metrics_csv import STEP, Row, read_metrics
from attnlab.store.moved import with_current_keys, with_current_targets
from attnlab.store.names import CODE, CONFIG, EVENTS, LAST_MAPS, METRICS, SEED, SUMMARY, TOKENIZER

WHOLE = (CONFIG, CODE, LAST_MAPS)  # written at once; metrics.csv only grows, and a killed command leaves more
READ = (CONFIG, CODE, METRICS)  # what every report goes by
CODE_DIGITS = 4  # of the hash of the code, in the name of a folder
KEY = "paths.runs"  # the setting that says where runs are


def group_name(variant: str, asked: str, code: str) -> str:
    """The folder of all seeds of a configuration by some code, such as multi_head-0123abcd.4567."""
    return f"{variant}-{asked}.{code[:CODE_DIGITS]}"


def seed_name(seed: int) -> str:
    """The folder of a run, within that of its configuration."""
    return f"{SEED}{seed}"


def seed_in(name: str) -> int | None:
    """The seed in the name of a run's folder; None if it is no such name."""
    digits = name.removeprefix(SEED)
    return int(digits) if STEP.fullmatch(digits) else None


@dataclass(unsafe_hash=True)
class RunFolder:
    """The folder of one run, whether it is there or not."""

    path: Path

    def __post_init__(self) -> None:
        self.config = self.path / CONFIG  # the settings that it ran with
        self.code = self.path / CODE  # the modules that executed, a hash of each
        self.tokenizer = self.path / TOKENIZER  # its vocabulary
        self.metrics = self.path / METRICS  # every number, one a line: the source of truth
        self.summary = self.path / SUMMARY  # what it came to; written last
        self.checkpoints = CheckpointFolder(self.path / "checkpoints")
        self.maps = self.path / "maps"
        self.best_maps = self.maps / "best.safetensors"  # those at the best validation
        self.last_maps = self.path / LAST_MAPS
        self.prompt_maps = self.maps / "prompt"  # the folder that `attnlab maps` writes
        self.head_ablation = self.maps / "head_ablation.json"  # what `attnlab ablate_heads` measured
        self.trackers = self.path / "trackers.json"  # what W&B, MLflow and the like have got of it
        self.lock_file = self.path / ".lock"  # held by the process that works here

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The folder of its configuration, and its own."""
        return f"{self.path.parent.name}/{self.path.name}".removeprefix("/")

    @property
    def title(self) -> str:
        """The same as text that can be shown, whatever bytes the names of its folders are made of."""
        return harmless(os.fsencode(self.name).decode(errors="backslashreplace"))

    @property
    def code_digits(self) -> str:
        """The first digits of the hash of its code, from the name of the folder."""
        return self.path.parent.name.rpartition(".")[2]

    def by_other_code(self) -> list["RunFolder"]:
        """The folders of the same run by other code."""
        stem = self.path.parent.name.rpartition(".")[0]
        paths = self.path.parent.parent.glob(f"{glob.escape(stem)}.*/{self.path.name}")
        return [RunFolder(path) for path in paths if path != self.path]

    def event_files(self) -> list[Path]:
        """TensorBoard's files, in the order in which they were written."""
        return sorted(self.path.glob(f"{EVENTS}*"))

    # What it says.

    def read_config(self) -> dict[str, Any]:
        """The settings that it ran with. Raises Damaged."""
        return parse_config(self.path, read_text(self.config))

    def read_summary(self) -> dict[str, Any]:
        """What the run came to; empty if it has no summary yet, or one that is damaged or was changed."""
        try:
            content = parse_json(read_file(self.summary))
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict) or was_changed(content):
            return {}
        return with_current_keys(content)

    def has_begun(self) -> bool:
        """Whether the run holds anything that could be taken or continued."""
        return "status" in self.read_summary() or bool(self.checkpoints.files())

    def read_code(self) -> dict[str, Any] | None:
        """The code that the run executed; None of a run from before that was recorded. Raises Damaged."""
        try:
            content = parse_json(read_file(self.code))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Damaged(self.path, f"{CODE} cannot be read ({one_line(error)})") from error
        later = content.get("later", []) if isinstance(content, dict) else None
        if not isinstance(later, list) or not all(_is_code(record) for record in (content, *later)):
            raise Damaged(self.path, f"{CODE} does not say which code the run executed")
        return dict(content)

    def read_metrics(self, digests: Digests = {}, most: int | None = None) -> list[Row]:  # noqa: B006
        """Every number, in the order in which they were written; see `attnlab.store.metrics_csv.read_metrics`."""
        return read_metrics(self.path, digests, most)

    def check(self, summary: Mapping[str, Any]) -> None:
        """Raises Damaged if the summary is not what was written, or the config, the code and the rows are not."""
        if not summary and self.summary.exists():
            raise Damaged(self.path, f"{SUMMARY} is damaged")
        if was_changed(summary):
            raise Damaged(self.path, f"{SUMMARY} was changed after it was written (its SHA-256 differs)")
        digests = digests_in(summary)
        if "files" in summary and METRICS not in digests:
            raise Damaged(self.path, f"{SUMMARY} has no digest of {METRICS}")
        check_files(self.path, digests, *READ)

    def foreign_entries(self) -> Iterator[Path]:
        """What a run does not leave in its folder: devices, pipes, and links that lead out of it.

        Following such a link would read or write somewhere else.
        """
        home = os.path.realpath(self.path)
        parts = (path for path in self.checkpoints.files() if path.is_dir())
        for folder in (self.path, self.checkpoints.path, self.maps, *parts):
            for entry in folder.iterdir() if folder.is_dir() else ():
                outside = entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(home)
                if outside or not (entry.is_file() or entry.is_dir() or entry.is_symlink()):
                    yield entry

    def is_locked(self) -> bool:
        """Whether a process works in the folder."""
        return is_owned(self.lock_file)

    # What its owner does.

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Own the folder, made if it is not there, while the block runs; refused if another process owns it."""
        with ExitStack() as stack:
            with writing(self.path, key=KEY):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    handle = stack.enter_context(exclusive(self.lock_file, wait=False))
                except BlockingIOError as error:
                    owner = self.lock_file.read_bytes()[:32].decode(errors="replace").strip() or "unknown"
                    raise Locked(f"{self} is in use by process {owner}; wait for it, or end it") from error
            with named(self.lock_file):
                os.truncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield

    def prepare(self) -> None:
        """Make ready for training: no summary, and nothing that a killed command left half written."""
        self.summary.unlink(missing_ok=True)
        for folder in (self.path, self.checkpoints.path, self.maps):
            tidy(folder)

    def write_config(self, text: str) -> None:
        write_atomically(self.config, text.encode(), key=KEY)

    def write_code(self, record: Mapping[str, Any], step: int | None) -> None:
        """Record the code that executes from this step on; None: from the beginning."""
        earlier = None if step is None else self.read_code()
        later = [] if earlier is None else earlier.get("later", [])
        if earlier is None:
            write_json(self.code, record)
        elif [earlier, *later][-1]["hash"] != record["hash"]:
            write_json(self.code, {**earlier, "later": [*later, {"from_step": step, **record}]})

    def write_summary(self, summary: Mapping[str, Any], digests: Digests) -> None:
        """Write what the run came to with these digests, and those of the files in WHOLE that are not among them."""
        others = [name for name in WHOLE if name not in digests and (self.path / name).is_file()]
        whole = {name: digest((self.path / name).read_bytes()) for name in others}
        content = json.loads(json.dumps({**summary, "files": {**whole, **digests}}))  # as it will be read
        write_json(self.summary, {**content, "sha256": seal(content)})

    def trim_events(self, digests: Digests) -> None:
        """Cut event files to what they held when the digests were taken: TensorBoard shows what comes again once."""
        for path in self.event_files():
            if path.name.endswith(f".{self.head_ablation.stem}"):  # of a command, beside those of training
                continue
            size = digests.get(path.name, {}).get("size", 0)
            if not size:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)

    def clear(self) -> None:
        """Remove what a run leaves behind, first what says that it is one; the lock stays with its owner."""
        self.summary.unlink(missing_ok=True)
        self.checkpoints.clear()
        for entry in self.path.iterdir():
            if entry == self.lock_file:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def find_run(path: os.PathLike[str] | str) -> RunFolder:
    """The folder of a run: the one given, or the only one below it."""
    folder = Path(path)
    if RunFolder(folder).config.is_file():
        return RunFolder(folder)
    folders = sorted(config.parent for config in folder.glob(f"**/{CONFIG}")) if folder.is_dir() else []
    if not folders:
        raise UsageError(
            f"run ({path}) must be the folder of a run, such as runs/default/NAME/{seed_name(0)}: no {CONFIG} there"
        )
    if len(folders) > 1:
        names = ", ".join(map(str, folders[:6])) + (", ..." if len(folders) > 6 else "")
        raise UsageError(f"run ({path}) holds {len(folders)} runs; name one of them: {names}")
    return RunFolder(folders[0])


def parse_config(folder: Path, text: str | None) -> dict[str, Any]:
    """The settings that the text of a run's config holds, its classes by their names of today. Raises Damaged."""
    if text is None:
        raise Damaged(folder, f"no {CONFIG}")
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise Damaged(folder, f"{CONFIG} is not YAML ({one_line(error)})") from error
    attention = content.get("attention") if isinstance(content, dict) else None
    if not isinstance(attention, dict) or not attention:
        raise Damaged(folder, f"{CONFIG} is not the config of a run")
    return dict(with_current_targets(content))


def lacks_lengths(summary: Mapping[str, Any], factors: Sequence[int]) -> bool:
    """Whether a finished run has not been judged at all these lengths, given as multiples of its context."""
    lengths = summary.get("extrapolation")
    return any(not isinstance(lengths, dict) or str(factor) not in lengths for factor in factors)


def _is_code(content: Any) -> bool:
    modules = content.get("modules") if isinstance(content, dict) else None
    texts = [*modules, *modules.values()] if isinstance(modules, dict) else [None]
    return all(isinstance(text, str) for text in (*texts, content.get("hash") if isinstance(content, dict) else None))
