"""Ways back of our own."""

import contextlib
import importlib
import inspect
import pkgutil

import torch

import attnlab
from attnlab.attention.signature import with_signature


def test_functions_know_theirs() -> None:
    """Of every autograd function, so that no call works it out; a function alone does not."""
    for module in pkgutil.walk_packages(attnlab.__path__, "attnlab."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ModuleNotFoundError):  # of an extra
                importlib.import_module(module.name)
    ours = [f for f in torch.autograd.Function.__subclasses__() if f.__module__.startswith("attnlab.")]
    asked = [f for f in ours if "setup_context" in vars(f)]  # of the others nobody asks
    assert len(asked) >= 5
    assert [f for f in asked if not isinstance(getattr(f.forward, "__signature__", None), inspect.Signature)] == []

    def plain(x: int, y: int = 2) -> int:
        return x + y

    assert not hasattr(plain, "__signature__")
    right = inspect.signature(plain)
    assert with_signature(plain) is plain and inspect.signature(plain) == right and plain(1) == 3
