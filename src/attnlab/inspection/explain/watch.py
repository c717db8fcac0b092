"""Writing down what the methods of a layer are given and what they return, while the layer itself runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn


class Call(NamedTuple):
    """One call of a method: whose it was, its positional arguments and its result."""

    module: nn.Module
    name: str
    arguments: tuple[Any, ...]
    result: Any


@contextmanager
def watched(seams: Sequence[tuple[nn.Module, str]]) -> Iterator[list[Call]]:
    """Inside the block, each call of a named method is appended to the list; nothing else changes.

    A method is covered by one of the object's own for that time, which calls it.
    """
    calls: list[Call] = []
    chosen = list(dict.fromkeys(seams))

    def cover(module: nn.Module, name: str) -> None:
        original = getattr(module, name)

        def recording(*arguments: Any, **keywords: Any) -> Any:
            result = original(*arguments, **keywords)
            calls.append(Call(module, name, arguments, result))
            return result

        vars(module)[name] = recording

    for module, name in chosen:
        cover(module, name)
    try:
        yield calls
    finally:
        for module, name in chosen:
            del vars(module)[name]
