"""The law that a variant explains itself: a sentence, a formula and a source in the class, a sentence in the YAML."""

import re

from attnlab.laws.layer_in_stack import layers_in_stack
from attnlab.laws.subject import LawBroken, Subject

SOURCE = re.compile(r"arXiv[\s:]*\d{4}\.\d{4,5}|Source: \S.*(\"|\(\d{4}\))", re.DOTALL)


def explains_itself(subject: Subject) -> None:
    """The class says in a sentence what it does, gives a formula and its source; so does the YAML's first line."""
    for cls in {type(placed.layer): None for placed in layers_in_stack(subject)}:
        text = vars(cls).get("__doc__")
        if not text:
            raise LawBroken(f"{cls.__name__} has no docstring")
        first = " ".join(text.strip().split("\n\n")[0].split())
        if len(first.split()) < 4 or not re.search(r"[.:]( |$)", first):
            raise LawBroken(f"{cls.__name__}: the docstring does not begin with a sentence: {first[:60]!r}")
        if not re.search(r"\w\S* = \S", text):
            raise LawBroken(f"{cls.__name__}: the docstring has no formula (something of the form y = ...)")
        if not SOURCE.search(text):
            raise LawBroken(
                f'{cls.__name__}: the docstring names no source (arXiv and a number, or Source: author, "title")'
            )
    if subject.yaml is not None:
        line = subject.yaml.read_text(encoding="utf-8").split("\n")[0]
        if not re.fullmatch(r"# \S+( \S+){2,}\.", line.strip()):
            raise LawBroken(f"{subject.yaml.name}: the first line is not a comment with a sentence: {line[:60]!r}")
