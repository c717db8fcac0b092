"""Functions that torch.compile leaves as they are."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_disabled: dict[Callable[..., Any], Callable[..., Any]] = {}


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """As torch.compiler.disable, which imports the compiler: a second that only those spend who compile."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() and function not in _disabled:
            _disabled[function] = torch.compiler.disable(function)
        run: Callable[P, R] = _disabled[function] if torch.compiler.is_compiling() else function
        return run(*args, **kwargs)

    call.__code__ = call.__code__.replace()  # one for each function: the compiler limits how often it compiles a code
    update_wrapper(call, function)
    return call
