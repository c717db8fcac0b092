"""Turns every refusal into one line and the right exit code, Hydra's own among them."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attnlab.config import explain_value
from attnlab.errors import AttnlabError, Stopped, UsageError
from attnlab.files import file_failure
from attnlab.guard import guarded
from attnlab.keys import LISTS, config_dir, groups, nodes, options, search_folders, unknown_key
from attnlab.machine import check_words, open_streams
from attnlab.rules import as_typed, nearest

BROKEN_PIPE = 141  # 128 + SIGPIPE, as for any program whose reader has gone


@contextmanager
def job_errors() -> Iterator[None]:
    """Run one job: what goes wrong in a single one ends the command, and in one of a sweep it is an AttnlabError.

    A wish to stop is no error, and ends the command at once.
    """
    single = HydraConfig.get().mode == RunMode.RUN
    try:
        with _as_attnlab_errors():
            yield
    except AttnlabError as error:
        if single or isinstance(error, Stopped):
            _end(str(error), error.exit_code)  # Hydra would print a line of its own for an error that it sees
        raise


@contextmanager
def _as_attnlab_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _end_unheard()
    except AttnlabError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(explain(error, sys.argv[1:])) from error
    except OSError as error:
        raise file_failure(error) from error
    except Exception as error:
        traceback.print_exc()  # a fault of the code, not of what was typed
        raise AttnlabError(f"{type(error).__name__}: {error} (where, is told above)") from error


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line and the right exit code where attnlab or the machine refuses something."""
    open_streams()
    try:
        try:
            check_words()
            yield
        finally:
            _flush()
    except AttnlabError as error:
        _end(str(error), error.exit_code)
    except (HydraException, OmegaConfBaseException) as error:
        _end(explain(error), UsageError.exit_code)
    except KeyboardInterrupt:
        _end("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        _end_unheard()
    except OSError as error:
        failure = file_failure(error)
        _end(str(failure), failure.exit_code)


@contextmanager
def hydra_explained(words: Sequence[str]) -> Iterator[None]:
    """Run Hydra on what was typed: whatever it refuses becomes a UsageError; faults of jobs do not come as far."""
    _refuse_repetitions(words)
    usual, full = argparse.ArgumentParser.error, os.environ.get("HYDRA_FULL_ERROR", "0")
    argparse.ArgumentParser.error = _refuse_flag  # type: ignore[method-assign,assignment]  # Hydra leaves no other way
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing its own page
    try:
        with guarded():
            yield
    except (AttnlabError, BrokenPipeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and not isinstance(error, HydraException):
            raise  # standard output
        if full == "1":
            traceback.print_exc()
        raise UsageError(explain(error, words)) from error
    finally:
        argparse.ArgumentParser.error = usual  # type: ignore[method-assign]
        os.environ["HYDRA_FULL_ERROR"] = full


def _refuse_flag(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    left = message.removeprefix("unrecognized arguments: ").split()
    if left and "=" in left[0] and not left[0].startswith("-"):
        raise UsageError(f"settings must stand together, before or behind all flags; a flag cuts off {' '.join(left)}")
    raise UsageError(f"{message} (see: python train.py --help; settings are written key=value, without dashes)")


def _refuse_repetitions(words: Sequence[str]) -> None:
    """A key that is given twice is a slip: only one of both could count."""
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.lstrip("+").partition("=")
        if not equals or key.startswith(("-", "hydra")):
            continue
        if given.get(key, word) != word:
            raise UsageError(f"{key} is given twice, as {given[key]} and {word}: leave one of them out")
        given[key] = word


def _flush() -> None:
    """Write what waits for standard output; what cannot be written is dropped, for Python tries again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _print_error(message: str) -> None:
    line = "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))  # a name may hold escape codes
    print(f"error: {line}", file=sys.stderr)


def _end(message: str, code: int) -> NoReturn:
    _print_error(message)
    sys.exit(code)


def _end_unheard() -> NoReturn:
    """End because nobody reads what is written any more, as in `python train.py | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes what is left when it ends
    sys.exit(BROKEN_PIPE)


def explain(error: Exception, words: Sequence[str] = ()) -> str:
    """The complaint of Hydra, or of what it is made of, in one line that says what is allowed."""
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
        return _explain_option(words, group, name, error.options)
    for pattern, say in PHRASES:
        if found := re.search(pattern, text):
            return say(words, *found.groups())
    if not text and error.__cause__ is not None:
        text = " ".join(str(error.__cause__).split())
    elif error.__cause__ is not None:
        text = f"{str(error).splitlines()[0]} ({str(error.__cause__).splitlines()[0]})"
    return text


def _explain_word(word: str) -> str:
    """A word of the command line that is not key=value, or whose value is not quoted as it needs to be."""
    key, equals, value = word.partition("=")
    known = groups()
    if not equals:
        guess = re.split(r"[:\s]+", word.strip(), maxsplit=1)
        example = "=".join(guess) if len(guess) == 2 else f"{word}={(options(word) or ['...'])[0]}"
        return f"{word!r} is not a setting: write key=value, as in {example} (see: python train.py --help)"
    if key != key.strip() or value != value.strip() or not key.strip():
        return f"{word!r} is not a setting: write key=value, without spaces around the equals sign"
    if key.lstrip("+~").partition("@")[0] in known:
        return f"cannot read {word!r}: write {key}={' | '.join(options(key)) or 'NAME'}"
    return f"cannot read {word!r}: a text with special characters needs quotes within quotes: {as_typed(key, value)}"


def _explain_option(words: Sequence[str], group: str, name: str, among: Sequence[str] = ()) -> str:
    if (top := group.partition("/")[0]) in groups():  # one of ours, and a name may hold a slash
        found = next(g for g in (group, group.rpartition("/")[0], top) if g in groups())
        group, name = found, f"{group}/{name}".removeprefix(f"{found}/")
    if (beside := Path("configs", group, f"{name}.yaml")).is_file():
        return f"{group}={name} does not exist; to use {beside}, add --config-dir configs (attnlab: config_dir=configs)"
    among = among or options(group)
    if not among:
        return f"{group}={name} does not exist: there is no YAML file in the folder {group} yet"
    return f"{group}={name} does not exist{nearest(name, among)} (choose from: {', '.join(among)})"


def _explain_main(words: Sequence[str], name: str) -> str:
    return f"--config-name ({name}) does not exist in {' or '.join(str(folder) for folder in search_folders())}"


def _explain_several(words: Sequence[str], word: str) -> str:
    key, _, value = word.partition("=")
    if key.lstrip("+") in LISTS:
        return f"{key}= got several names ({value}): write {key}=[{value}] to have them all"
    if key.lstrip("+").partition("@")[0] in groups():
        return f"{key}= got several names ({value}): add -m to run each"
    return f"{key}= got several values ({value}): add -m to run each, or write one text as {as_typed(key, value)}"


def _explain_key(words: Sequence[str], key: str, rest: str) -> str:
    """A key that is not there: a slot of another variant, a group that needs a plus, or a slip."""
    if "Did you mean to override one of" in rest:
        return f"{key} stands in several places; name one: " + rest.split("override one of ")[1].split("?")[0]
    if given := next((w.partition("=")[2] for w in words if w.startswith((f"{key}={{", f"+{key}={{"))), ""):
        return f"{key} ({given}) holds a key that does not belong there; set what you mean one by one: {key}.NAME=VALUE"
    choices, known = _composed(words)
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
    return unknown_key(key, known)


def _composed(words: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """The options chosen, and the keys there are, with nothing but the groups that were typed."""
    known = set(groups())
    chosen = [word for word in words if word.lstrip("+").partition("=")[0].partition("@")[0] in known]
    kept = [word if "[" in word else word.split(",")[0] for word in chosen]
    folders = ",".join(f"file://{folder.absolute()}" for folder in search_folders())
    usual = GlobalHydra.instance().hydra
    try:
        return _composed_from(kept, folders)
    finally:
        GlobalHydra.instance().hydra = usual  # a sweep goes on with other jobs


def _composed_from(kept: Sequence[str], folders: str) -> tuple[dict[str, Any], set[str]]:
    from hydra import compose, initialize_config_dir

    for overrides in (kept, [word for word in kept if "/" not in word.partition("=")[0]], []):
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


def _explain_choice(words: Sequence[str]) -> str:
    """A group that is set to something else than a name, or to a list where only one makes sense."""
    known = groups()
    for word in words:
        group, _, value = word.lstrip("+").partition("=")
        if not group:
            return f"{word!r} is not a setting: there is no key before the equals sign"
        if group.partition("@")[0] in known and (value == "null" or not re.fullmatch(r"[^\W\d][\w./-]*", value)):
            return f"{group} ({value}) must be one of: {', '.join(options(group.partition('@')[0]))}"
    return "a group is chosen twice, or is set to something that is no name"


def _explain_addition(words: Sequence[str], key: str) -> str:
    return f"{key} is there already: write {key}= without the plus"


def _explain_deletion(words: Sequence[str], key: str) -> str:
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
