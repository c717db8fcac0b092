"""The command `attnlab`: what is done beside training. Arguments are written key=value, as for train.py."""

import codecs
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from attnlab.complaints import one_line_errors
from attnlab.errors import UsageError
from attnlab.rules import FLAG, MAYBE_COUNT, MAYBE_TEXT, NONNEGATIVE, SEED, TEXT, Rule, nearest, refusal, shown
from attnlab.scaffold import KINDS


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


def generate(
    *,
    run: str,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    allow_targets: str,
) -> None:
    """Write a text after a prompt, as it comes."""
    import torch

    from attnlab.generation import generate as tokens_after
    from attnlab.runs import load

    model, tokenizer = load(run, allow_targets=_names(allow_targets))
    try:
        ids = torch.tensor(tokenizer.encode(prompt), dtype=torch.long)
    except UsageError as error:
        raise UsageError(f"prompt: {error}") from error
    settings: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    new = tokens_after(model, ids, tokens=tokens, **settings)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may need several tokens
    sys.stdout.write(prompt)
    for token in new:
        sys.stdout.write(decoder.decode(tokenizer.token_bytes(token)))
        sys.stdout.flush()
    sys.stdout.write(decoder.decode(b"", final=True) + "\n")


def check(*, attention: str, config_dir: str | None, allow_targets: str, laws: str, overrides: tuple[str, ...]) -> None:
    """Judge a variant by the laws; exit code 1 if one is broken."""
    from attnlab.checking import keeps_all

    settings: dict[str, Any] = {"config_dir": config_dir, "overrides": overrides}
    if not keeps_all(attention, allow_targets=_names(allow_targets), laws=_names(laws), **settings):
        sys.exit(1)


def new(*, name: str, folder: str, kind: str) -> None:
    """Write the skeleton of a variant, and say how to go on."""
    from attnlab.scaffold import next_commands, write

    for path in write(name, folder, kind):
        print(f"wrote {path}")
    print("next: judge it (causality is broken until the line marked MARKED is replaced), and train it")
    for command in next_commands(name, folder):
        print(f"  {command}")


def ablate_heads(*, run: str, tokens: int, allow_targets: str) -> None:
    """Silence one head after the other, and show how the loss changes, beside what the head looks at."""
    from attnlab.inspection import head_report
    from attnlab.inspection.head_ablation import Effect, ablate, headed_parts
    from attnlab.runs import find_run, load, newest_step, validation_batches

    folder, allowed = find_run(run), _names(allow_targets)
    model, tokenizer = load(folder, allow_targets=allowed)
    batches = validation_batches(folder, tokenizer, tokens=tokens, allow_targets=allowed)
    scored = sum(int((targets >= 0).sum()) for _, targets in batches)
    if not any(headed_parts(block.attention) for block in model.layers):
        raise UsageError(f"run ({folder}) has no heads to silence")
    loss, effects = ablate(model, batches)
    print(f"val/loss {loss:.4f} on {scored:,} tokens of the validation text, with all heads", flush=True)
    found: list[Effect] = []
    print(head_report.HEADER, flush=True)
    for effect in effects:
        found.append(effect)
        print(head_report.line(effect), flush=True)
    for path in head_report.save(folder, found, loss=loss, tokens=scored, step=newest_step(folder)):
        print(f"wrote {path}")


def report(
    *,
    experiment: str,
    baseline: str | None,
    metric: str | None,
    margin: float | None,
    alpha: float | None,
    family: str,
    solved: float | None,
    tensorboard: bool,
    out: str | None,
) -> None:
    """Compare the variants of an experiment, write the report, and show its table."""
    from attnlab.ablation.report import Options, analyse
    from attnlab.ablation.terminal import publish

    found = analyse(experiment, Options(baseline, metric, margin, alpha, _names(family), solved))
    publish(found, Path(out) if out else Path(experiment) / "report", board=tensorboard)


def explain(*, allow_targets: str, **settings: Any) -> None:
    """Show step by step what one attention layer does to a few tokens."""
    from attnlab.explaining import explain as explain_attention

    explain_attention(allow_targets=_names(allow_targets), **settings)


def maps(
    *, run: str, prompt: str, layers: str | None, heads: str | None, folder: str | None, allow_targets: str
) -> None:
    """Write the attention maps of a trained model for a text: numbers, pictures and a page."""
    from attnlab.mapping import numbers, write_maps

    which = {"layers": numbers(layers, "layers"), "heads": numbers(heads, "heads")}
    for path in write_maps(run, prompt, folder, **which, allow_targets=_names(allow_targets)):
        print(f"wrote {path}")


def tune(*, experiment: str, metric: str, rates: str, seeds: str, extend: int, overrides: tuple[str, ...]) -> None:
    """Choose a learning rate for each variant."""
    from attnlab.tuning import tune as tune_rates

    tune_rates(experiment, metric, rates, seeds, extend, overrides)


