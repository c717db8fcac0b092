"""Composes a config and checks what a user typed, before torch is imported.

Three kinds of mistakes are caught here: a key that does not exist, a value of the wrong type or out of range, and a
`_target_` that a config may not name. A name that does not exist is Hydra's to find (see messages.py). What only a
constructor can know (heads that do not divide, a position the variant cannot honour) is refused later, but still
before any data is read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.allowed_classes import allowed_packages, check_targets
from attnlab.config.from_folder import OF_MODELS, with_folder
from attnlab.config.guard import check_references, from_environment, guarded
from attnlab.config.keys import (
    APPENDED,
    LATER,
    LISTS,
    config_dir,
    fixed_keys,
    how_to_choose,
    nodes,
    options,
    owner_of,
    search_folders,
    unknown_key,
)
from attnlab.config.run_config import RunConfig, fixed_options
from attnlab.config.tuned_settings import chosen_keys, with_tuned_settings
from attnlab.errors import UsageError, nearest, shown
from attnlab.options import Option, OptionError, not_an_option, options_of, settable
from attnlab.options.rules import Rule, refusal
from attnlab.options.skeleton import Skeletons
from attnlab.store.files import expand_path

GROUPS = ("model", "position", "attention", "data", "tokenizer", "optimizer", "trainer")  # one option of each
CLASSES = ("position.embed", "position.inside", "attention", "data", "tokenizer", "optimizer")  # name a class
SHOWN = ("maps.", "sample.", "report.", "experiment_name")  # whose values stand in pictures, pages and names
OF_BASELINE = ("model.", "attention.")
SETTING = re.compile(rf"({'|'.join((*GROUPS, *LISTS))})[.][\w.]+=")  # words that set what an option brings along
OF_ATTENTION = re.compile(r"[+~]*attention[=./@]")  # words that make a variant what it is
TO_A_KEY = re.compile(r"\$\{([a-z][\w.]*)\}")  # a reference to another key, that is no more than that


class Typed(NamedTuple):
    """What was typed for a job, and what Hydra chose by it."""

    overrides: Sequence[str]
    choices: Mapping[str, Any]  # by group
    main: str  # the name of the main config
    searched: Sequence[str]  # words hydra.searchpath=[...]
    is_single: bool

    @classmethod
    def of(cls, hydra: Any) -> "Typed":
        """Of the job with these settings of Hydra: its share of a sweep."""
        overrides = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # one may be an interpolation
        assert isinstance(overrides, list)
        searched = [str(word) for word in hydra.overrides.hydra if "hydra.searchpath=" in word]
        main, single = str(hydra.job.config_name), hydra.mode == RunMode.RUN
        return cls([str(word) for word in overrides], hydra.runtime.choices, main, searched, single)


def compose_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> RunConfig:
    """What `python train.py OVERRIDES` would run with: the checked config. Imports no torch."""
    return compose_job(overrides, config_dirs)[0]


def compose_job(overrides: Sequence[str] = (), config_dirs: Sequence[Path | str] = ()) -> tuple[RunConfig, str]:
    """The checked config of a job, and the name of its variant."""
    from hydra import compose, initialize_config_dir

    folders = ",".join(f"file://{Path(folder).absolute()}" for folder in config_dirs)
    searched = [f"hydra.searchpath=[{folders}]"] if config_dirs else []
    with guarded(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, *searched], return_hydra_config=True)
        with open_dict(cfg):
            hydra = cfg.pop("hydra")
        config = check(cfg, overrides, searched=searched)
        return config, variant_name(config, Typed.of(hydra))


def check_job(cfg: DictConfig, typed: Typed | None = None) -> RunConfig:
    """The config of a job, checked: of the one that Hydra has started, or of the one for which this was typed."""
    typed = Typed.of(HydraConfig.get()) if typed is None else typed
    return fit_job(check(cfg, typed.overrides, main=typed.main, searched=typed.searched), typed)


def fit_job(config: RunConfig, typed: Typed) -> RunConfig:
    """A checked config as a job of its command; refuses what a single run, or a sweep, cannot do."""
    if config.preregister and typed.is_single:
        raise UsageError("preregister=true is for many runs: add -m, as in python train.py -m preregister=true")
    if not typed.is_single and config.trainer.devices * config.trainer.nodes > 1:
        key, number = next(
            (key, n) for key, n in (("devices", config.trainer.devices), ("nodes", config.trainer.nodes)) if n > 1
        )
        raise UsageError(
            f"trainer.{key} ({number}) must be 1 with -m: for each further device the whole "
            "command is started once more, with all its jobs; start one command for each run"
        )
    if "attention" not in typed.choices and any(word.startswith("attention=") for word in typed.overrides):
        raise UsageError(f"attention takes one name, not a list: attention={' | '.join(options('attention'))}")
    # Here, too: a sweep refuses every seed at its start.
    tuned, _ = with_tuned_settings(config, variant_name(config, typed))
    return tuned


def check(
    cfg: DictConfig,
    overrides: Sequence[str],
    *,
    main: str = "train",
    searched: Sequence[str] = (),
    shipped: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The config as a record; refuses unknown keys, wrong types, values out of range and foreign classes.

    `overrides` are the words it was composed from, `main` is the name of the main config, and `searched` are words
    hydra.searchpath=[...]: they tell which keys there are by default. That is `shipped`, where it is known already.
    """
    whole, variant = with_folder(cfg, overrides)
    plain = _plain(whole)
    environment = plain.pop("environment", {})  # what is stored in the place of values that may be secrets
    shipped = shipped or _usual(plain, overrides, main, searched)
    theirs = {} if whole is cfg else {name: plain[name] for name in (*OF_MODELS, "tokenizer")}
    usual = {path: value for path, value, _ in nodes({**shipped, **theirs})}
    config = check_plain(plain, usual, overrides, main=main, searched=searched, environment=environment)
    return config if variant is None else replace(config, more={**config.more, "variant": variant})


