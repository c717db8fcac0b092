"""The model behind torch.compile, where there is a compiler that can."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnlab.model import GPT
from attnlab.training.notes import log


def compile_network(
    model: GPT, ids: Tensor, documents: Tensor | None = None
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`model` compiled for batches of the shape of `ids`, or `model` itself where that cannot be done, which is said.

    Forward and backward pass are tried here, so that nothing fails later; the random streams are left as they were. A
    plain pass comes first: what layers keep for a length (angles, masks) is made outside of the compiled code, which it
    would cut into pieces.
    """
    log("compiling the model (trainer.compile)")
    torch.compiler.reset()  # of earlier runs in this process: the compiler leaves code eager that it met in eight forms
    network, trained = compiled(model, ids.device), [p for p in model.parameters() if p.requires_grad]
    try:
        with torch.random.fork_rng([ids.device] if ids.is_cuda else []):
            model(ids, documents)
            torch.autograd.grad(network(ids, documents).float().sum(), trained, allow_unused=True)
    except Exception as error:  # a compiler that is not there, or cannot do it, raises whatever it likes
        log(f"trainer.compile: it cannot be compiled here, so it trains uncompiled ({reason_of(error)})")
        return model
    return network


def compiled(model: nn.Module, device: torch.device) -> Callable[[Tensor, Tensor | None], Tensor]:
    """`model` behind the compiler, for batches of one shape; what calls the kernels of a CPU is C++, too.

    Called from Python, some 450 kernels of a small model's step cost a tenth of it. They are the same.
    """
    network: Callable[[Tensor, Tensor | None], Tensor] = torch.compile(
        model, dynamic=False, options={"cpp_wrapper": device.type == "cpu"}
    )
    return network


def reason_of(error: Exception) -> str:
    """Its first line, in one line."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"[:200]