def card(
    *,
    attention: str,
    cells: str,
    folder: str,
    config_dir: str | None,
    allow_targets: str,
    overrides: tuple[str, ...],
) -> None:
    """Train each variant on the cells of the battery and draw what it can do; what is finished is not run again."""
    from pathlib import Path

    from rich.console import Console

    from attnlab.card.battery import chosen_cells, results
    from attnlab.card.pages import line, save, show
    from attnlab.files import check_writable

    place, variants, chosen = Path(folder), _names(attention), chosen_cells(_names(cells))
    if not variants:
        raise UsageError("attention (nothing) must name a variant, or several: attention=multi_head,linear")
    check_writable(place, key="folder")
    if allow_targets.strip("[]"):
        overrides = (*overrides, f"allow_targets=[{','.join(_names(allow_targets))}]")
    folders = [] if config_dir is None else [config_dir]
    print(f"{len(variants)} variants x {len(chosen)} cells, results in {folder}", flush=True)
    found = []
    for result in results(variants, chosen, folder=place, overrides=overrides, config_dirs=folders):
        found.append(result)
        print(line(result), flush=True)
    show(found, Console())
    for path in save(found, place, f"attnlab card {' '.join(sys.argv[2:])}"):
        print(f"wrote {path}")


def evaluate(*, run: str, lengths: str, allow_targets: str) -> None:
    """Judge a trained model at lengths beyond that of its training."""
    from attnlab.runs import find_run, load, material_of, newest_step, read_config
    from attnlab.training.extrapolation import check_lengths, extrapolate, keep, line

    folder, allowed = find_run(run), _names(allow_targets)
    factors = check_lengths([int(word) if word.isdecimal() else word for word in _names(lengths)])
    model, tokenizer = load(folder, allow_targets=allowed)
    context = read_config(folder, allowed)["model"]["context"]
    material, found = material_of(folder, tokenizer, allow_targets=allowed), []
    print(f"beyond: after the first {context} tokens", flush=True)
    for reach in extrapolate(model, material, context, factors):
        found.append(reach)
        print(line(reach), flush=True)
    keep(folder, found, step=newest_step(folder))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.strip("[]").replace(",", " ").split())


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
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes the run uses"),
        },
        generate,
    ),
    "ablate_heads": Command(
        "silence one head after the other and show how the loss changes",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "tokens": Argument(Rule(int, least=1), 16384, "how many tokens of the validation text to score"),
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes the run uses"),
        },
        ablate_heads,
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
            "config_dir": Argument(MAYBE_TEXT, None, "a folder with YAML files of yours"),
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes they name"),
        },
        explain,
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
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes the run uses"),
        },
        maps,
    ),
    "card": Command(
        "train variants on small tasks and a text, and draw what each of them can do",
        {
            "attention": Argument(TEXT, ..., "the variants, such as multi_head,linear,delta_net"),
            "cells": Argument(Rule(str), "", "which cells of configs/card, such as text,mqar; left out: all"),
            "folder": Argument(TEXT, "card", "where the runs, card.png and card.html go"),
            "config_dir": Argument(MAYBE_TEXT, None, "a folder with YAML files of yours"),
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes they name"),
        },
        card,
        others="any setting of train.py for all cells, such as position=none or trainer.max_steps=100",
    ),
    "evaluate": Command(
        "judge a trained model on rows longer than those it was trained on",
        {
            "run": Argument(TEXT, ..., "the folder of a run"),
            "lengths": Argument(TEXT, "2,4,8", "how many times model.context"),
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes the run uses"),
        },
        evaluate,
    ),
    "check": Command(
        "judge a variant by the laws that every variant obeys",
        {
            "attention": Argument(TEXT, ..., "the variant: the name of a YAML file in configs/attention"),
            "config_dir": Argument(MAYBE_TEXT, None, "a folder with YAML files of yours"),
            "allow_targets": Argument(Rule(str), "", "your own packages whose classes they name"),
            "laws": Argument(Rule(str), "", "which laws, such as causality,decode; left out: all"),
        },
        check,
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
        new,
        bare="name",
    ),
    "report": Command(
        "compare the variants of an experiment with a baseline and say what the seeds can tell",
        {
            "experiment": Argument(TEXT, ..., "the folder of the experiment, such as runs/default"),
            "baseline": Argument(
                MAYBE_TEXT, None, "the variant that the others are held against; left out: multi_head"
            ),
            "metric": Argument(MAYBE_TEXT, None, "what is compared, a metric of metrics.csv; left out: val/loss"),
            "margin": Argument(
                Rule(float, above=0, optional=True), None, "a difference too small to matter; needed to say equivalent"
            ),
            "alpha": Argument(
                Rule(float, above=0, below=0.5, optional=True), None, "how often the family may err; left out: 0.05"
            ),
            "family": Argument(Rule(str), "", "the variants that are asked about, such as gqa,linear; left out: all"),
            "solved": Argument(
                Rule(float, optional=True), None, "the value from which a task counts as solved; accuracies: 0.99"
            ),
            "tensorboard": Argument(FLAG, True, "write mean and band per variant for TensorBoard, too"),
            "out": Argument(MAYBE_TEXT, None, "where the report goes; left out: the folder report of the experiment"),
        },
        report,
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
            "metric": Argument(TEXT, "val/loss", "what is compared, a metric of metrics.csv"),
        },
        tune,
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
        lines = [f"  attnlab {command:12s} {COMMANDS[command].about}" for command in COMMANDS]
        return "\n".join(
            ["usage: attnlab COMMAND key=value ...", "", *lines, "", "attnlab COMMAND --help tells its keys"]
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
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    with one_line_errors():
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return
        name, *rest = words
        if name not in COMMANDS:
            raise UsageError(
                f"attnlab {name} is not a command{nearest(name, COMMANDS)} (choose from: {', '.join(COMMANDS)})"
            )
        if any(word in ("-h", "--help") for word in rest):
            print(usage(name))
            return
        COMMANDS[name].run(**parsed(name, rest))
