"""Which run this is: the settings that change its result, the code that executes, and the folder that follows."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.config.code import Code, changes_since, in_a_line
from attnlab.config.keys import one_spelling, settings_of, stable
from attnlab.config.run_config import RunConfig
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.run_folder import RunFolder, group_name
from attnlab.store.status import ENDED, Status

BY_CONTENTS = ("data.*", "tokenizer.*")  # what they come to is hashed
SEEDS = ("seed", "streams.data", "streams.init", "streams.noise", "streams.eval")


class Identity(NamedTuple):
    """A run's name and everything that makes it this run and no other."""

    variant: str
    seed: int
    fingerprint: dict[str, Any]  # every setting that changes the result, with content hashes in place of paths
    code: str  # the hash of `attnlab.config.code.Code`

    @property
    def hash8(self) -> str:
        """Eight hexadecimal digits: equal for runs that differ in their seed alone."""
        fixed = {key: value for key, value in self.fingerprint.items() if key not in SEEDS}
        # A stream that does not follow the seed is a setting like any other.
        apart = {key: self.fingerprint[key] for key in SEEDS[1:] if self.fingerprint[key] != self.seed}
        return hashlib.sha256(json.dumps(fixed | apart, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """The folder of all seeds of this configuration by this code."""
        return group_name(self.variant, self.hash8, self.code)

    def folder(self, runs: Path | str, experiment_name: str) -> RunFolder:
        """Where the run lives: runs/<experiment>/<variant>-<hash>.<code>/seed_<n>."""
        return ExperimentFolder(Path(runs) / experiment_name).run(self.name, self.seed)


def identify(config: RunConfig, variant: str, resolved: Mapping[str, Any], code: str) -> Identity:
    """The identity of a checked config; `resolved` replaces what the machine and the files decide (see `run`)."""
    settings = {key: one_spelling(value) for key, value in settings_of(config.as_dict(), besides=BY_CONTENTS).items()}
    return Identity(variant, config.seed, settings | dict(resolved), code)


class Earlier(NamedTuple):
    """A run as other code made it, or began it."""

    identity: Identity
    folder: RunFolder
    ended: bool  # well or badly
    changed: list[str]  # the modules that are not what they were

    def __str__(self) -> str:
        return f"was {'made' if self.ended else 'begun'} by other code ({in_a_line(self.changed)})"


def earlier(identity: Identity, code: Code, runs: Path | str, experiment_name: str) -> Earlier | None:
    """The same run by other code, if this code has nothing of it yet: what is finished goes first, then the latest."""
    own = identity.folder(runs, experiment_name)
    others = [other for other in own.by_other_code() if other.has_begun()]
    if own.has_begun() or not others:
        return None
    folder = max(others, key=_standing)
    record = folder.read_code()
    digest = folder.code_digits if record is None else record["hash"]
    names = changes_since(record, code) or []
    return Earlier(identity._replace(code=digest), folder, folder.read_summary().get("status") in ENDED, names)


def _standing(folder: RunFolder) -> tuple[bool, float]:
    newest = max((path.stat().st_mtime for path in folder.checkpoints.files()), default=0.0)
    return folder.read_summary().get("status") == Status.FINISHED, newest


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One remark for every setting in which two fingerprints differ, as "key (ours here, theirs there)"."""
    missing = "absent"
    theirs = {key: stable(key, value) for key, value in theirs.items()}  # older ones hold the modules of classes
    return [
        f"{key} ({ours.get(key, missing)} here, {theirs.get(key, missing)} there)"
        for key in sorted({*ours, *theirs})
        if ours.get(key, missing) != theirs.get(key, missing)
    ]
