"""What may be typed next, for a shell that completes: `python -m attnlab.cli._candidates LINE [BREAKS]`.

LINE is what stands left of the cursor; what is printed takes the place of its last word, or of what follows the last of
the BREAKS in it, at which bash ends a word. Shells that are told no BREAKS set the blank behind a word themselves.
Nothing here imports torch or Hydra: there is an answer at every Tab.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from attnlab.cli._arguments import COMMANDS, command
from attnlab.config.keys import config_dirs, groups, options, searching
from attnlab.config.run_config import fixed_options
from attnlab.options.rules import Rule

TRAIN_FLAGS = ("-m", "--multirun", "--config-dir", "--cfg", "--help", "--hydra-help")
GROUP_OF = {"attention": "attention", "against": "attention", "cells": "card"}  # keys of commands that hold names


def candidates(line: str) -> list[str]:
    """The words that the last word of a line may become; nothing where the program is none of ours."""
    try:
        typed = shlex.split(line)
    except ValueError:  # a quote is still open
        typed = line.split()
    current = typed.pop() if typed and not line[-1].isspace() else ""
    ours = _behind_program(typed)
    if ours is None:
        return []
    if not ours:
        answers: Iterable[str] = (*COMMANDS, "--help", "--version")
    elif ours[0] == "train":
        with searching(config_dirs(ours)):
            answers = _of_config(current, TRAIN_FLAGS)
    elif ours[0] in COMMANDS:
        answers = _of_command(ours[0], current)
    else:
        answers = ()
    return sorted({answer for answer in answers if answer.startswith(current)})


def _behind_program(typed: Sequence[str]) -> list[str] | None:
    """The words behind `attnlab`; those behind train.py as if `attnlab train` had been typed."""
    names = [Path(word).name for word in typed]
    if names[:1] == ["attnlab"]:
        return list(typed[1:])
    if names[:1] == ["train.py"]:
        return ["train", *typed[1:]]
    if names and re.fullmatch(r"python[\d.]*", names[0]):
        if names[1:2] == ["train.py"]:
            return ["train", *typed[2:]]
        if names[1:3] == ["-m", "attnlab"]:
            return list(typed[3:])
    return None


def _of_command(name: str, current: str) -> Iterable[str]:
    described = command(name)
    key, equals, text = current.partition("=")
    argument = described.arguments.get(key)
    if not equals:
        further = _of_config(current, ()) if described.others else ()
        return (*(f"{each}=" for each in described.arguments), *further, "--help")
    if argument is None:
        return _of_config(current, ()) if described.others else ()
    if argument.kind is Path:
        return [f"{key}={path}" for path in _paths(text)]
    values = options(GROUP_OF[key]) if key in GROUP_OF else _values([argument.rule])
    return _listed(key, text, values) if argument.kind is tuple else [f"{key}={value}" for value in values]


def _of_config(current: str, flags: Sequence[str]) -> Iterable[str]:
    """Groups, and keys level by level: trainer. before trainer.max_steps=."""
    key, equals, text = current.partition("=")
    key = key.lstrip("+")
    if equals:
        fixed = fixed_options()
        values = options(key) if key in groups() else _values(fixed[key].rules if key in fixed else ())
        return _listed(current.partition("=")[0], text, values)
    depth = key.count(".")
    keys = {
        ".".join(each.split(".")[: depth + 1]) + ("." if each.count(".") > depth else "=") for each in fixed_options()
    }
    return (*(f"{group}=" for group in groups()), *keys, *flags)


def _listed(key: str, text: str, values: Iterable[str]) -> list[str]:
    """Values behind those that stand before the last comma."""
    before = text[: text.rfind(",") + 1]
    return [f"{key}={before}{value}" for value in values if value not in before.split(",")]


def _values(rules: Sequence[Rule]) -> list[str]:
    """The words that a value may be; none where it may be many."""
    values = [word for rule in rules for word in (*rule.choices, *(("true", "false") if rule.kind is bool else ()))]
    return [*values, *(["null"] if values and any(rule.optional for rule in rules) else [])]


def _paths(text: str) -> list[str]:
    """Files and folders that begin like this, a folder with a slash behind it."""
    head, tail = os.path.split(text)
    try:
        inside = sorted(os.scandir(os.path.expanduser(head) or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [entry for entry in inside if entry.name.startswith(tail) and (tail[:1] == "." or entry.name[0] != ".")]
    return [os.path.join(head, entry.name) + "/" * entry.is_dir() for entry in shown]


def _for_shell(line: str, breaks: str) -> list[str]:
    """The candidates, each without what stands before the last of the breaks in the word that is typed; one that ends
    its word has a blank behind it."""
    current = re.split(r"(?<!\\)\s", line)[-1]
    already = max((current.rfind(sign) + 1 for sign in breaks), default=0)
    ends = [answer[already:] for answer in candidates(line)]
    return [f"{end} " if end and not end.endswith(("=", ".", "/")) and len(ends) == 1 else end for end in ends]


if __name__ == "__main__":
    for answer in _for_shell(*sys.argv[1:]) if len(sys.argv) > 2 else candidates(sys.argv[1]):
        print(answer)
