"""Turns every refusal of Hydra and of what it is made of into one line that says what is allowed."""

import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnlab.config.compose import compose_config, explain_value, with_plus
from attnlab.config.keys import (
    LISTS,
    config_dir,
    fixed_keys,
    groups,
    nodes,
    options,
    search_folders,
    searching,
    unknown_key,
)
from attnlab.config.run_config import RunConfig
from attnlab.errors import AttnlabError, UsageError, nearest
from attnlab.options.rules import as_typed

NAME = re.compile(r"[^\W\d][\w./-]*")
CHAPTER_POSITION = "position=none"  # the worked example has no positions


class ComposedVariant(NamedTuple):
    """A variant by its name, what was set besides, the folders it was looked for in, and the config that it gives."""

    name: str
    overrides: tuple[str, ...]
    folders: tuple[Path, ...]
    config: RunConfig


def compose_variant(
    attention: str,
    folder: Path | str | None,
    packages: Sequence[str],
    overrides: Sequence[str],
    command: str,
) -> ComposedVariant:
    """The variant of this name with these settings, from our YAML files and those of a folder of the user's.

    What Hydra refuses is told as `train` would tell it. Imports no torch.
    """
    folders = () if folder is None else (Path(folder),)
    if folder is not None:
        _refuse_folder(Path(folder), attention)
    import_beside(folder, packages)
    settings = (*with_plus(overrides), f"allow_targets=[{','.join(packages)}]")
    with searching(folders):
        if not NAME.fullmatch(attention):
            raise UsageError(f"attention ({attention}) must be one of: {', '.join(options('attention'))}")
        try:
            config = compose_config([f"attention={attention}", *settings], folders)
        except AttnlabError:
            raise
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            typed = [f"attention={attention}", *settings[:-1]]
            raise UsageError(explain(error, typed, f"{command} takes one")) from error
    return ComposedVariant(attention, settings, folders, config)


def import_beside(folder: Path | str | None, packages: Sequence[str]) -> None:
    """Find the user's packages beside the folder of configs, too, where `attnlab new` puts a class."""
    if packages and folder is not None and (home := str(Path(folder).resolve().parent)) not in sys.path:
        sys.path.append(home)  # last, so that it hides nothing


def compose_for_chapter(
    name: str, folder: Path | str | None, packages: Sequence[str], overrides: Sequence[str]
) -> ComposedVariant:
    """A variant as `explain` takes it: without positions, as the chapter's sentence has none, unless they are set."""
    position = [] if any(each.startswith("position=") for each in overrides) else [CHAPTER_POSITION]
    return compose_variant(name, folder, packages, [*position, *overrides], "attnlab explain")


def _refuse_folder(folder: Path, attention: str) -> None:
    if not folder.is_dir():
        raise UsageError(f"config_dir ({folder}) is not a folder")
    if unreadable := sorted(set(str(folder.absolute())) & set(",[]{}'\"$")):
        raise UsageError(f"config_dir ({folder}) lies where Hydra cannot look: its path holds {' '.join(unreadable)}")
    own, ours = (root / "attention" / f"{attention}.yaml" for root in (folder, config_dir()))
    if own.is_file() and ours.is_file() and not own.samefile(ours):
        raise UsageError(f"attention ({attention}) is shipped with attnlab, which would hide {own}: rename yours")


def refuse_flags(argv: Sequence[str]) -> None:
    """Refuse the flags that Hydra's own parser would refuse with a page of usage."""
    with redirect_stderr(io.StringIO()) as page:
        try:
            _, left = get_args_parser().parse_known_args(list(argv))
        except SystemExit as refused:
            if not refused.code:
                raise  # --version
            left, message = [], page.getvalue().rpartition("error: ")[2].strip()
        else:
            message = f"unrecognized arguments: {' '.join(left)}" if left else ""
    if left and "=" in left[0] and not left[0].startswith("-"):
        raise UsageError(f"settings must stand together, before or behind all flags; a flag cuts off {' '.join(left)}")
    if message:
        raise UsageError(f"{message} (see: python train.py --help; settings are written key=value, without dashes)")


def refuse_repetitions(arguments: Sequence[str]) -> None:
    """A key that is given twice is a slip: only one of both could count."""
    given: dict[str, str] = {}
    for word in arguments:
        key, equals, _ = word.lstrip("+").partition("=")
        if not equals or key.startswith(("-", "hydra")):
            continue
        if given.get(key, word) != word:
            raise UsageError(f"{key} is given twice, as {given[key]} and {word}: leave one of them out")
        given[key] = word


