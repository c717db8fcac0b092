"""Checks what a user typed before torch is imported, and turns every refusal into one line.

Three kinds of mistakes are caught here: a name that does not exist (variant, group, key), a value of the wrong type
or out of range, and a `_target_` that a config may not name. What only a constructor can know (heads that do not
divide, a position the variant cannot honour) is refused later, but still before any data is read.
"""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnlab.errors import AttnlabError, Stopped, UsageError


def config_dir() -> Path:
    """Where the shipped YAML files are: inside an installed package, or beside src/ in a checkout."""
    packaged = Path(__file__).parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "configs"


@dataclass(frozen=True)
class Rule:
    """What one key may hold: a type, a range (inclusive unless `above` or `below`), a choice, or null."""

    kind: type
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            return False
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float):
            return True
        bounds = (
            self.least is None or value >= self.least,
            self.above is None or value > self.above,
            self.below is None or value < self.below,
            self.most is None or value <= self.most,
        )
        return all(bounds)

    def __str__(self) -> str:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        text = " | ".join(self.choices) if self.choices else names[self.kind]
        if self.least is not None:
            text += f" of at least {self.least:g}"
        if self.above is not None:
            text += f" above {self.above:g}"
        if self.most is not None:
            text += f", at most {self.most:g}"
        if self.below is not None:
            text += f", below {self.below:g}"
        return text + (" or null" if self.optional else "")


COUNT = Rule(int, least=1)
MAYBE_COUNT = Rule(int, least=1, optional=True)
NATURAL = Rule(int, least=0)
FRACTION = Rule(float, least=0, below=1)
POSITIVE = Rule(float, above=0)
NONNEGATIVE = Rule(float, least=0)
FLAG = Rule(bool)
TEXT = Rule(str)
MAYBE_TEXT = Rule(str, optional=True)

# The first pattern that matches a key decides; a key without a rule keeps the type of its default.
RULES: tuple[tuple[str, Rule], ...] = (
    ("experiment_name", TEXT),
    ("seed", NATURAL),
    ("streams.*", NATURAL),
    ("batch_size", COUNT),
    ("overwrite", FLAG),
    ("resume_from", MAYBE_TEXT),
    ("paths.*", TEXT),
    ("maps.steps", Rule(int, least=2, most=60)),
    ("maps.probe", TEXT),
    ("maps.prompt", MAYBE_TEXT),
    ("sample.prompt", MAYBE_TEXT),
    ("sample.tokens", COUNT),
    ("sample.temperature", NONNEGATIVE),
    ("sample.top_k", MAYBE_COUNT),
    ("sample.steps", NATURAL),
    ("model.norm", Rule(str, choices=("rms", "layer"))),
    ("model.mlp", Rule(str, choices=("gelu", "relu2", "swiglu"))),
    ("model.init", Rule(str, choices=("gpt2", "fan_in"))),
    ("model.mlp_ratio", POSITIVE),
    ("trainer.accelerator", Rule(str, choices=("cpu", "gpu", "auto"))),
    ("trainer.strategy", Rule(str, choices=("auto", "ddp"))),
    ("trainer.precision", Rule(str, choices=("auto", "fp32", "bf16"))),
    ("trainer.threads", MAYBE_COUNT),
    ("trainer.devices", COUNT),
    ("trainer.max_steps", COUNT),
    ("trainer.accumulate", COUNT),
    ("trainer.*_every", COUNT),
    ("data.path", MAYBE_TEXT),
    ("data.val_fraction", Rule(float, above=0, below=1)),
    ("tokenizer.n_vocab", Rule(int, least=257, optional=True)),
    ("optimizer.betas*", FRACTION),
    ("optimizer.momentum", FRACTION),
    ("optimizer.*lr", POSITIVE),
    ("optimizer.weight_decay", NONNEGATIVE),
    ("optimizer.warmup_fraction", FRACTION),
    ("optimizer.decay", Rule(str, choices=("linear", "cosine", "constant"))),
    ("optimizer.final_lr_fraction", Rule(float, least=0, most=1)),
    ("optimizer.grad_clip", Rule(float, above=0, optional=True)),
    ("*dropout", FRACTION),
    ("*n_kv_heads", MAYBE_COUNT),
    ("*head_dim", MAYBE_COUNT),
    ("*value_dim", MAYBE_COUNT),
    ("*n_heads", COUNT),
    ("*n_layers", COUNT),
    ("*d_model", COUNT),
    ("model.context", COUNT),
    ("*.window", COUNT),
    ("*.chunk", COUNT),
    ("*.conv", NATURAL),
)


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a plain config; an empty mapping is a leaf."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and node:
        for i, value in enumerate(node):
            yield from leaves(value, f"{path}[{i}]")
    else:
        yield path, node


