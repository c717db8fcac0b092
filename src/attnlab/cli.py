"""The command `attnlab`: what is done beside training. Arguments are written key=value, as for train.py."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from attnlab import commands
from attnlab.errors import UsageError
from attnlab.files import expand_path
from attnlab.machine import alone, wait_politely
from attnlab.rules import CODE, FLAG, MAYBE_COUNT, MAYBE_TEXT, NONNEGATIVE, SEED, TEXT, Rule, nearest, refusal, shown
from attnlab.scaffold import KINDS
from attnlab.signals import end_at_signals


class Argument(NamedTuple):
    """One key of a command: what it may hold, what it is if left out (`...`: it must be given), and what it means."""

    rule: Rule
    default: Any
    meaning: str


class Command(NamedTuple):
    """What `attnlab NAME` does. `bare` is the key that may be left out before its value.

    `others` says what further words may be; `run` then gets them, in order, as `overrides`.
    """

    about: str
    arguments: dict[str, Argument]
    run: Callable[..., None]
    bare: str = ""
    others: str = ""


YOUR_YAML = Argument(MAYBE_TEXT, None, "a folder with YAML files of yours")
CLASSES_OF_YAML = Argument(Rule(str), "", "your own packages whose classes they name")
CLASSES_OF_RUN = Argument(Rule(str), "", "your own packages whose classes the run uses")
PATHS = ("run", "folder", "experiment", "out", "config_dir", "tensorboard")  # keys that name a file or a folder
CODE_OF_RUN = Argument(CODE, "same", "any: read a run that other code has trained, all the same")
LIMITS = Argument(FLAG, True, "false: read a folder of any size, however long it takes; see docs/security.md")
TRAIN = "train one variant, or sweep over many with -m; the same as python train.py"
COMMANDS = {
    "generate": Command(
        "write a text with a trained model",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "prompt": Argument(TEXT, ..., "how the text begins"),
            "tokens": Argument(Rule(int, least=1), 200, "how many tokens to write"),
            "temperature": Argument(NONNEGATIVE, 0.8, "0 takes the likeliest token, 1 follows the model"),
            "top_k": Argument(MAYBE_COUNT, 50, "choose among the k likeliest tokens; null: all"),
            "top_p": Argument(
                Rule(float, above=0, most=1, optional=True), None, "choose among those that make up this probability"
            ),
            "seed": Argument(SEED, 0, "the same seed writes the same text"),
            "allow_targets": CLASSES_OF_RUN,
            "code": CODE_OF_RUN,
            "limits": LIMITS,
        },
        commands.generate,
    ),
    "ablate_heads": Command(
        "silence one head after the other and show how the loss changes",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "tokens": Argument(Rule(int, least=1), 16384, "how many tokens of the validation text to score"),
            "allow_targets": CLASSES_OF_RUN,
            "code": CODE_OF_RUN,
            "limits": LIMITS,
        },
        commands.ablate_heads,
    ),
    "explain": Command(
        "show step by step what an attention layer does: numbers, pictures and a page",
        {
            "attention": Argument(
                MAYBE_TEXT, None, "the variant; left out: the whole chapter, from simple to many heads"
            ),
            "run": Argument(MAYBE_TEXT, None, "the folder of a run, to explain a layer that was trained"),
            "prompt": Argument(MAYBE_TEXT, None, "the text it is to read"),
            "against": Argument(MAYBE_TEXT, None, "another variant, to see what this one changes"),
            "token": Argument(
                MAYBE_TEXT, None, "the token to follow, by its text or number; left out: journey, or the last"
            ),
            "layer": Argument(Rule(int, least=0, optional=True), None, "which layer of the model"),
            "seed": Argument(Rule(int, least=0, optional=True), None, "draws the weights; left out: the chapter's"),
            "init": Argument(
                Rule(str, choices=("linear", "uniform"), optional=True),
                None,
                "how they are drawn; left out: as the chapter",
            ),
            "folder": Argument(TEXT, "explained", "where the page and the pictures go"),
            "tensorboard": Argument(MAYBE_TEXT, None, "a folder of logs that gets the pictures, too"),
            "config_dir": YOUR_YAML,
            "allow_targets": CLASSES_OF_YAML,
            "code": CODE_OF_RUN,
            "limits": LIMITS,
        },
        commands.explain,
        others="any setting of train.py, such as attention.window=2, position=rope or attention/mask=window",
    ),
    "maps": Command(
        "draw what every head of a trained model reads in a text: numbers, pictures and a page",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "prompt": Argument(TEXT, ..., "the text"),
            "layers": Argument(MAYBE_TEXT, None, "which layers, such as 0,2 or 1-3; left out: all"),
            "heads": Argument(MAYBE_TEXT, None, "which heads of them; left out: all"),
            "folder": Argument(MAYBE_TEXT, None, "where the files go; left out: maps/prompt in the run's folder"),
            "allow_targets": CLASSES_OF_RUN,
            "code": CODE_OF_RUN,
            "limits": LIMITS,
        },
        commands.maps,
    ),
    "card": Command(
        "train variants on small tasks and a text, and draw what each of them can do",
        {
            "attention": Argument(TEXT, ..., "the variants, such as multi_head,linear,delta_net"),
            "cells": Argument(Rule(str), "", "which cells of configs/card, such as text,mqar; left out: all"),
            "folder": Argument(TEXT, "card", "where the runs, card.png and card.html go"),
            "config_dir": YOUR_YAML,
            "allow_targets": CLASSES_OF_YAML,
        },
        commands.card,
        others="any setting of train.py for all cells, such as position=none or trainer.max_steps=100",
    ),
    "evaluate": Command(
        "judge a trained model on rows longer than those it was trained on",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "lengths": Argument(TEXT, "2,4,8", "how many times model.context"),
            "allow_targets": CLASSES_OF_RUN,
            "code": CODE_OF_RUN,
            "limits": LIMITS,
        },
        commands.evaluate,
    ),
    "check": Command(
        "judge a variant by the laws that every variant obeys",
        {
            "attention": Argument(TEXT, ..., "the variant: the name of a YAML file in configs/attention"),
            "config_dir": YOUR_YAML,
            "allow_targets": CLASSES_OF_YAML,
            "laws": Argument(Rule(str), "", "which laws, such as causality,decode; left out: all"),
        },
        commands.check,
        others="any setting of train.py, such as attention.n_heads=2 or attention/mask=window",
    ),
    "new": Command(
        "write the skeleton of a variant of your own: a class and its YAML",
        {
            "name": Argument(TEXT, ..., "what the variant is called, as in attention=NAME"),
            "folder": Argument(TEXT, ".", "where NAME.py and configs/attention/NAME.yaml go"),
            "kind": Argument(
                Rule(str, choices=KINDS), KINDS[0], "the family it builds on; plain: none, all is written out"
            ),
        },
        commands.new,
        bare="name",
    ),
    "report": Command(
        "compare the variants of an experiment with a baseline and say what the seeds can tell",
        {
            "experiment": Argument(TEXT, ..., "the folder of the experiment, such as runs/default"),
            "baseline": Argument(
                MAYBE_TEXT, None, "the variant that the others are held against; left out: multi_head"
            ),
            "metric": Argument(
                MAYBE_TEXT,
                None,
                "the metric that is compared; left out: val/loss, or val/accuracy of a task",
            ),
            "margin": Argument(
                Rule(float, above=0, optional=True), None, "a difference too small to matter; needed to say equivalent"
            ),
            "alpha": Argument(
                Rule(float, above=0, below=0.5, optional=True), None, "how often the family may err; left out: 0.05"
            ),
            "family": Argument(Rule(str), "", "the variants that are asked about, such as gqa,linear; left out: all"),
            "solved": Argument(
                Rule(float, optional=True),
                None,
                "the accuracy from which a task counts as solved; left out: what it declares, 0.99",
            ),
            "code": Argument(CODE, "same", "any: average over runs that differ in nothing but seed and code"),
            "tensorboard": Argument(FLAG, True, "write mean and band per variant for TensorBoard, too"),
            "out": Argument(MAYBE_TEXT, None, "where the report goes; left out: the folder report of the experiment"),
            "limits": LIMITS,
        },
        commands.report,
        bare="experiment",
    ),
    "tune": Command(
        "choose a learning rate for each variant, on seeds that take no part in the verdict",
        {
            "experiment": Argument(TEXT, "runs/tuning", "the folder of the tuning runs"),
            "rates": Argument(Rule(str), "", "run these, at least four; left out: 3e-4,1e-3,3e-3,1e-2"),
            "seeds": Argument(TEXT, "100-102", "the seeds that choose; final runs need others"),
            "extend": Argument(
                Rule(int, least=0, most=4), 2, "how many rates to add at an edge where the best one lies"
            ),
            "metric": Argument(TEXT, "val/loss", "the metric that is compared"),
        },
        commands.tune,
        bare="experiment",
        others="what to tune: attention=a,b and any setting of train.py; without any, what is there is only read",
    ),
}


def parsed(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a command from words such as top_k=5; refuses unknown keys and values out of range."""
    arguments, bare, others = COMMANDS[name].arguments, COMMANDS[name].bare, COMMANDS[name].others
    given: dict[str, Any] = {}
    overrides: dict[str, str] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if bare and bare not in given and not equals and not word.startswith("-"):
            key, equals, text = bare, "=", word
        if others and equals and key not in arguments and not key.startswith("-"):
            if overrides.setdefault(key.lstrip("+"), word) != word:
                raise UsageError(
                    f"{key} is given twice, as {overrides[key.lstrip('+')]} and {word}: leave one of them out"
                )
            continue
        if not equals or key not in arguments:
            raise UsageError(
                f"{word!r} is not an argument of attnlab {name}{nearest(key, arguments)} (write key=value; keys: "
                f"{', '.join(arguments)})"
            )
        if key in given:
            raise UsageError(f"{key} is given twice, as {shown(given[key])} and {text}: leave one of them out")
        given[key] = _value(key, text, arguments[key].rule)
        if key in PATHS and isinstance(given[key], str):
            given[key] = str(expand_path(given[key], key=key))
    missing = [key for key, argument in arguments.items() if argument.default is ... and key not in given]
    if missing:
        words = [key.upper() if key == bare else f"{key}=..." for key in missing]
        raise UsageError(f"attnlab {name} needs {', '.join(words)}")
    found = {key: given.get(key, argument.default) for key, argument in arguments.items()}
    return found | {"overrides": tuple(overrides.values())} if others else found