def check_plain(
    plain: dict[str, Any],
    usual: Mapping[str, Any],
    overrides: Sequence[str],
    *,
    main: str,
    searched: Sequence[str],
    environment: Mapping[str, str],
) -> RunConfig:
    """The same of a config whose references are resolved; `usual` are the values by key that options alone give, and
    `environment` the texts to store in the place of values that may be secrets."""
    if "sweep" in plain:
        raise UsageError("sweep= describes many runs: add -m, as in python train.py -m +sweep=NAME")
    names = allowed_packages(plain.get("allow_targets", []))[1:]
    if names and not any(word.lstrip("+").startswith("allow_targets=") for word in overrides):
        fix = f"allow_targets=[{','.join(names)}]"
        raise UsageError(f"allow_targets ({', '.join(names)}) must be typed, for no file can allow itself: add {fix}")
    check_groups(plain, overrides)
    check_targets(plain)
    check_values(plain, usual, {_key(word): word.partition("=")[2] for word in overrides})
    check_keys(plain, usual)
    given = {path for path, _, _ in nodes(plain)}
    for key in CLASSES:
        if f"{key}._target_" not in given:
            raise UsageError(f"{key} names no class: its YAML file needs a line _target_: package.module.Class")
    check_lists(plain)
    name = plain["experiment_name"]
    # Letters of any script, with the marks that some of them are written with.
    if name.startswith(".") or not all(sign in "-_." or category(sign)[0] in "LMN" for sign in name):
        text = name if name.isprintable() else repr(name)
        raise UsageError(
            f"experiment_name ({text}) names a folder: letters, digits, '-', '_' and '.' only, and no '.' at its start"
        )
    _expand_paths(plain)
    if plain["tuned"] is not None and (both := chosen_keys(plain["tuned"]) & {_key(word) for word in overrides}):
        raise UsageError(f"tuned ({plain['tuned']}) chooses {', '.join(sorted(both))}: leave one of them out")
    if plain["match"] is not None:
        plain["baseline"] = _baseline(plain, overrides, main, searched)
        own = {f"baseline.{key}": text for key, text in environment.items() if key.startswith(OF_BASELINE)}
        environment = {**environment, **own}
    return RunConfig.of({**plain, "environment": dict(environment)})


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """An unresolved config with other values at some of its keys, and what its references to keys stand for.

    None where that takes Hydra: a key that is not there or holds a group, a reference that is more than a key, weights
    of a folder whose config decides.
    """
    plain = _copied(raw)
    try:
        for key, value in values.items():
            node, last = owner_of(plain, key)
            if isinstance(node[last], dict):
                return None
            node[last] = value
        return _copied(plain, plain) if plain.get("init_from") is None else None
    except (KeyError, TypeError, RecursionError):
        return None


