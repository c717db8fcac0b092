"""How the source of a layer starts its parameters: otherwise than we do, as we do, or it does not say.

A module says so in `published`, by the names of its parameters, those of its parts included (`decay.log_rate`); what
an owner says goes before what its part says. Matrices and convolutions are not meant, which model.init draws.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SourceStart:
    """What a source starts a parameter with, in words, and how it is drawn; None where ours is the same or unknown."""

    text: str
    draw: Callable[[Shape, torch.Generator], Tensor] | None = None


ALIKE = SourceStart("as here")
UNSAID = SourceStart("not said")
Starts = Mapping[str, SourceStart]


def exactly(values: float | Tensor, text: str = "") -> SourceStart:
    """These numbers, spread over the parameter."""
    return SourceStart(text or f"{float(values):g}", partial(_filled, values))


def normal(std: float, text: str = "") -> SourceStart:
    """Drawn around 0."""
    return SourceStart(text or f"normal {std:.3g}", partial(_normal, std))


def uniform(low: float, high: float) -> SourceStart:
    """Drawn evenly between two numbers."""
    return SourceStart(f"uniform {low:.3g} to {high:.3g}", partial(_uniform, low, high))


def log_of_uniform(low: float, high: float) -> SourceStart:
    """The logarithm of what is drawn evenly between two numbers, none of it below 1e-4."""
    return SourceStart(f"log of uniform {low:g} to {high:g}", partial(_log_of_uniform, low, high))


def steps_between(low: float, high: float) -> SourceStart:
    """b so that softplus(b) is drawn between two numbers, evenly in its logarithm."""
    return SourceStart(f"softplus of it log-uniform {low:g} to {high:g}", partial(_steps, low, high))


def _filled(values: float | Tensor, shape: Shape, _: torch.Generator) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).expand(shape).clone()


def _normal(std: float, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _uniform(low: float, high: float, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(low, high, generator=generator)


def _log_of_uniform(low: float, high: float, shape: Shape, generator: torch.Generator) -> Tensor:
    return _uniform(low, high, shape, generator).clamp(min=1e-4).log()


def _steps(low: float, high: float, shape: Shape, generator: torch.Generator) -> Tensor:
    step = _uniform(math.log(low), math.log(high), shape, generator).exp()
    return step + (-torch.expm1(-step)).log()  # the inverse of softplus


def published_starts(module: nn.Module) -> dict[str, SourceStart]:
    """What the sources of a module and of its parts say of each parameter that there is, by its dotted name."""
    present = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    starts: dict[str, SourceStart] = {}
    for owner, part in reversed(list(module.named_modules())):
        for name, start in _own(part).items():
            starts[f"{owner}.{name}".lstrip(".")] = start
    return {name: start for name, start in sorted(starts.items()) if name in present}


def _own(module: nn.Module) -> dict[str, SourceStart]:
    """What the classes of a module state, a subclass after its bases."""
    starts: dict[str, SourceStart] = {}
    for cls in reversed(type(module).__mro__):
        stated = vars(cls).get("published", {})
        starts.update(stated.__get__(module) if isinstance(stated, property) else stated)
    return starts