def _value(key: str, text: str, rule: Rule) -> Any:
    value: Any = text
    if rule.optional and text in ("null", "none", ""):
        value = None
    elif rule.kind is bool and text in ("true", "false"):
        value = text == "true"
    elif rule.kind in (int, float):
        try:
            value = rule.kind(text)
        except ValueError:
            value = text
    if not rule.accepts(value):
        raise UsageError(refusal(key, value, rule))
    return value


def usage(name: str | None = None) -> str:
    """What can be typed."""
    if name is None:
        abouts = {"train": TRAIN, **{command: COMMANDS[command].about for command in COMMANDS}}
        lines = [f"  attnlab {command:12s} {about}" for command, about in abouts.items()]
        return "\n".join(
            ["usage: attnlab COMMAND key=value ...", "", *lines, "", "attnlab COMMAND --help tells its keys; --version"]
        )
    bare, others = COMMANDS[name].bare, COMMANDS[name].others
    lines = [f"usage: attnlab {name} {f'{bare.upper()} ' if bare else ''}key=value ...   ({COMMANDS[name].about})", ""]
    for key, (rule, default, meaning) in COMMANDS[name].arguments.items():
        usual = "needed" if default is ... else f"usually {shown(default) or 'none'}"
        lines.append(f"  {key:14s} {meaning} ({rule}; {usual})")
    if others:
        lines.append(f"  {'KEY=VALUE':14s} {others}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; ends the program with the exit code of what went wrong."""
    if argv is None:
        end_at_signals()
        if sys.argv[1:2] == ["train"]:  # a program of its own, whose command line Hydra reads
            os.execv(sys.executable, [sys.executable, "-m", "attnlab.main_job", *sys.argv[2:]])
    from attnlab.complaints import one_line_errors  # only now: Hydra takes a second to import

    words = list(sys.argv[1:] if argv is None else argv)
    wait_politely()
    with one_line_errors(), alone():
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return
        if words[0] == "--version":
            print(f"attnlab {version('attnlab')}")
            return
        name, *rest = words
        if name not in COMMANDS:
            raise UsageError(
                f"attnlab {name} is not a command{nearest(name, ['train', *COMMANDS])} (choose from: "
                f"{', '.join(['train', *COMMANDS])})"
            )
        if any(word in ("-h", "--help") for word in rest):
            print(usage(name))
            return
        COMMANDS[name].run(**parsed(name, rest))
