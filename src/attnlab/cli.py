"""The command `attnlab`: what can be done with a finished run. Arguments are written key=value, as for train.py."""

import codecs
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from attnlab.complaints import one_line_errors
from attnlab.errors import UsageError
from attnlab.rules import MAYBE_COUNT, NONNEGATIVE, SEED, TEXT, Rule, nearest, refusal, shown


class Argument(NamedTuple):
    """One key of a command: what it may hold, what it is if left out (`...`: it must be given), and what it means."""

    rule: Rule
    default: Any
    meaning: str


class Command(NamedTuple):
    """What `attnlab NAME` does."""

    about: str
    arguments: dict[str, Argument]
    run: Callable[..., None]


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

    model, tokenizer = load(run, allow_targets=tuple(allow_targets.strip("[]").replace(",", " ").split()))
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
}


def parsed(name: str, words: Sequence[str]) -> dict[str, Any]:
    """The arguments of a command from words such as top_k=5; refuses unknown keys and values out of range."""
    arguments = COMMANDS[name].arguments
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
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
        raise UsageError(f"attnlab {name} needs {', '.join(f'{key}=...' for key in missing)}")
    return {key: given.get(key, argument.default) for key, argument in arguments.items()}


def _value(key: str, text: str, rule: Rule) -> Any:
    value: Any = text
    if rule.optional and text in ("null", "none", ""):
        value = None
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
    lines = [f"usage: attnlab {name} key=value ...   ({COMMANDS[name].about})", ""]
    for key, (rule, default, meaning) in COMMANDS[name].arguments.items():
        usual = "needed" if default is ... else f"usually {shown(default) or 'none'}"
        lines.append(f"  {key:14s} {meaning} ({rule}; {usual})")
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
