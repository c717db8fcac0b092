"""What decays start with where nothing is drawn: evenly spaced over heads or channels, the same for all seeds."""

import math
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from attnlab.attention.position_bias import softplus_inverse
from attnlab.options.rules import Rule

Range = Annotated[list[float], Rule(float, above=0, length=2)]


# By Python's logarithms: torch's in float32 differ in their last digit from processor to processor.
def first_rates(n: int, first: float = 1.0, last: float = 16.0) -> Float[Tensor, " n"]:
    """The log of numbers from the first to the last, evenly spaced."""
    return torch.tensor([math.log(rate) for rate in np.linspace(first, last, n)])


def first_steps(n: int, first: float = 0.1, last: float = 0.001) -> Float[Tensor, " n"]:
    """b so that softplus(b) runs from the first to the last, evenly in its logarithm."""
    return torch.tensor([softplus_inverse(step) for step in np.logspace(math.log10(first), math.log10(last), n)])
