"""Functions that know their signature."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def with_signature(function: Function) -> Function:
    """The function, with its signature beside it: `torch.autograd.Function.apply` asks for that of `forward` at each
    call, and working it out takes a hundredth of a small model's step."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function
