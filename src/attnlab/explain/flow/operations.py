"""Every operation of torch inside a block, with the line that called it: numbers are looked up in it by value."""

import linecache
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnlab.explain.flow.node import Operation, SourceLine

PACKAGE = Path(__file__).parents[2]  # src/attnlab
LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages|contextlib\.py|functools\.py)")
OURS = str(PACKAGE / "explain")
SAME_PLACE = {  # of a result, whose number i is made of the numbers i of what goes in
    "add": "+",
    "__radd__": "+",
    "sub": "-",
    "mul": "\N{MULTIPLICATION SIGN}",
    "__rmul__": "\N{MULTIPLICATION SIGN}",
    "div": "\N{DIVISION SIGN}",
    "true_divide": "\N{DIVISION SIGN}",
    "pow": "^",
    "sqrt": "\N{SQUARE ROOT}",
    "log": "ln",
    "logsigmoid": "ln sigmoid",
    **{
        name: name
        for name in (
            *("exp", "expm1", "sigmoid", "tanh", "relu", "silu", "gelu", "elu", "softplus"),
            *("neg", "square", "rsqrt", "where", "maximum", "minimum", "clamp"),
        )
    },
}
MOVES = frozenset(  # numbers are only moved by these
    (
        *("transpose", "unflatten", "flatten", "split", "chunk", "view", "reshape", "cat", "contiguous"),
        *("to", "expand", "repeat_interleave", "__getitem__", "__get__", "permute", "squeeze", "unsqueeze", "stack"),
        *("type", "float", "pad", "unbind", "movedim", "detach", "clone", "narrow", "expand_as"),
    )
)
NEAR, TINY = 1e-4, 1e-6  # of a number: what rounding leaves; numbers that say nothing
PROBES = 12  # numbers of an array that are looked for before all of them are


class Ran(NamedTuple):
    """One operation: its name, what went in, what came out, and who called it."""

    name: str
    given: tuple[Any, ...]
    result: Tensor
    source: SourceLine


class Recording(TorchFunctionMode):
    """Keeps what runs inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[Ran] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in MOVES and isinstance(result, Tensor) and result.numel() > 1 and not result.is_meta:
            source = _caller()
            if source is not None:
                given = tuple(x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor | int | float))
                self.ran.append(Ran(name if name.endswith("__") else name.removesuffix("_"), given, result, source))
        return result


class Operations:
    """What ran, to be asked for numbers."""

    def __init__(self, ran: Sequence[Ran]) -> None:
        self.ran = [one for one in ran if one.result.dtype.is_floating_point]
        self._sorted: dict[int, Float[np.ndarray, " n"]] = {}  # by number of `ran`; those that were asked for
        self.masks = [one for one in ran if one.result.dtype == torch.bool]
        self.linear = [one for one in ran if one.name == "linear" and _is_map(one)]

    def origin(self, values: Float[np.ndarray, "*shape"]) -> Ran | None:
        """The first operation whose result holds all of these numbers, in whatever order."""
        flat = values.ravel()
        flat = flat[np.isfinite(flat) & (flat != 0)]
        if not flat.size:
            return None
        few = flat[:: max(1, flat.size // PROBES)]
        for i, one in enumerate(self.ran):
            result = _numbers(one.result)
            if all((result == number).any() for number in few):
                numbers = self._in_order(i)
                if (numbers[np.searchsorted(numbers, flat).clip(max=numbers.size - 1)] == flat).all():
                    return one
        return None

    def _in_order(self, i: int) -> Float[np.ndarray, " n"]:
        """The numbers of an operation's result, each once, by size."""
        if i not in self._sorted:
            self._sorted[i] = np.unique(_numbers(self.ran[i].result))
        return self._sorted[i]

    def source(self, values: Float[np.ndarray, "*shape"]) -> SourceLine | None:
        """The line that made these numbers, or those of the first head, where each is made alone."""
        one = self.origin(values) or self.origin(values[:1])
        return None if one is None else one.source

    def nearly(self, values: Float[np.ndarray, "*shape"]) -> SourceLine | None:
        """The first line that made these numbers up to rounding, in whatever order."""
        flat = values.ravel()
        flat = flat[np.isfinite(flat) & (np.abs(flat) > TINY)]
        for i, one in enumerate(self.ran):
            numbers = self._in_order(i) if flat.size > 1 and one.result.numel() >= flat.size // 2 else flat[:0]
            if numbers.size >= max(1, flat.size // 2):
                after = np.searchsorted(numbers, flat).clip(max=numbers.size - 1)
                off = np.minimum(np.abs(numbers[after] - flat), np.abs(numbers[after - 1] - flat))
                if (off <= NEAR * np.abs(flat)).all():
                    return one.source
        return None

    def mask(self, hidden: Bool[np.ndarray, "h t s"]) -> SourceLine | None:
        """The line that decided which pairs may be read."""
        visible = ~hidden
        for one in self.masks:
            mask = one.result.detach().cpu().numpy()
            mask = mask[0] if mask.ndim == 4 else mask
            fits = mask.shape[-2:] == visible.shape[-2:] and mask.shape[:-2] in ((), (1,), visible.shape[:1])
            if fits and np.array_equal(np.broadcast_to(mask, visible.shape), visible):
                return one.source
        return None

    def in_place(self, values: Float[np.ndarray, "*shape"]) -> Operation | None:
        """The operation that made each number of those in its place, and these numbers."""
        one = self.origin(values)
        if one is None or one.name not in SAME_PLACE:
            return None
        result = one.result.detach().to("cpu", torch.float32)
        try:
            given = [_spread(x, result) for x in one.given]
        except RuntimeError:  # something that does not have the result's places, such as an axis
            return None
        flat = result.numpy().ravel()
        order = np.argsort(flat, kind="stable")
        where = order[np.searchsorted(flat, values.ravel(), sorter=order).clip(max=flat.size - 1)]
        if not np.array_equal(flat[where], values.ravel()):
            return None
        return Operation(SAME_PLACE[one.name], tuple(x.ravel()[where].reshape(values.shape) for x in given))


@contextmanager
def recorded() -> Iterator[Recording]:
    """Inside the block every operation is kept."""
    with Recording() as recording:
        yield recording


def _spread(x: Any, like: Tensor) -> np.ndarray:
    given = x.detach().to("cpu", torch.float32) if isinstance(x, Tensor) else torch.tensor(float(x))
    return given.expand_as(like).numpy()


def _numbers(x: Tensor) -> Float[np.ndarray, "*shape"]:
    return x.detach().to("cpu", torch.float32).numpy()


def _is_map(one: Ran) -> bool:
    return len(one.given) >= 2 and all(isinstance(x, Tensor) for x in one.given[:2]) and one.given[1].ndim == 2


def _caller() -> SourceLine | None:
    """The innermost line that is no library's; None where the worked example itself computes."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and not file.startswith("<") and not LIBRARIES.search(file):
            if file.startswith(OURS):
                return None
            path = Path(file)
            name = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else path.name
            return SourceLine(name, frame.f_lineno, linecache.getline(file, frame.f_lineno).strip())
        frame = frame.f_back
    return None
