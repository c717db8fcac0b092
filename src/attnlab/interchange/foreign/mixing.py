"""Which layers of a torch module mix positions, and with which weights: watched while the module computes.

Softmax attention, whoever wrote it, ends in one product of matrices: the softmax, times the values. Below torch's own
functions that is an `aten::bmm` whose first operand is what `aten::_softmax` gave, so a dispatch mode sees the weights
that the model uses, its values and its result, in any architecture. Fused kernels are taken apart for it. A memory is
asked by way of its kernel (memories.py).

Nothing is believed: each map must reproduce what the layer computed, max |A v - o| <= 1e-5 max |o|, or what half
precision can show of it. A layer where that cannot be shown has no map, and is named with the reason.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention.evaluating import evaluating
from attnlab.errors import UsageError
from attnlab.interchange.foreign.memories import INLINE, Kernel, WeightedSum, implied_sum, kernels, relative_error

TOLERANCE = 1e-5  # of the largest number of a layer's output
ROUNDINGS = 4  # that is forgiven to half precision, in steps of its last digit

aten = torch.ops.aten
SOFTMAX = (aten._softmax, aten._safe_softmax)
CARRIES = (aten._to_copy, aten.clone, aten.where, aten.masked_fill)  # what may be done to weights before they are used

Change = Callable[[int, Float[Tensor, "h t d"]], None]


class Owner(NamedTuple):
    """Where in a model: the list of layers, the number of the layer, and the part of it."""

    layers: str  # the name of the list, such as "model.decoder.layers"; "" for a module outside of any
    layer: int
    part: str  # such as "self_attn"; "" where the layer itself computes


class Mixing(NamedTuple):
    """What one layer mixes, per head: o = A v, where `error` is max |A v - o| / max |o|."""

    owner: Owner
    weights: Float[np.ndarray, "h t s"]
    value_norm: Float[np.ndarray, "h s"]
    is_memory: bool
    error: float


class Watch(TorchDispatchMode):
    """Collects what the layers of a model mix while it computes, and the parts of layers that have no map, with why.

    With `change` it collects nothing: `change(number, o)` gets the result of each softmax mixing, and may change it.
    """

    def __init__(self, model: nn.Module, change: Change | None = None) -> None:
        super().__init__()
        self.change = change
        self.mixings: list[Mixing] = []
        self.missing: dict[Owner, str] = {}
        self.computed: dict[Owner, nn.Module] = {}  # each layer that computed anything, in order
        self.owners: list[Owner] = []  # of each softmax mixing, in the order of their numbers
        self._numbered = _numbered(model)
        self._stack: list[nn.Module] = []
        self._positions: int | None = None  # that the layer which is computing was given
        self._softmaxes: dict[int, tuple[Tensor, int]] = {}  # by storage; the tensor keeps it from being used again
        self._paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._paused:
            self._look(func.overloadpacket, args, out)
        return out

    def _look(self, op: Any, args: Sequence[Any], out: Any) -> None:
        if op in SOFTMAX and out.ndim > 2:
            self._softmaxes[_storage(out)] = (out, len(out) if out.ndim > 3 else 1)
        elif op in CARRIES:
            for arg in args:
                if isinstance(arg, Tensor) and arg.shape == out.shape and _storage(arg) in self._softmaxes:
                    self._softmaxes[_storage(out)] = (out, self._softmaxes[_storage(arg)][1])
        elif op is aten.bmm and _storage(args[0]) in self._softmaxes:
            self.owners.append(self._owner())
            if self.change is not None:
                self.change(len(self.owners) - 1, out)
                return
            batch = self._softmaxes[_storage(args[0])][1]
            if batch == 1:
                self._add(WeightedSum(args[0], args[1], out), is_memory=False)
            else:
                self.missing[self._owner()] = f"its attention is computed in {batch} separate blocks"

    def _add(self, product: WeightedSum, *, is_memory: bool) -> None:
        owner, error = self._owner(), relative_error(product)
        half = product.o.dtype.itemsize < 4
        if error <= (ROUNDINGS * torch.finfo(product.o.dtype).eps if half else TOLERANCE):
            a, v = (x.detach().to("cpu", torch.float32) for x in (product.a, product.v))
            norm = v.norm(dim=-1).numpy()
            self.mixings.append(Mixing(owner, a.contiguous().numpy(), norm, is_memory, error))
        else:
            more = f"; it computes in {product.o.dtype}, try model.float()" if half else ""
            self.missing[owner] = f"its map times its values differs from what it computed by {error:.1e}{more}"

    def asked(self, kernel: Kernel) -> Callable[..., Any]:
        """The function of a kernel, which then is asked for its map besides."""
        signature = inspect.signature(kernel.function)

        def function(*args: Any, **kwargs: Any) -> Any:
            softmaxes, inner = len(self.owners), len(self.mixings)
            result = kernel.function(*args, **kwargs)
            if softmaxes == len(self.owners):  # one that calls softmax is seen by way of that
                bound = signature.bind(*args, **kwargs)
                self._imply(lambda: implied_sum(kernel, bound, result, self._positions), inner)
            return result

        return function

    def _imply(self, product: Callable[[], WeightedSum | None], inner: int) -> None:
        """Add the map of a memory. It stands for those of kernels that this one calls, all after the first `inner`."""
        if self._paused or self.change is not None:
            return
        self._paused = True
        before = self.mixings[inner:]
        try:
            del self.mixings[inner:]
            whole = product()
            if whole is not None:
                self._add(whole, is_memory=True)
        except UsageError as error:
            self.missing[self._owner()] = str(error)
        except (RuntimeError, ValueError, TypeError, IndexError):  # whatever a kernel says to values it does not know
            self.missing[self._owner()] = "its kernel cannot be asked with other values"
        finally:
            self._paused = False
        if len(self.mixings) == inner:
            self.mixings += before

    def enter(self, module: nn.Module, args: Any) -> None:
        if self._paused:
            return
        if id(module) in self._numbered and not any(id(outer) in self._numbered for outer in self._stack):
            hidden = next((arg for arg in args if isinstance(arg, Tensor) and arg.ndim == 3), None)
            self._positions = None if hidden is None else hidden.shape[1]
        self._stack.append(module)

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._paused:
            return
        if type(module).__name__ in INLINE:
            self._imply(lambda: INLINE[type(module).__name__](module, args, kwargs), len(self.mixings))
        if id(module) in self._numbered and not any(id(outer) in self._numbered for outer in self._stack[:-1]):
            self.computed[self._owner()._replace(part="")] = module
            self._softmaxes.clear()
        self._stack.pop()

    def _owner(self) -> Owner:
        """The outermost layer of a list that is computing, and the part of it."""
        for i, module in enumerate(self._stack):
            if id(module) in self._numbered:
                return Owner(*self._numbered[id(module)], _part(self._stack[i:]))
        return Owner("", 0, _part(self._stack))


def watch(model: nn.Module, compute: Callable[[], Any], *, change: Change | None = None) -> tuple[Watch, Any]:
    """Let a model compute, in evaluation mode; what it mixed, and what `compute` gave. The model stays as it is."""
    watching = Watch(model, change)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        stack.enter_context(_slow_path())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        for kernel in kernels(model):
            kernel.home[kernel.name] = watching.asked(kernel)
            stack.callback(kernel.home.__setitem__, kernel.name, kernel.function)
        stack.callback(register_module_forward_pre_hook(watching.enter).remove)
        stack.callback(register_module_forward_hook(watching.leave, with_kwargs=True, always_call=True).remove)
        stack.enter_context(watching)
        return watching, compute()


@contextmanager
def _slow_path() -> Iterator[None]:
    """torch.nn.MultiheadAttention computes step by step, as it does in training."""
    usual = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(usual)


def _numbered(model: nn.Module) -> dict[int, tuple[str, int]]:
    """Each module that its parent knows by a number: the parent's name, and the number."""
    return {
        id(child): (name, int(number))
        for name, parent in model.named_modules()
        for number, child in parent.named_children()
        if number.isdecimal()
    }


def _part(stack: Sequence[nn.Module]) -> str:
    """The first name below a layer that says which part of it is computing."""
    for outer, inner in pairwise(stack):
        for name, child in outer.named_children():
            if child is inner and not name.isdecimal():
                return name
    return ""


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
