"""No variant trains through a loop over tokens: a longer text needs few operations more."""

from typing import Any

import pytest
from tests.laws.cases import NAMES, sampled
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention import recurrent
from attnlab.attention.scan import token_loop
from attnlab.laws import subject_of
from attnlab.laws.subject import ids
from attnlab.model import GPT

# Test-time training cuts a text as its option says, into small mini-batches; here as long as the others' chunks.
OPTIONS = {"ttt": ["attention.minibatch=64"]}
FEW = 6  # operations of a layer for each token more: 200 in a chunk of 64 or a window's block of 32. A loop needs 12


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, views included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(model: GPT, t: int) -> int:
    """Operations of one forward and backward pass over t tokens."""
    with Operations() as counted:
        model(ids(1, t)).sum().backward()
    return counted.count


def operations_per_token(name: str) -> float:
    """How many operations one more token needs in a layer."""
    subject = subject_of(name, OPTIONS.get(name, []))
    model = subject.gpt(subject.depth, context=512)
    return (operations(model, 512) - operations(model, 256)) / 256 / subject.depth


@pytest.mark.parametrize("name", sampled([(name,) for name in NAMES], 16))
def test_no_loop(name: str) -> None:
    """A text of 512 tokens needs few operations more than one of 256."""
    assert operations_per_token(name) < FEW


@pytest.mark.parametrize("name", ["linear", "gated_delta"])
def test_loop_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop over tokens would be noticed."""

    def loop(*given: Any, chunk: int, starts: None) -> Any:
        return token_loop(*given)

    monkeypatch.setattr(recurrent, "chunked", loop)
    assert operations_per_token(name) > 2 * FEW
