"""The law that float32 is enough: extreme inputs give what they give in float64, or what rounding leaves of it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention.softmax import SoftmaxAttention
from attnlab.laws.layer_in_stack import LayerInStack, layers_in_stack
from attnlab.laws.subject import LONG, LawBroken, Subject, tokens

OFF = 1e-3  # of the largest number
TIMES = 10  # as far as rounding, once, the numbers that a rule starts from takes the result
ONE_BY_ONE = 7  # tokens that are decoded singly, after the others
FLOAT32 = torch.finfo(torch.float32)
aten = torch.ops.aten
CHOICES = {aten.sort.default, aten.sort.stable, aten.topk.default, aten.argmax.default, aten.sign.default}
# Projections, scores, features, and what is read; then weights. Sums, differences and functions stay exact.
MADE = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.convolution.default, aten.mul.Tensor}
MADE |= {aten.pow.Tensor_Scalar, aten.div.Tensor, aten._softmax.default}
BACKWARD = MADE | {aten.add.Tensor, aten.sub.Tensor, aten.sum.dim_IntList, aten._softmax_backward_data.default}


def inputs() -> list[dict[str, Tensor]]:
    """Extreme sequences, (t, c), by what is extreme about them: those of usual and small numbers, and large ones."""
    x, middle = tokens(1, LONG)[0], LONG // 2
    equal = x[:1].expand_as(x)
    zero, spike, channel = x.clone(), x.clone(), x.clone()
    zero[middle], channel[middle, 3] = 0.0, 1e4
    spike[middle] *= 1e4
    usual = {f"numbers of size {size:g}": x * size for size in (1e-20, 1e-10, 1e-5, 1.0, 10.0)}
    usual |= {"a row of zeros": zero, "zeros alone": torch.zeros_like(x)}
    usual |= {f"equal tokens of size {size:g}": equal * size for size in (1e-5, 1.0)}
    large = {f"numbers of size {size:g}": x * size for size in (30.0, 1e2, 1e4)}
    large |= {"a spike of 1e4": spike, "a spike of 1e4 at the start": spike.roll(-middle, 0)}
    large |= {"a spike of 1e4 in a channel": channel, "equal tokens of size 10000": equal * 1e4}
    return [usual, large]


class Choosing(TorchDispatchMode):
    """Notes what is chosen by comparing numbers, or has the same chosen `again`, in the same order.

    Near a tie, rounding chooses otherwise, which is no error of arithmetic.
    """

    back = False

    def __init__(self, again: "Choosing | None" = None) -> None:
        super().__init__()
        self.choices: list[Tensor] = []
        self.again = None if again is None else iter(again.choices)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in CHOICES or not args[0].is_floating_point():
            return out
        choice = out[1] if isinstance(out, tuple | list) else out
        if self.again is None:
            self.choices.append(choice)
            return out
        choice = next(self.again, choice).to(choice.dtype)
        return (args[0].gather(-1, choice), choice) if isinstance(out, tuple | list) else choice


class Rounding(Choosing):
    """Float64 in which each product and each weight is rounded to float32 as it is made, to the nearest or downwards.

    Sums, differences and functions are exact: what they lose in float32 is what the law is about. On the way back from
    the loss (`back`) they are rounded, too, since a gradient is a difference of products that may nearly cancel.
    """

    def __init__(self, again: Choosing, *, nearest: bool) -> None:
        super().__init__(again)
        self.nearest = nearest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func not in (BACKWARD if self.back else MADE) or out.dtype != torch.float64:
            return out
        small = self.back & (out.abs() < FLOAT32.tiny)  # a gradient of a small number may be smaller than float32 knows
        return torch.where(small, 0.0, rounded(out, self.nearest))


def rounded(x: Tensor, nearest: bool) -> Tensor:
    """A neighbour with the digits of float32, the nearest or the one towards zero, however large or small it is."""
    mantissa, exponent = torch.frexp(x)
    digits = (mantissa * 2**24).round() if nearest else (mantissa * 2**24).trunc()
    return torch.ldexp(digits / 2**24, exponent)


def results(placed: LayerInStack, x: Tensor, mode: Choosing) -> dict[str, Tensor]:
    """Outputs and the gradient of the input, (n, t, c), and whatever gradients parameters get."""
    x = x.clone().requires_grad_()
    parameters = {name: p for name, p in placed.layer.named_parameters() if p.requires_grad}
    with mode:
        y = placed(x)
        loss = (y * tokens(1, LONG, seed=2, dtype=x.dtype)).sum()
        mode.back = True
        slope, *slopes = torch.autograd.grad(loss, [x, *parameters.values()], allow_unused=True)
    gradients = {f"the gradient of {name}": g for name, g in zip(parameters, slopes, strict=True) if g is not None}
    return {"forward": y.detach(), "the gradient of the input": slope} | gradients


@torch.no_grad()
def decoded(placed: LayerInStack, x: Tensor, mode: Choosing) -> Tensor:
    with mode:
        return placed.decode(x, [LONG - ONE_BY_ONE] + [1] * ONE_BY_ONE, max_len=LONG)


def off(y: Tensor, right: Tensor) -> Tensor:
    """The largest error of each sequence, in parts of a token's largest number (or a thousandth of the sequence's)."""
    size = right.abs().amax(dim=-1, keepdim=True)
    scale = torch.maximum(size, 1e-3 * size.amax(dim=1, keepdim=True)).clamp(min=FLOAT32.tiny)
    error = (y.double() - right).abs()
    return torch.where(error <= FLOAT32.tiny, 0.0, error / scale).amax(dim=(1, 2)).nan_to_num(nan=torch.inf)


def exact_twin(placed: LayerInStack) -> LayerInStack:
    """The same numbers in float64, with every rule written out."""
    twin = copy.deepcopy(placed).double()
    for module in twin.modules():
        if isinstance(module, SoftmaxAttention):
            module.fused = False
        if isinstance(module, nn.RMSNorm) and module.eps is None:
            module.eps = FLOAT32.eps  # what it takes in float32
    return twin


def extreme_inputs(subject: Subject) -> None:
    """In float32 a spike, zeros, equal tokens and numbers of 1e-20 to 1e4 give what they give in float64."""
    for placed in layers_in_stack(subject, torch.float32):
        twin = exact_twin(placed)
        for cases in inputs():
            _float32_is_enough(placed, twin, cases)


def _float32_is_enough(placed: LayerInStack, twin: LayerInStack, cases: dict[str, Tensor]) -> None:
    x = torch.stack(list(cases.values()))
    with torch.no_grad():
        takes = twin(x).isfinite().all(dim=(1, 2))
    names, x = [name for name, taken in zip(cases, takes, strict=True) if taken], x[takes]
    noted, noted_steps = Choosing(), Choosing()
    right = results(twin, x, noted)
    rough = [results(twin, x.float().double(), Rounding(noted, nearest=nearest)) for nearest in (True, False)]
    y = results(placed, x.float(), Choosing(noted))
    right["step"] = decoded(twin, x, noted_steps)
    y["step"] = decoded(placed, x.float(), Choosing(noted_steps))
    for name, number in y.items():
        if number.shape != x.shape:  # of a parameter
            if right[name].isfinite().all() and not number.isfinite().all():
                raise LawBroken(f"{placed.label}{names[0]}, or another of them: {name} is not finite")
            continue
        usual = "forward" if name == "step" else name
        costs = torch.stack([off(way[usual], right[usual]) for way in rough])
        costs = costs.masked_fill(costs.isinf(), 0.0).amax(dim=0)  # where rounding leaves nothing, nothing is excused
        for case, error, cost in zip(names, off(number, right[name]).tolist(), costs.tolist(), strict=True):
            if not error <= (allowed := max(OFF, TIMES * cost)):
                raise LawBroken(
                    f"{placed.label}{case}: {name} is {error:.1e} of its size away from float64 (allowed {allowed:.1e})"
                )
