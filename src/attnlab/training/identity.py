"""Which run this is: the settings that change its result, their hash, and the folder that follows from it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.keys import settings_of

BY_CONTENTS = ("data.*", "tokenizer.*")  # what they come to is hashed
SEEDS = ("seed", "streams.data", "streams.init", "streams.noise", "streams.eval")


class Identity(NamedTuple):
    """A run's name and everything that makes it this run and no other."""

    variant: str
    seed: int
    fingerprint: dict[str, Any]  # every setting that changes the result, with content hashes in place of paths

    @property
    def hash8(self) -> str:
        """Eight hexadecimal digits: equal for runs that differ in their seed alone."""
        fixed = {key: value for key, value in self.fingerprint.items() if key not in SEEDS}
        # A stream that does not follow the seed is a setting like any other.
        apart = {key: self.fingerprint[key] for key in SEEDS[1:] if self.fingerprint[key] != self.seed}
        return hashlib.sha256(json.dumps(fixed | apart, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The folder of all seeds of this configuration, such as multi_head-0123abcd."""
        return f"{self.variant}-{self.hash8}"

    def folder(self, runs: Path | str, experiment_name: str) -> Path:
        """Where the run lives: runs/<experiment>/<variant>-<hash>/seed_<n>."""
        return Path(runs) / experiment_name / self.name / f"seed_{self.seed}"


def identify(config: Mapping[str, Any], variant: str, resolved: Mapping[str, Any]) -> Identity:
    """The identity of a checked config; `resolved` replaces what the machine and the files decide (see `run`)."""
    settings = {key: _one_spelling(value) for key, value in settings_of(config, besides=BY_CONTENTS).items()}
    return Identity(variant, config["seed"], settings | dict(resolved))


def _one_spelling(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One remark for every setting in which two fingerprints differ, as "key (ours here, theirs there)"."""
    missing = "absent"
    return [
        f"{key} ({ours.get(key, missing)} here, {theirs.get(key, missing)} there)"
        for key in sorted({*ours, *theirs})
        if ours.get(key, missing) != theirs.get(key, missing)
    ]
