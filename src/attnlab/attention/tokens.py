"""What layers ask of tokens: that their vectors fit, and which of the vocabulary they are."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from attnlab.attention.precision import autocasts
from attnlab.errors import UsageError


def checks_tokens(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, behind a look at its tokens: some layers would turn wrong ones into wrong outputs in silence."""

    @functools.wraps(method)
    def checked(self: Any, x: Any, *rest: Any, **settings: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3 or x.size(-1) != self.d_model:
            given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UsageError(
                f"{type(self).__name__} takes a tensor of shape (batch, tokens, {self.d_model}), not {given}"
                + ("; x[None] is a batch of one" if isinstance(x, Tensor) and x.ndim == 2 else "")
            )
        dtype = self.anchor.dtype
        if x.dtype != dtype and not (x.is_floating_point() and autocasts(x.device)):
            raise UsageError(f"{type(self).__name__} computes in {dtype}, not in {x.dtype}: convert x or the layer")
        return method(self, x, *rest, **settings)

    return checked


@runtime_checkable
class LooksUp(Protocol):
    """A layer with a table of the vocabulary, which reads the numbers of its tokens in `Shared.ids`."""

    def meet_vocabulary(self, size: int) -> None:
        """Make the table."""


def tell_vocabulary(layer: nn.Module, size: int) -> None:
    """Tell every part that has a table of it how large the vocabulary is, before start values are drawn."""
    for part in list(layer.modules()):
        if isinstance(part, LooksUp):
            part.meet_vocabulary(size)