def refuse_slips(arguments: Sequence[str]) -> None:
    """A name or a key that no job can have is refused before Hydra composes anything."""
    names = groups()
    for word in arguments:
        key, equals, value = word.partition("=")
        if key in names:
            for name in value.split(","):
                if NAME.fullmatch(name) and name.removesuffix(".yaml") not in ("null", *options(key)):
                    raise UsageError(_explain_option(arguments, key, name))
        elif equals and key.isidentifier() and key not in fixed_keys() | {*LISTS, "allow_targets"}:
            raise UsageError(_explain_key(arguments, key, ""))


def explain(error: Exception, arguments: Sequence[str] = (), several: str = "add -m to run each") -> str:
    """The complaint of Hydra, or of what it is made of, in one line that says what is allowed.

    `arguments` are what was typed, and `several` is what to do with several values of one key.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OverrideParseException):
        return _explain_word(error.override)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name} is not a YAML file: {error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    if isinstance(error, UnicodeDecodeError):
        return f"a YAML file in {' or '.join(str(folder) for folder in search_folders())} is not text in UTF-8"
    if isinstance(error, OSError) and not isinstance(error, MissingConfigException):
        return f"cannot write {error.filename} ({error.strerror}); paths.cache and hydra.run.dir say what goes there"
    if isinstance(error, OmegaConfBaseException):
        return explain_value(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return _explain_option(arguments, group, name, error.options)
    for pattern, say in PHRASES:
        if match := re.search(pattern, text):
            more = (several,) if say is _explain_several else ()
            return str(say(arguments, *match.groups(), *more))
    if not text and error.__cause__ is not None:
        text = " ".join(str(error.__cause__).split())
    elif error.__cause__ is not None:
        text = f"{str(error).splitlines()[0]} ({str(error.__cause__).splitlines()[0]})"
    return text


def _explain_word(word: str) -> str:
    """A word of the command line that is not key=value, or whose value is not quoted as it needs to be."""
    key, equals, value = word.partition("=")
    names = groups()
    if not equals:
        guess = re.split(r"[:\s]+", word.strip(), maxsplit=1)
        example = "=".join(guess) if len(guess) == 2 else f"{word}={(options(word) or ['...'])[0]}"
        return f"{word!r} is not a setting: write key=value, as in {example} (see: python train.py --help)"
    if key != key.strip() or value != value.strip() or not key.strip():
        return f"{word!r} is not a setting: write key=value, without spaces around the equals sign"
    if key.lstrip("+~").partition("@")[0] in names:
        return f"cannot read {word!r}: write {key}={' | '.join(options(key)) or 'NAME'}"
    return f"cannot read {word!r}: a text with special characters needs quotes within quotes: {as_typed(key, value)}"


def _explain_option(arguments: Sequence[str], group: str, name: str, among: Sequence[str] = ()) -> str:
    if (top := group.partition("/")[0]) in groups():  # one of ours, and a name may hold a slash
        nearest_group = next(g for g in (group, group.rpartition("/")[0], top) if g in groups())
        group, name = nearest_group, f"{group}/{name}".removeprefix(f"{nearest_group}/")
    if (beside := Path("configs", group, f"{name}.yaml")).is_file():
        return f"{group}={name} does not exist; to use {beside}, add --config-dir configs (attnlab: config_dir=configs)"
    among = among or options(group)
    if not among:
        return f"{group}={name} does not exist: there is no YAML file in the folder {group} yet"
    return f"{group}={name} does not exist{nearest(name, among)} (choose from: {', '.join(among)})"


def _explain_main(arguments: Sequence[str], name: str) -> str:
    return f"--config-name ({name}) does not exist in {' or '.join(str(folder) for folder in search_folders())}"


def _explain_several(arguments: Sequence[str], word: str, several: str) -> str:
    key, _, value = word.partition("=")
    if key.lstrip("+") in LISTS:
        return f"{key}= got several names ({value}): write {key}=[{value}] to have them all"
    if key.lstrip("+").partition("@")[0] in groups():
        return f"{key}= got several names ({value}): {several}"
    return f"{key}= got several values ({value}): {several}, or write one text as {as_typed(key, value)}"


def _explain_key(arguments: Sequence[str], key: str, rest: str) -> str:
    """A key that is not there: a slot of another variant, a group that needs a plus, or a slip."""
    if "Did you mean to override one of" in rest:
        return f"{key} stands in several places; name one: " + rest.split("override one of ")[1].split("?")[0]
    if given := next((w.partition("=")[2] for w in arguments if w.startswith((f"{key}={{", f"+{key}={{"))), ""):
        return f"{key} ({given}) holds a key that does not belong there; set what you mean one by one: {key}.NAME=VALUE"
    choices, keys = _composed(arguments)
    group = key.partition("@")[0]
    if group in groups():
        parent, _, slot = group.rpartition("/")
        if not parent:
            return f"{key}= needs a plus, for the main config chooses none: +{key}={' | '.join(options(key)) or 'NAME'}"
        slots = sorted(name.rpartition("/")[2] for name in choices if name.startswith(f"{parent}/") and "@" not in name)
        has = f"its slots are {', '.join(slots)}" if slots else "it has none"
        return f"{parent}={choices.get(parent)} has no slot {slot!r}: {has}; so {key}= cannot be set"
    if "/" in key:
        return f"{key} is not a group of the config{nearest(key, groups())} (see: python train.py --help)"
    return unknown_key(key, keys)


def _composed(arguments: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """The options chosen, and the keys there are, with nothing but the groups that were typed."""
    names = set(groups())
    chosen = [word for word in arguments if word.lstrip("+").partition("=")[0].partition("@")[0] in names]
    choices = [word if "[" in word else word.split(",")[0] for word in chosen]
    folders = ",".join(f"file://{folder.absolute()}" for folder in search_folders())
    usual = GlobalHydra.instance().hydra
    try:
        return _composed_from(choices, folders)
    finally:
        GlobalHydra.instance().hydra = usual  # a sweep goes on with other jobs


def _composed_from(group_choices: Sequence[str], folders: str) -> tuple[dict[str, Any], set[str]]:
    from hydra import compose, initialize_config_dir

    for overrides in (group_choices, [word for word in group_choices if "/" not in word.partition("=")[0]], []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                cfg = compose("train", [*overrides, f"hydra.searchpath=[{folders}]"], return_hydra_config=True)
            choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
            OmegaConf.set_struct(cfg, False)
            cfg.pop("hydra")
            plain = OmegaConf.to_container(cfg, resolve=False)
            assert isinstance(choices, dict)
            return {str(k): v for k, v in choices.items()}, {path for path, _, _ in nodes(plain)}
        except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError, OSError):
            continue  # some other word is wrong, too; the keys of the rest will do for a hint
    return {}, set()


def _explain_choice(arguments: Sequence[str]) -> str:
    """A group that is set to something else than a name, or to a list where only one makes sense."""
    names = groups()
    for word in arguments:
        group, _, value = word.lstrip("+").partition("=")
        if not group:
            return f"{word!r} is not a setting: there is no key before the equals sign"
        if group.partition("@")[0] in names and (value == "null" or not re.fullmatch(r"[^\W\d][\w./-]*", value)):
            return f"{group} ({value}) must be one of: {', '.join(options(group.partition('@')[0]))}"
    return "a group is chosen twice, or is set to something that is no name"


def _explain_addition(arguments: Sequence[str], key: str) -> str:
    return f"{key} is there already: write {key}= without the plus"


def _explain_deletion(arguments: Sequence[str], key: str) -> str:
    return f"~{key} takes nothing away, for there is no {key} in the config"


# What Hydra says, whatever the blanks in it, and what we say.
PHRASES: tuple[tuple[str, Any], ...] = (
    (r"Could not (?:find|load) '([^']+)/([^/']*)'", _explain_option),
    (r"Cannot find primary config '(.+?)'", _explain_main),
    (r"appears more than once in the final defaults list", _explain_choice),
    (r"Ambiguous value for argument '(.*?)' 1\.", _explain_several),
    (r"Sweep parameters '(.*)' requires --multirun", _explain_several),
    (r"Could not override '(.+?)'(.*)", _explain_key),
    (r"Config group override must be", _explain_choice),
    (r"Multiple values for (\S+)\. To override", _explain_addition),
    (r"Could not append to config\. An item is already at '(.+?)'", _explain_addition),
    (r"Could not delete from config\. '(.+?)' does not exist", _explain_deletion),
    (r"Could not delete\. No match for '(.+?)'", _explain_deletion),
    (r"Additional config directory '(.+)' not found", lambda _, path: f"--config-dir ({path}) is not a folder"),
)