def nearest(word: str, among: Iterable[str]) -> str:
    """ " Did you mean ...?", or nothing if nothing is near."""
    found = difflib.get_close_matches(word, list(among), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def compose_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> dict[str, Any]:
    """What `python train.py OVERRIDES` would run with: the checked config as plain dicts. Imports no torch."""
    from hydra import compose, initialize_config_dir

    searched = [f"hydra.searchpath=[{','.join(f'file://{Path(d).absolute()}' for d in config_dirs)}]"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return check(compose("train", overrides=[*overrides, *(searched if config_dirs else [])]), overrides)


def check(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The config as plain dicts; refuses unknown keys, wrong types, values out of range and foreign classes."""
    try:
        composed = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(_first_line(error)) from error
    assert isinstance(composed, dict)
    plain = {str(key): value for key, value in composed.items()}
    check_targets(plain)
    given = dict(leaves(plain))
    usual = dict(leaves(_without_values(overrides))) if any(_is_value(o) for o in overrides) else given
    targets = {path.removesuffix("._target_") for path in given if path.endswith("._target_")}
    for path, value in given.items():
        rule = next((rule for pattern, rule in RULES if fnmatch(path, pattern)), None)
        if rule is None and path in usual and usual[path] is not None and value != usual[path]:
            rule = Rule(type(usual[path])) if type(usual[path]) in (int, float, bool, str) else None
        if rule is not None and not rule.accepts(value):
            raise UsageError(f"{path} ({_shown(value)}) must be {rule}")
        base = path.split("[")[0]
        if path not in usual and base not in {p.split("[")[0] for p in usual} and not _inside(path, targets):
            raise UsageError(f"{path} is not a key of the config{nearest(path, usual)}")
    name = plain["experiment_name"]
    if not name or name.startswith(".") or set(name) & set("/\\=,: \n"):
        raise UsageError(f"experiment_name ({_shown(name)}) names a folder: letters, digits, '-', '_' and '.' only")
    return plain


def check_targets(plain: Mapping[str, Any]) -> None:
    """A config may only name classes of attnlab and of the packages in allow_targets: nothing else is imported."""
    allowed = ("attnlab", *plain.get("allow_targets", []))
    for path, value in leaves(dict(plain)):
        if path.split(".")[-1] == "_target_":
            package = str(value).split(".")[0]
            if package not in allowed:
                raise UsageError(
                    f"{path} ({value}) is not allowed: a config may only name classes of {', '.join(allowed)}; "
                    f"if you trust {package!r}, add allow_targets=[{package}]"
                )


def _inside(path: str, targets: set[str]) -> bool:
    """Whether the key is an argument of some class, whose constructor will judge it."""
    return path.rpartition(".")[0] in targets and path.rpartition(".")[0] != ""


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_value(override: str) -> bool:
    """Whether an override sets a value rather than choosing an option of a group."""
    key = override.split("=")[0].lstrip("+~").split("@")[0]
    return not any((Path(folder) / key).is_dir() for folder in search_folders())


def _without_values(overrides: Sequence[str]) -> dict[str, Any]:
    """The config as it would be with only the group choices: what types the keys have by default."""
    loader = GlobalHydra.instance().config_loader()
    kept = [o for o in overrides if not _is_value(o)]
    cfg = loader.load_configuration("train", overrides=kept, run_mode=RunMode.RUN)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def search_folders() -> list[Path]:
    """The folders YAML files are looked for in: the user's --config-dir first, then ours."""
    if GlobalHydra.instance().is_initialized():
        path: ConfigSearchPath = GlobalHydra.instance().config_loader().get_search_path()
        found = [Path(e.path.removeprefix("file://")) for e in path.get_path() if e.path.startswith("file://")]
        return [folder for folder in found if folder.is_dir()] or [config_dir()]
    return [config_dir()]


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[0].split())


def groups() -> list[str]:
    """Every group a user can choose from, such as "attention" or "attention/mask"."""
    roots = {config_dir(), *(Path(a) for a in _config_dirs(sys.argv))}
    return sorted({p.parent.relative_to(root).as_posix() for root in roots for p in root.glob("**/*.yaml")} - {"."})


def _config_dirs(argv: Sequence[str]) -> Iterator[str]:
    for i, word in enumerate(argv):
        if word.startswith("--config-dir="):
            yield word.partition("=")[2]
        elif word in ("--config-dir", "-cd") and i + 1 < len(argv):
            yield argv[i + 1]


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Hydra's complaint in one line that says what is allowed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = ", ".join(error.options)
        return f"{group}={name} does not exist{nearest(name, error.options)} (choose from: {options})"
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: write key=value (quote values with special characters: \"key='a b'\")"
    if isinstance(error, ConfigCompositionException) and "Could not override '" in text:
        key = text.split("Could not override '")[1].split("'")[0]
        return _explain_key(key, text)
    if isinstance(error, ConfigCompositionException) and error.__cause__ is not None:
        return f"{_first_line(error)} ({_first_line(error.__cause__)})"
    return _first_line(error)


def _explain_key(key: str, text: str) -> str:
    if "Did you mean to override one of" in text:
        return f"{key} stands in several places; name one: " + text.split("override one of ")[1].split("?")[0]
    known = groups()
    if key in known:
        parent, _, slot = key.rpartition("/")
        chosen = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith(f"{parent}=")), "the chosen one")
        return f"{parent}={chosen} has no slot {slot!r}, so {key}= cannot be set"
    keys = set(known)
    try:
        from hydra import compose, initialize_config_dir

        GlobalHydra.instance().clear()
        chosen_groups = [a for a in sys.argv[1:] if a.partition("=")[0] in known and "," not in a]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            plain = OmegaConf.to_container(compose("train", overrides=chosen_groups), resolve=False)
        for path, _ in leaves(plain):
            parts = path.split(".")
            keys |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    except (HydraException, OmegaConfBaseException):
        pass  # the suggestion is a courtesy; the refusal stands without it
    return f"{key} is not a key of the config{nearest(key, keys)} (see: python train.py --cfg job)"


class Failures:
    """Collects what went wrong in the jobs of one command, so that one job's failure does not end the others."""

    def __init__(self) -> None:
        self.errors: list[AttnlabError] = []

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Run one job: note what attnlab refuses, and go on, unless the user wants to stop."""
        try:
            yield
        except Stopped as error:
            _end(str(error), error.exit_code)
        except AttnlabError as error:
            self.errors.append(error)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _print_error(str(error))

    def end(self, jobs: int) -> None:
        """After all jobs: end with the error of the only one, or with 1 where some of several failed."""
        if self.errors and jobs == 1:
            raise self.errors[0]
        if self.errors:
            raise AttnlabError(f"{len(self.errors)} of {jobs} jobs failed")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line and the right exit code where attnlab or Hydra refuses something."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing its own page
    try:
        yield
    except AttnlabError as error:
        _end(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        _end(explain(error), UsageError.exit_code)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", 130)


def _print_error(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)


def _end(message: str, code: int) -> None:
    _print_error(message)
    sys.exit(code)


def overrides_of_this_run() -> list[str]:
    """What was typed on the command line."""
    return list(HydraConfig.get().overrides.task)


def variant_name() -> str:
    """The attention that was chosen, and the options that were put into its slots: gqa, or gqa+window."""
    hydra = HydraConfig.get()
    slots = (o.partition("=") for o in hydra.overrides.task if o.lstrip("+").startswith("attention/"))
    options = [word for _, _, chosen in slots for word in chosen.strip("[]").replace(" ", "").split(",") if word]
    return "+".join([str(hydra.runtime.choices["attention"]), *options])
