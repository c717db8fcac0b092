"""No recurrent variant trains through a loop over tokens: a longer text needs few operations more."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention import recurrent
from attnlab.attention.base import Attention
from attnlab.attention.scan import token_loop
from attnlab.laws import subject_of
from attnlab.laws.subject import D_MODEL, tokens

# Test-time training cuts a text as its option says, into small mini-batches; here as long as the others' chunks.
OPTIONS = {"ttt": ["attention.minibatch=64"]}
RECURRENT = (
    *("based", "comba", "delta_net", "delta_product", "gated_delta", "gdn2", "gla", "hgrn2", "kda", "lightning"),
    *("linear", "log_linear", "mamba2", "mlstm", "momentum_delta", "performer", "precond_gdn", "precond_kda"),
    *("retention", "rwkv7", "ttt"),
)
FEW = 4  # operations for each token more: some 200 in a chunk of 64. A loop over tokens needs 12 and more for each


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, views included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(layer: Attention, t: int) -> int:
    """Operations of one forward and backward pass over t tokens."""
    x = tokens(1, t, dtype=torch.float32).requires_grad_()
    with Operations() as seen:
        layer(x).sum().backward()
    return seen.count


def operations_per_token(name: str) -> float:
    """How many operations one more token needs."""
    layer = subject_of(name, OPTIONS.get(name, [])).factory(D_MODEL, layer=0, n_layers=4, context=512)
    return (operations(layer, 512) - operations(layer, 256)) / 256


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_variant_does_not_train_through_a_loop_over_tokens(name: str) -> None:
    assert operations_per_token(name) < FEW


@pytest.mark.parametrize("name", ["linear", "gated_delta"])
def test_a_loop_over_tokens_would_be_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(*given: Any, chunk: int, starts: None) -> Any:
        return token_loop(*given)

    monkeypatch.setattr(recurrent, "chunked", loop)
    assert operations_per_token(name) > 3 * FEW
