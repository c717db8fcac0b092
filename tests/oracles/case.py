"""What a comparison with other people's code is, and how its numbers are kept in a small file.

An oracle runs once, on the machine of whoever records; the numbers stay here, and ordinary tests need none of its
packages. Weights and inputs are drawn with eleven significant bits, so that float16 keeps them exactly.
"""

import ast
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnlab.attention.base import Attention
from attnlab.attention.shared import Shared
from attnlab.build import attention_factory
from attnlab.config.compose import config_dir
from attnlab.config.run_config import RunConfig

FOLDER = Path(__file__).parent / "recorded"
BATCH, LENGTH, WIDTH, CONTEXT = 2, 9, 16, 32
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recording:
    """What an oracle made of its inputs: outputs by name ("y", "map", "decoded") and the gradients of <y, dy>."""

    inputs: Tensors
    outputs: Tensors
    dy: Tensor
    gradients: Tensors

    def save(self, name: str, package: str, source: str) -> None:
        kept = {f"in.{k}": compact(v) for k, v in self.inputs.items()} | {"dy": compact(self.dy)}
        kept |= {f"out.{k}": v for k, v in self.outputs.items()} | {f"grad.{k}": v for k, v in self.gradients.items()}
        about = {"package": package, "version": version_of(package), "source": source}
        save_file({k: v.detach().contiguous().clone() for k, v in kept.items()}, FOLDER / f"{name}.safetensors", about)


def checkout(repository: str) -> Path:
    """Where OWNER/NAME@COMMIT lies, if ATTNLAB_ORACLES names a folder of checkouts."""
    return Path(os.environ.get("ATTNLAB_ORACLES", "")) / repository.split("@")[0].split("/")[1]


def part_of(repository: str, path: str, *names: str, **more: Any) -> SimpleNamespace:
    """Classes and functions of one file of a checkout, without what else it imports; `more` stands for some of that."""
    tree = ast.parse((checkout(repository) / path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    usual: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "math": math, "Tensor": Tensor, "Optional": Optional}
    scope = usual | {"Tuple": tuple} | more
    exec(compile(tree, path, "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names if name in scope})  # a file may lack one


def version_of(package: str) -> str:
    """The version of an installed package, or the commit of a repository that is checked out; an error without."""
    if "@" not in package:
        return version(package)
    if "ATTNLAB_ORACLES" not in os.environ or not checkout(package).is_dir():
        raise PackageNotFoundError(package)
    return package.split("@")[1]


def load(name: str) -> Recording:
    """The numbers of one case, in float64."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a file is not a mapping

    def part(prefix: str) -> Tensors:
        return {k.removeprefix(prefix): v.double() for k, v in kept.items() if k.startswith(prefix)}

    return Recording(part("in."), part("out."), kept["dy"].double(), part("grad."))


def compact(x: Tensor) -> Tensor:
    """In float16 if that is exact."""
    x = x.detach()
    return x.half() if torch.equal(x.half().to(x.dtype), x) else x


def coarse(*shape: int, scale: float = 1.0, draw: torch.Generator) -> Tensor:
    """Normal numbers rounded to 1/128, in float64."""
    return (scale * torch.randn(shape, generator=draw, dtype=torch.float64) * 128).round() / 128


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def coarsen(module: nn.Module, scale: float = 0.3) -> None:
    """Give every parameter a coarse random value around 0, or around 1 where it starts as a vector of ones."""
    draw = generator()
    for p in module.parameters():
        gain = p.ndim == 1 and bool((p == 1).all())
        p.copy_(coarse(*p.shape, scale=scale, draw=draw) + gain)


class InDouble(TorchFunctionMode):
    """Reads every torch.float32 that the code inside writes down as torch.float64.

    Public models cast to float32 where they fear bfloat16; without those casts their formulas can be compared to the
    tenth digit.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def in_double() -> Iterator[None]:
    """Everything in float64: what is made, and what would be cast."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def recorded(inputs: Tensors, outputs: Tensors) -> Recording:
    """Outputs, and the gradients of one random sum of "y" with respect to every input."""
    y = outputs["y"]
    dy = coarse(*y.shape, draw=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((y * dy).sum(), list(inputs.values()), allow_unused=True)
    known = {name: g for name, g in zip(inputs, gradients, strict=True) if g is not None}
    return Recording(inputs, outputs, dy, known)


@dataclass(frozen=True)
class Case:
    """One variant against one oracle.

    `oracle` gives a recording; `ours` computes the same outputs from the same inputs with our layer, which is built
    from configs/attention under `options`. `tolerance` is the largest difference allowed in float64, absolute and
    relative; `why` says where it is not rounding, and which part is compared where the whole differs.
    """

    name: str
    variant: str
    package: str
    source: str
    oracle: Callable[[], Recording]
    ours: Callable[[Attention, Tensors], Tensors]
    options: tuple[str, ...] = ()
    layer: int = 0
    n_layers: int = 4
    tolerance: float = 1e-10
    why: str = ""

    def build(self) -> Attention:
        """Our layer, in float64."""
        words = [f"attention={self.variant}", "model.n_heads=4", "model.dropout=0", *self.options]
        with initialize_config_dir(str(config_dir()), version_base="1.3"):  # unchecked, which takes half the time
            config = OmegaConf.to_container(compose("train", overrides=words), resolve=True)
        assert isinstance(config, dict)
        factory = attention_factory(RunConfig.of({str(key): value for key, value in config.items()}))
        made: Attention = factory(WIDTH, layer=self.layer, n_layers=self.n_layers, context=CONTEXT).double().eval()
        return made


def layer_with(mapping: Callable[[Tensors], Tensors], decode: bool = True) -> Callable[[Attention, Tensors], Tensors]:
    """`ours` for a whole layer: weights mapped from the oracle's names, then forward, map and token-by-token decoding.

    Loading is strict, so the oracle decides every parameter of ours. "y" is a function of the oracle's weights, so
    gradients are compared in its terms.
    """

    def ours(layer: Attention, inputs: Tensors) -> Tensors:
        x, weights = inputs["x"], mapping({k: v for k, v in inputs.items() if k != "x"})
        layer.load_state_dict({k: v.detach() for k, v in weights.items()})
        outputs = {"y": torch.func.functional_call(layer, dict(weights), (x,))}
        with torch.no_grad():
            if (weights_of := layer.weights(x)) is not None:
                outputs["map"] = weights_of
            if decode:
                state, rows = layer.init_state(x.size(0), x.size(1)), []
                for token in x.split(1, dim=1):
                    row, state = layer.step(token, state, Shared())
                    rows.append(row)
                outputs["decoded"] = torch.cat(rows, dim=1)
        return outputs

    return ours


def interleaved(w: Tensor, n_heads: int, width: int | None = None) -> Tensor:
    """Rows of a projection from the half-split layout of rotary pairs (i, i + d/2) to ours (2i, 2i + 1).

    Only the first `width` rows of each head turn.
    """
    heads = w.unflatten(0, (n_heads, -1))
    d = heads.size(1)
    width = d if width is None else width
    order = [*torch.arange(width).unflatten(0, (2, -1)).T.flatten().tolist(), *range(width, d)]
    return heads[:, order].flatten(0, 1)