def _copied(node: Any, root: Any = None) -> Any:
    """A copy of plain data, in which references to keys of `root`, if it is given, are what stands there."""
    if isinstance(node, dict):
        return {key: _copied(value, root) for key, value in node.items()}
    if isinstance(node, list):
        return [_copied(value, root) for value in node]
    if root is None or not isinstance(node, str) or not ("${" in node or node == "???"):
        return node
    if (reference := TO_A_KEY.fullmatch(node)) is not None:
        return _referred(reference, root)
    parts = [_referred(reference, root) for reference in TO_A_KEY.finditer(node)]
    rest = TO_A_KEY.sub("", node)
    if "$" in rest or "\\" in rest or node == "???" or not all(isinstance(part, str) for part in parts):
        raise KeyError(node)
    return TO_A_KEY.sub(lambda _: parts.pop(0), node)


def _referred(reference: re.Match[str], root: Any) -> Any:
    there = root
    for key in reference[1].split("."):
        there = there[key]
    return _copied(there, root)


def _expand_paths(plain: dict[str, Any]) -> None:
    """Put home folders in the place of ~ and ~name, in every key of the main config that names a file or a folder."""
    plain["paths"] = {name: str(expand_path(path, key=f"paths.{name}")) for name, path in plain["paths"].items()}
    for key in ("resume_from", "init_from", "tuned"):
        if plain[key] is not None:
            plain[key] = str(expand_path(plain[key], key=key))


