"""What a layer is given is looked at before anything is computed."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnlab.attention.tokens import checks_tokens
from attnlab.errors import UsageError


class Layer(SimpleNamespace):
    """Takes tokens of width 4 and counts how often its method was reached."""

    calls = 0

    @checks_tokens
    def read(self, x: Any, extra: int = 0, *, more: int = 0) -> tuple[Any, int]:
        """What stands here stays."""
        self.calls += 1
        return x, extra + more


def layer(dtype: torch.dtype = torch.float32) -> Layer:
    return Layer(d_model=4, anchor=torch.empty(0, dtype=dtype))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 4), r"Layer takes a tensor of shape \(batch, tokens, 4\), not \(3, 4\); x\[None\] is a batch"),
        (torch.zeros(1, 3, 5), r"not \(1, 3, 5\)$"),
        (torch.zeros(4), r"not \(4,\)$"),
        ([[[0.0] * 4]], "not list$"),
        (torch.zeros(1, 3, 4, dtype=torch.float64), r"Layer computes in torch\.float32, not in torch\.float64"),
        (torch.zeros(1, 3, 4, dtype=torch.long), r"not in torch\.int64: convert x or the layer"),
    ],
)
def test_refused(x: Any, message: str) -> None:
    """Another shape or type is refused in one line, and the method is not reached."""
    one = layer()
    with pytest.raises(UsageError, match=message):
        one.read(x)
    assert one.calls == 0


def test_passed_on() -> None:
    """What fits is handed on whole, no tokens and no rows included; the method keeps its name and its words."""
    for shape in ((2, 3, 4), (0, 3, 4), (2, 0, 4)):
        x = torch.zeros(shape)
        assert layer().read(x, 1, more=2) == (x, 3)
    assert (Layer.read.__name__, Layer.read.__doc__) == ("read", "What stands here stays.")


def test_autocast() -> None:
    """Under autocast floats of any width will do, and integers still do not."""
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            layer(torch.float32).read(torch.zeros(1, 1, 4, dtype=dtype))
        with pytest.raises(UsageError, match="int64"):
            layer().read(torch.zeros(1, 1, 4, dtype=torch.long))
