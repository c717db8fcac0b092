"""The folder of an experiment: the names of what stands in it, beside its runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlab.errors import UsageError
from attnlab.store.files import parse_json, read_file
from attnlab.store.locks import make_entry_once
from attnlab.store.manifest import Manifest
from attnlab.store.names import MANIFEST, PREREGISTRATION, SEED
from attnlab.store.run_folder import RunFolder, seed_name


@dataclass(unsafe_hash=True, order=True)
class ExperimentFolder:
    """The folder of an experiment, whether it is there or not: <variant>-<hash>.<code>/seed_<n>/ and these."""

    path: Path

    def __post_init__(self) -> None:
        self.manifest = Manifest(self.path / MANIFEST)  # every run that was ever planned
        self.preregistration = self.path / PREREGISTRATION  # what was promised before the first run
        self.resolved = self.path / "resolved.json"  # what settings that were `auto` came to, for all runs
        self.attention_dtype = self.path / "attention_dtype.json"  # one of them, as earlier versions kept it
        self.tuned = self.path / "tuned.yaml"  # a learning rate for each variant
        self.learning_rates = self.path / "learning_rates.svg"
        self.logs = self.path / "logs"  # what the runs of a sweep printed
        self.report = self.path / "report"

    def __str__(self) -> str:
        return str(self.path)

    def check_exists(self) -> None:
        """Raises UsageError if there is no such folder."""
        if not self.path.is_dir():
            raise UsageError(
                f"experiment ({self}) must be a folder of runs, such as runs/default: there is no such folder"
            )

    def read_resolved(self) -> dict[str, Any]:
        """A record for each setting that was `auto`, with its `value`; raises ValueError where it is damaged."""
        records = dict[str, Any]()
        if self.attention_dtype.is_file():
            old = _mapping(self.attention_dtype)
            records["trainer.attention_dtype"] = {"value": old.get("attention_dtype"), **old}
        return records | (_mapping(self.resolved) if self.resolved.is_file() else {})

    def resolve_once(self, key: str, choose: Callable[[], Mapping[str, Any]]) -> Any:
        """The record of a setting: what the first run that needs it chooses, for all others. Raises ValueError."""

        def older_or_new() -> Mapping[str, Any]:
            return dict(self.read_resolved().get(key) or choose())

        return make_entry_once(self.resolved, key, older_or_new, key="paths.runs")

    def log(self, group: str, seed: int) -> Path:
        """Where all that a run of a sweep prints goes."""
        return self.logs / f"{group}-{seed_name(seed)}.log"

    def run(self, group: str, seed: int) -> RunFolder:
        """The run of a seed, in the folder of its configuration and code."""
        return RunFolder(self.path / group / seed_name(seed))

    def runs(self) -> list[RunFolder]:
        """Every run that is there, in the order of their names."""
        return [RunFolder(path) for path in sorted(self.path.glob(f"*/{SEED}*"))]


class PlannedExperiment(ExperimentFolder):
    """An experiment as a plan sees it: what an `auto` comes to is read, or chosen for this object alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.chosen: dict[str, Mapping[str, Any]] = {}

    def resolve_once(self, key: str, choose: Callable[[], Mapping[str, Any]]) -> Any:
        """The record of a setting, which is written nowhere. Raises ValueError."""
        if key not in self.chosen:
            self.chosen[key] = self.read_resolved().get(key) or choose()
        return self.chosen[key]


def _mapping(path: Path) -> dict[str, Any]:
    content = parse_json(read_file(path))
    if not isinstance(content, dict):
        raise ValueError("it holds no settings by name")
    return content