def check_groups(plain: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse groups that are typed and that nothing reads, such as +notes=mine.

    A number or a text may stand there for others to refer to, and so may what a file of a user's own holds.
    """
    typed = {_key(word).partition("/")[0].partition("@")[0] for word in overrides}
    fixed, owners = fixed_keys(), {key.rpartition(".")[0] for key in CLASSES} - {""}
    groups = {key.partition(".")[0] for key in fixed} | {*GROUPS, *LISTS, *APPENDED}
    below = [f"{owner}.{name}" for owner in owners for name in plain[owner]]
    for path in [name for name, node in plain.items() if isinstance(node, Mapping) and name in typed - groups] + [
        path for path in below if path not in CLASSES
    ]:
        raise UsageError(unknown_key(path, fixed | groups | set(CLASSES)))


def check_keys(plain: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Refuse keys that are not among the usual ones, except where a class will judge its arguments."""
    fixed = fixed_keys()
    closed = {key.rpartition(".")[0] for key in fixed} - {""}  # groups that hold nothing else, whoever sets them
    given = {path: (value, owner) for path, value, owner in nodes(plain)}
    new: set[str] = set()
    for path, (value, owner) in given.items():
        above = path.rpartition(".")[0]
        if path in (fixed if above in closed else usual):
            continue
        if path in APPENDED:
            raise UsageError(f"{path}={shown(value)} does not exist: there is no YAML file in the folder {path} yet")
        one_more_class = owner and isinstance(value, Mapping) and "_target_" in value  # such as a kind of layers
        if not (above and f"{above}._target_" in given) and above not in new and not one_more_class:
            raise UsageError(unknown_key(path, (fixed | set(usual)) - {path}))
        new.add(path)
    for path in sorted(fixed - set(given) - set(LATER)):
        raise UsageError(f"{path} is missing: it can be set, but not left out")


def check_lists(plain: Mapping[str, Any]) -> None:
    """Refuse options of logger= and callbacks= that do not stand below a name, each with its class."""
    for group in LISTS:
        for name, node in (plain.get(group) or {}).items():
            if not (isinstance(node, Mapping) and "_target_" in node):
                raise UsageError(
                    f"{group}.{name} ({shown(node)}) must hold settings with a _target_: a YAML file of {group}/ "
                    "begins with a name, and its settings stand below it"
                )
            if not isinstance(node.get("watches", True), bool):
                raise UsageError(f"{group}.{name}.watches ({shown(node['watches'])}) must be true or false")


def check_values(
    plain: Mapping[str, Any], usual: Mapping[str, Any] | None = None, typed: Mapping[str, str] | None = None
) -> None:
    """Refuse values that break a rule, or that are of another type than the usual ones; `typed` are words by key."""
    declared = dict(_declared(plain, usual or {}))
    for path, value, owner in nodes(plain):
        default = None if usual is None else usual.get(path)
        if isinstance(value, Mapping) and (default is None or isinstance(default, Mapping)):
            continue
        if isinstance(default, Mapping):
            raise UsageError(f"{path} ({shown(value)}) must hold settings, not a value{how_to_choose(path)}")
        if (option := declared.get(path)) is not None and (problem := option.problem(value)) is not None:
            raise OptionError(path, value, problem, (typed or {}).get(path))
        if option is not None and option.rules:
            continue
        rule, ours = None, not owner or owner.startswith("attnlab.")
        if ours and type(default) in (int, float, bool, str) and default != "???":
            rule = Rule(type(default))
        elif type(default) in (int, float):  # of a class of the user's, which may take more than this
            rule = Rule(float, optional=True)
        if rule is not None and not rule.accepts(value):
            raise UsageError(refusal(path, value, rule, (typed or {}).get(path)))
        if rule is None and isinstance(default, list) and not isinstance(value, list):
            raise UsageError(f"{path} ({shown(value)}) must be a list, such as {path}=[a,b]")


def _declared(plain: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[tuple[str, Option]]:
    """(dotted key, option) of every fixed key, and of every setting that goes to a class, as the class declares it,
    without importing it.

    Refuses a setting that its class does not have, unless the class itself was typed, which may be the wrong one. What
    cannot be read is judged when it is made.
    """
    yield from fixed_options().items()
    reader = Skeletons(*allowed_packages(plain.get("allow_targets", [])))
    for path, node, _ in nodes(plain):
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if not isinstance(target, str) or (options := options_of(reader.find(target))) is None:
            continue
        apart = ("_target_", "_partial_", *(["watches"] if path.startswith("callbacks.") else []))
        settings = {name: value for name, value in node.items() if name not in apart}
        options = settable(options)
        yield from ((f"{path}.{name}", options[name]) for name in settings if name in options)
        if unknown := [name for name in settings if name not in options and usual.get(f"{path}._target_") == target]:
            raise not_an_option(options, unknown[0], settings[unknown[0]], target.rpartition(".")[2]).below(path)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain dicts, with every interpolation resolved."""
    try:
        for group in GROUPS:
            if group not in cfg:
                raise UsageError(f"{group} must be chosen: {group}={' | '.join(options(group))}")
            if not isinstance(cfg[group], DictConfig):
                raise UsageError(f"{group} ({shown(cfg[group])}) must hold settings by name: look into its YAML file")
        raw = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(raw, dict)
        check_references({str(key): value for key, value in raw.items()})
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(explain_value(error)) from error
    except RecursionError as error:
        raise UsageError("the references of the config lead in a circle, or too deep") from error
    assert isinstance(plain, dict)
    named = {str(key): value for key, value in plain.items()}
    environment = from_environment({str(key): value for key, value in raw.items()}, named)
    if shown_keys := [key for key in environment if key.startswith(SHOWN)]:
        raise UsageError(
            f"{shown_keys[0]} ({environment[shown_keys[0]]}) takes nothing from the environment: it is shown as it is, "
            "and what comes from there may be a secret"
        )
    return {**named, **({"environment": environment} if environment else {})}


def explain_value(error: OmegaConfBaseException) -> str:
    """OmegaConf's complaint about a value in one line that begins with its key."""
    reason = " ".join(str(error).split("\n")[0].split())
    key = getattr(error, "full_key", None)
    return f"{key}: {reason}" if key and key not in reason else reason


def chooses_option(word: str, searched: Sequence[str]) -> bool:
    """Whether a word chooses an option of a group."""
    folders = [*search_folders(), *(Path(f) for word in searched for f in re.findall(r"file://([^,\]'\"]+)", word))]
    name = word.partition("=")[0].lstrip("+~").partition("@")[0]
    return any((folder / name).is_dir() for folder in folders)


def _usual(plain: dict[str, Any], overrides: Sequence[str], main: str, searched: Sequence[str]) -> Mapping[str, Any]:
    """The config as it would be with only the group choices: which keys there are, and what types they have."""
    group_choices = [word for word in overrides if chooses_option(word, searched)]
    if len(group_choices) == len(overrides):
        return plain
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(main, overrides=[*group_choices, *searched], run_mode=RunMode.RUN)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    try:
        usual = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        usual = _untyped(OmegaConf.to_container(cfg, resolve=False))  # what a value given by the user resolves
    assert isinstance(usual, dict)
    return {str(key): value for key, value in usual.items()}


def _baseline(plain: Mapping[str, Any], overrides: Sequence[str], main: str, searched: Sequence[str]) -> dict[str, Any]:
    """Model and attention of the baseline that a variant is matched to: the same words, but for those of attention."""
    name = plain["match_to"]
    if name not in (names := options("attention")):
        raise UsageError(f"match_to ({name}) is no attention{nearest(name, names)} (choose from: {', '.join(names)})")
    others = [word for word in overrides if not OF_ATTENTION.match(word)]
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration(main, overrides=[*others, f"attention={name}", *searched], run_mode=RunMode.RUN)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra", None)
    whole = _plain(cfg)
    return {"model": whole["model"], "attention": whole["attention"]}


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _untyped(node: Any) -> Any:
    """A config in which an interpolation stands for anything."""
    if isinstance(node, dict):
        return {key: _untyped(value) for key, value in node.items()}
    return None if isinstance(node, str) and "${" in node else node


def with_plus(arguments: Sequence[str]) -> list[str]:
    """What was typed, with the plus that experiment= and sweep= need because the main config chooses none."""
    return ["+" + word if word.startswith(tuple(f"{group}=" for group in APPENDED)) else word for word in arguments]


def for_each_job(arguments: Sequence[str]) -> list[str]:
    """What was typed, such that a setting which only some option of a sweep has is judged job by job.

    Hydra composes one config for the whole sweep first, in which every group that is varied stands at its default:
    there a key that its options bring along is unknown. As a choice of one value the word waits for the jobs.
    """
    keys = [word.lstrip("+").partition("=")[0] for word in arguments]
    varied = any(
        key in APPENDED or (key.partition("/")[0] in GROUPS and "." not in key and _is_choice(word))
        for key, word in zip(keys, arguments, strict=True)
    )
    if not varied or not {"-m", "--multirun"} & {*arguments} or "hydra/sweeper" in keys:
        return list(arguments)
    return [_waiting(word) if SETTING.match(word) else word for word in arguments]


def _is_choice(word: str) -> bool:
    return re.search(r"^[^=]*=(choice|glob|range|shuffle|sort)?\(|,", word) is not None


def _waiting(word: str) -> str:
    """A word as a choice of one value, unless it is a choice already or nothing that can be one."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        return word  # whoever composes says what is wrong with it
    key, _, value = word.partition("=")
    return word if override.is_sweep_override() or not value else f"{key}=choice({value})"


def variant_name(config: RunConfig, typed: Typed | None = None) -> str:
    """The attention that was chosen, and the options that were put into its slots: gqa, or gqa+window.

    Of the job that Hydra has started, or of the one for which this was typed. What came with init_from= is called as it
    is there.
    """
    if "variant" in config.more:
        return str(config.more["variant"])
    typed = Typed.of(HydraConfig.get()) if typed is None else typed
    slots = (word.partition("=") for word in typed.overrides if word.lstrip("+").startswith("attention/"))
    put_in = (word for _, _, values in slots for word in values.strip("[]").split(","))
    chosen = [typed.choices.get("attention", "attention"), *put_in]
    plain = [str(word).strip(" \"'").removesuffix(".yaml").replace("/", ".") for word in chosen]
    return "+".join(word for word in plain if word)
