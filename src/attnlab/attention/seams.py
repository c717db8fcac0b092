"""The steps of a layer by name: what a worked example writes down, and where a head is silenced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Method = Callable[..., Any]


@contextmanager
def covered(module: nn.Module, seam: str, by: Callable[[Method], Method]) -> Iterator[None]:
    """Inside the block `by(method)` stands in the place of one method of this object; its class is left as it is.

    A seam is `forward`, or a method that the class names in `seams`; another name is an error of the caller's, so that
    a method which is renamed is missed by name.
    """
    if seam != "forward" and seam not in getattr(type(module), "seams", ()):
        raise LookupError(f"{seam} is no seam of {type(module).__name__}")
    own = vars(module)
    before = {seam: own[seam]} if seam in own else {}
    own[seam] = by(getattr(module, seam))
    try:
        yield
    finally:
        del own[seam]
        own.update(before)
