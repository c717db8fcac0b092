"""Published claims, each a file configs/claim/NAME.yaml: what is claimed, the recipe, and the rule it is judged by."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attnlab.analysis.claim_rules import Condition, Measure, fewest_seeds, parse_condition, parse_measure
from attnlab.config.keys import CLAIMS, options, search_folders
from attnlab.errors import UsageError, nearest, shown
from attnlab.machine.environment import harmless
from attnlab.store.damage import one_line
from attnlab.store.files import parse_yaml, read_file
from attnlab.sweep.design import Design, read_design

TEXTS = ("claim", "source", "published")
KEYS = (*TEXTS, "note", "settings", "arms", "measures", "rule", "seeds", "minutes")
FROZEN = ("settings", "arms", "measures", "rule", "seeds")  # the recipe and the rule, which the hash covers
MOST_SEEDS = 1000
FIRST_FROZEN_SEED = 1000  # those of trials are below


class Claim(NamedTuple):
    """A claim, its recipe, and its rule."""

    name: str
    claim: str  # a sentence
    source: str
    published: str  # what was measured there
    note: str  # why it comes out as it does, where that is known
    recipe: dict[str, Any]  # what its hash covers, as it stands in the file
    design: Design
    measures: dict[str, Measure]
    rule: tuple[Condition, ...]
    n_seeds: int
    minutes: float  # of one core

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """The settings of each arm, as they are typed."""
        return self.design.axes[0].levels

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that its measures are made of."""
        return tuple(dict.fromkeys(metric for measure in self.measures.values() for metric in measure.metrics))

    @property
    def hash(self) -> str:
        """Of recipe and rule."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()

    @property
    def seeds(self) -> list[int]:
        """The seeds that judge it: they follow from the hash, so nobody chose them, and no trial has used them."""
        drawn: dict[int, None] = {}
        i = 0
        while len(drawn) < self.n_seeds:
            digest = hashlib.sha256(f"{self.hash}/{i}".encode()).digest()
            drawn[FIRST_FROZEN_SEED + int.from_bytes(digest[:4], "big") % 1_000_000] = None
            i += 1
        return list(drawn)

    @property
    def axis(self) -> str:
        """What the sweep varies, by which its runs are told from those of other recipes."""
        return f"arm of {self.hash[:12]}"

    def settings(self, arm: str) -> tuple[str, ...]:
        """All that makes a run of an arm, as it is typed, but the seed."""
        return (*self.design.settings, *self.arms[arm])

    def sweep(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The recipe as a design, which `attnlab train -m +sweep=NAME` takes."""
        axes = {self.axis: self.recipe["arms"]}
        return {"design": "grid", "settings": self.recipe["settings"], "axes": axes, "seeds": list(seeds)}


def read_claims(names: Sequence[str] = ()) -> list[Claim]:
    """The claims of these names, all if there are none. Refuses a name or a file that is wrong."""
    every = options(CLAIMS)
    for name in names:
        if name not in every:
            raise UsageError(f"claim ({name}) must be among: {', '.join(every)}{nearest(name, every)}")
    return [read_claim(name) for name in dict.fromkeys(names or every)]


def read_claim(name: str) -> Claim:
    """A claim from its file, refused with the key that is wrong."""
    path = next(p for root in search_folders() if os.path.lexists(p := root / CLAIMS / f"{name}.yaml"))
    return parse_claim(name, path)


def parse_claim(name: str, path: Path) -> Claim:
    """What the file says, checked."""
    key = f"{CLAIMS} {name}"
    try:
        content = parse_yaml(read_file(path).decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({one_line(error)})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not YAML ({one_line(error)})") from error
    if not isinstance(content, Mapping):
        raise UsageError(f"{key} must hold settings by name: {', '.join(KEYS)}")
    for word in content:
        if word not in KEYS:
            raise UsageError(f"{key}: {word} is not a key{nearest(str(word), KEYS)} (keys: {', '.join(KEYS)})")
    for text in TEXTS:
        if not isinstance(sentence := content.get(text), str) or harmless(sentence) != sentence or not sentence.strip():
            raise UsageError(f"{key}: {text} ({shown(sentence)}) must be a sentence")
    recipe = {part: content.get(part) for part in FROZEN}
    n_seeds, minutes = content.get("seeds"), content.get("minutes")
    if not isinstance(minutes, int | float) or not minutes > 0:
        raise UsageError(f"{key}: minutes ({shown(minutes)}) must be a number above 0")
    axes = {"arm": recipe["arms"]} if isinstance(recipe["arms"], Mapping) else {}
    if (
        type(n_seeds) is not int
        or n_seeds > MOST_SEEDS
        or len(axes.get("arm", ())) < 2
        or not isinstance(recipe["measures"], Mapping)
        or not recipe["measures"]
    ):
        raise UsageError(
            f"{key}: arms must hold two or more by name, measures some, and seeds a number up to {MOST_SEEDS}"
        )
    design = read_design(name, {"settings": recipe["settings"] or {}, "axes": axes})
    _check_keys(key, design)
    measures = {str(m): parse_measure(f"{key}: measures.{m}", text) for m, text in recipe["measures"].items()}
    lines = recipe["rule"] if isinstance(recipe["rule"], list) else []
    names = (list(measures), list(design.axes[0].levels))
    rule = tuple(parse_condition(f"{key}: rule", line, *names) for line in lines)
    if not rule or n_seeds < fewest_seeds(rule):
        fewest = f"seeds ({n_seeds}) must be at least {fewest_seeds(rule)}" if rule else "rule must list inequalities"
        raise UsageError(f"{key}: {fewest}" + (f": no fewer can refute one of {len(rule)} conditions" if rule else ""))
    claim, source, published, note = (str(content.get(text) or "").strip() for text in (*TEXTS, "note"))
    return Claim(name, claim, source, published, note, recipe, design, measures, rule, n_seeds, float(minutes))


def _check_keys(key: str, design: Design) -> None:
    """Refuse what a replication settles itself, and what arms and all runs would both set."""
    settled = {"seed", "experiment_name", "paths.runs", "report.at_end"}
    common = {word.partition("=")[0].lstrip("+~") for word in design.settings}
    for arm, overrides in design.axes[0].levels.items():
        for name in (word.partition("=")[0].lstrip("+~") for word in overrides):
            if name in common:
                raise UsageError(f"{key}: {name} is set for all arms and for {arm}: leave one of them out")
            if name in settled:
                raise UsageError(f"{key}: {name} is settled by attnlab replicate: leave it out")
    if both := sorted(common & settled):
        raise UsageError(f"{key}: {both[0]} is settled by attnlab replicate: leave it out")
