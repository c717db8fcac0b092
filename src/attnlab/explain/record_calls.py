"""Writing down what the methods of a layer are given and what they return, while the layer itself runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from attnlab.attention.seams import covered


class Call(NamedTuple):
    """One call of a method: whose it was, its positional arguments and its result."""

    module: nn.Module
    name: str
    arguments: tuple[Any, ...]
    result: Any


@contextmanager
def watched(seams: Sequence[tuple[nn.Module, str]]) -> Iterator[list[Call]]:
    """Inside the block, each call of a seam is appended to the list; nothing else changes."""
    calls: list[Call] = []

    def recording(module: nn.Module, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any, **keywords: Any) -> Any:
            result = method(*arguments, **keywords)
            calls.append(Call(module, name, arguments, result))
            return result

        return recorded

    with ExitStack() as stack:
        for module, name in dict.fromkeys(seams):
            stack.enter_context(covered(module, name, partial(recording, module, name)))
        yield calls
