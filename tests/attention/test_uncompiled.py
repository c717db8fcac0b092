"""What stays out of compiled code, and that the compiler is imported by those alone who compile."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from tests import house
from torch import Tensor

from attnlab.attention.uncompiled import uncompiled

MODULES = sorted(name for name in house.modules() if name.startswith("attnlab.attention."))


def test_no_compiler() -> None:
    """The mathematics is imported without the compiler: that takes as long as torch itself."""
    program = f"import sys, {', '.join(MODULES)}; sys.exit('torch._dynamo' in sys.modules)"
    assert len(MODULES) > 40 and subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(("keep", "expected"), [(uncompiled, [False] * 6), (lambda function: function, [True])])
def test_left_alone(keep: Callable[..., Callable[[Tensor], Tensor]], expected: list[bool]) -> None:
    """Every call runs it as it stands, at whatever shape; without, it is traced once and never run again."""
    compiling = []

    @keep
    def double(x: Tensor) -> Tensor:
        compiling.append(torch.compiler.is_compiling())
        return 2 * x

    network = torch.compile(lambda x: double(x.sin()) + 1, backend="eager", dynamic=True)
    for length in (2, 2, 3, 3, 4, 5):
        x = torch.arange(float(length))
        torch.testing.assert_close(network(x), 2 * x.sin() + 1)
    assert compiling[: len(expected)] == expected
