"""The folder of an experiment: the names of what stands in it, beside its runs."""

from dataclasses import dataclass
from pathlib import Path

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
        self.attention_dtype = self.path / "attention_dtype.json"  # what was measured for all runs
        self.tuned = self.path / "tuned.yaml"  # a learning rate for each variant
        self.learning_rates = self.path / "learning_rates.svg"
        self.logs = self.path / "logs"  # what the runs of a sweep printed
        self.report = self.path / "report"

    def __str__(self) -> str:
        return str(self.path)

    def log(self, group: str, seed: int) -> Path:
        """Where all that a run of a sweep prints goes."""
        return self.logs / f"{group}-{seed_name(seed)}.log"

    def run(self, group: str, seed: int) -> RunFolder:
        """The run of a seed, in the folder of its configuration and code."""
        return RunFolder(self.path / group / seed_name(seed))

    def runs(self) -> list[RunFolder]:
        """Every run that is there, in the order of their names."""
        return [RunFolder(path) for path in sorted(self.path.glob(f"*/{SEED}*"))]
