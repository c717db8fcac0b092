"""Published claims, each a file configs/claim/NAME.yaml: what is claimed, the recipe, and the rule it is judged by."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from attnlab.analysis.claim_rules import (
    Condition,
    Measure,
    check_name,
    fewest_seeds,
    parse_condition,
    parse_measure,
)
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
# What a replication settles itself, and what would judge the runs, or end them, in another way.
SETTLED = {"seed", "experiment_name", "paths.runs", "plan", "overwrite", "preregister", "resume_from", "code", "report"}
SETTLED |= {"sweep", "card", "hydra"}


class Claim(NamedTuple):
    """A claim, its recipe, and its rule."""

    name: str
    claim: str  # a sentence
    source: str
    published: str  # what was measured there
    note: str  # why it comes out as it does, where that is known
    recipe: dict[str, Any]  # what its hash covers, as it stands in the file
    common: dict[str, Any]  # the settings that all arms have alike
    own: dict[str, dict[str, Any]]  # those of each arm; what one arm sets, all do
    design: Design  # the same as words
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
        return {"design": "grid", "settings": self.common, "axes": {self.axis: self.own}, "seeds": list(seeds)}


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
    for text in (*TEXTS, "note"):
        sentence = content.get(text) or ("-" if text == "note" else "")
        if not isinstance(sentence, str) or harmless(sentence) != sentence or not sentence.strip():
            raise UsageError(f"{key}: {text} ({_shown(content.get(text))}) must be a sentence")
    recipe = {part: content.get(part) for part in FROZEN}
    n_seeds, minutes = content.get("seeds"), content.get("minutes")
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise UsageError(f"{key}: minutes ({minutes!r}) must be a number above 0, those of one core")
    if type(n_seeds) is not int or not 0 < n_seeds <= MOST_SEEDS:
        raise UsageError(f"{key}: seeds ({n_seeds!r}) must be a whole number from 1 to {MOST_SEEDS}")
    common, own = _settings(key, recipe["settings"], recipe["arms"])
    design = read_design(name, {"settings": common, "axes": {"arm": own}})
    if not isinstance(recipe["measures"], Mapping) or not recipe["measures"]:
        raise UsageError(
            f"{key}: measures ({_shown(recipe['measures'])}) must hold formulas by name, such as accuracy: val/accuracy"
        )
    for measure in recipe["measures"]:
        check_name(f"{key}: measures", measure)
    measures = {m: parse_measure(f"{key}: measures.{m}", text) for m, text in recipe["measures"].items()}
    lines = recipe["rule"]
    if not isinstance(lines, list) or not lines:
        raise UsageError(f"{key}: rule ({_shown(lines)}) must list inequalities, each on a line that begins with -")
    rule = tuple(parse_condition(f"{key}: rule", line, list(measures), list(own)) for line in lines)
    for twice in [condition.text for i, condition in enumerate(rule) if condition.text in {c.text for c in rule[:i]}]:
        raise UsageError(f"{key}: rule ({twice}) stands there twice")
    if n_seeds < (fewest := fewest_seeds(rule)):
        raise UsageError(
            f"{key}: seeds ({n_seeds}) must be at least {fewest}: no fewer can refute one of {len(rule)} conditions"
        )
    claim, source, published, note = (str(content.get(text) or "").strip() for text in (*TEXTS, "note"))
    return Claim(
        name, claim, source, published, note, recipe, common, own, design, measures, rule, n_seeds, float(minutes)
    )


def _settings(key: str, settings: Any, arms: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What all arms have alike, and what each has of its own: where an arm sets something that stands among the common
    settings, its value counts, and the others have the common one."""
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"{key}: settings ({_shown(settings)}) must hold settings by name, as optimizer.lr: 3e-3")
    if not isinstance(arms, Mapping) or len(arms) < 2:
        raise UsageError(
            f"{key}: arms ({_shown(arms)}) must hold two or more by name, each with its settings, such as "
            "softmax: {attention: multi_head}"
        )
    for arm, content in arms.items():
        check_name(f"{key}: arms", arm)
        if content is not None and not isinstance(content, Mapping):
            raise UsageError(
                f"{key}: arms.{arm} ({_shown(content)}) must hold settings by name, as in {{optimizer.lr: 3e-3}}"
            )
    common, own = dict(settings or {}), {arm: dict(content or {}) for arm, content in arms.items()}
    for where, content in (("settings", common), *((f"arms.{arm}", content) for arm, content in own.items())):
        for name, value in content.items():
            if _bare(name).partition(".")[0] == "allow_targets":
                raise UsageError(
                    f"{key}: {where}.{name} ({_shown(value)}) must be typed, for no file can allow itself: "
                    "attnlab replicate allow_targets=PACKAGE"
                )
            if _bare(name) in SETTLED or _bare(name).partition(".")[0] in SETTLED:
                raise UsageError(f"{key}: {where}.{name} is settled by attnlab replicate: leave it out")
    varied = {_bare(name) for content in own.values() for name in content}
    usual = {name: value for name, value in common.items() if _bare(name) in varied}
    for arm, content in own.items():
        sets = {_bare(name) for name in content}
        own[arm] = {**{name: value for name, value in usual.items() if _bare(name) not in sets}, **content}
    for i, (arm, content) in enumerate(own.items()):
        for other in [name for name in list(own)[:i] if own[name] == content]:
            raise UsageError(f"{key}: arms.{arm} has the settings of arms.{other}: two arms must differ")
    return {name: value for name, value in common.items() if name not in usual}, own


def _bare(name: str) -> str:
    return name.lstrip("+~")


def _shown(value: Any) -> str:
    """A value as part of a line."""
    line = " ".join(harmless(shown(value)).split())
    return line if len(line) <= 80 else f"{line[:77]}..."
