"""What a run takes, told before it begins: parameters, memory of a device, FLOPs, tokens, time. Nothing is trained.

FLOPs are those of matrix products, counted on the model that would be built, and memory is measured on it, too: as
tensors without numbers, whose sizes are those of training.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from attnlab.attention.backends import use_backends
from attnlab.attention.base import Shared
from attnlab.attention.cost import count_flops, tensor_bytes
from attnlab.build import build_model
from attnlab.config.run_config import RunConfig
from attnlab.data.dataset import Dataset
from attnlab.model import GPT
from attnlab.training.hardware import WEIGHTS
from attnlab.training.optimizer import Recipe


def passes(config: RunConfig) -> int:
    """Forward passes that a training step is worth: a backward pass is two, and what it computes again another one."""
    return 3 + config.trainer.checkpoint_activations


KEPT_CHECKPOINTS = 2
FEWEST_STEPS = 2  # that are tried, the first to warm up
PEAK_SECONDS, PEAK_SIZE = 0.3, 1024  # of the matrix products that tell what a device can do, and their width
OF_THE_STACK = ("layer", "n_layers")  # what a layer is told of it; ours act on that where they are built
Counted = dict[Any, int]  # the FLOPs of a layer, by all that they depend on


class Memory(NamedTuple):
    """Bytes on each device of a run, and what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # of its rows of a batch, until the backward pass has used them
    communication: int  # buckets of gradients (ddp), or what is whole at once, with its gradients (fsdp)

    @property
    def total(self) -> int:
        """All of it together: less than the peak by the largest tensors that a step makes in passing."""
        return sum(self)


# FLOPs.


def count_costs(model: GPT, counted: Counted) -> dict[str, int]:
    """The parameters of a model on the meta device, and the FLOPs of a forward pass of one row."""
    return {"parameters": model.n_parameters, "forward_flops": forward_flops(model.eval(), counted)}


def forward_flops(model: GPT, counted: Counted) -> int:
    """FLOPs of a forward pass of one row, of a model on the meta device; layers that are alike are counted once."""
    ids = torch.zeros(1, model.context, dtype=torch.long, device="meta")
    if any(block.attention.traits.requires for block in model.layers):
        return _once(("whole", model.context, model.vocab_size, *map(_kind, model.layers)), counted, lambda: model(ids))
    x = torch.empty(1, model.context, model.embedding.embedding_dim, device="meta")

    def ends() -> None:
        model.entrance(ids)
        model.logits(x)

    rest = [m for name, m in model.named_children() if name != "blocks"]
    flops = _once(("ends", model.context, *map(_kind, rest)), counted, ends)
    for block in model.layers:
        flops += _once((model.context, _kind(block)), counted, lambda block=block: block(x, Shared()))  # type: ignore[misc]
    return flops


def _once(key: Any, counted: Counted, run: Callable[[], Any]) -> int:
    if key not in counted:
        counted[key] = count_flops(run)
    return counted[key]


def _kind(module: nn.Module) -> Any:
    """All that the work of a module depends on: classes, shapes, and what it was built with, but for which layer it is,
    and of how many.

    That stays part of it in a class that is not ours.
    """
    ours = type(module).__module__.partition(".")[0] in ("attnlab", "torch")
    settings = [
        (name, _stands_for(value))
        for name, value in sorted(vars(module).items())
        if not (name.startswith("_") or name == "training" or (ours and name in OF_THE_STACK))
    ]
    shapes = [(name, None if p is None else tuple(p.shape)) for name, p in module._parameters.items()]
    return type(module), repr(settings), repr(shapes), *((name, _kind(m)) for name, m in module._modules.items() if m)


def _stands_for(value: Any) -> Any:
    """A setting as text: of an object that has no text of its own, its class and settings."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return [_stands_for(each) for each in value]
    if type(value).__module__.partition(".")[0] == "attnlab" and hasattr(value, "__dict__"):
        return type(value).__name__, {name: _stands_for(each) for name, each in vars(value).items()}
    return value


# Memory.


def device_memory(config: RunConfig, n_vocab: int, recipe: Recipe) -> Memory:
    """What each device of a run holds, measured on models without numbers; precision and strategy must be settled."""
    world, sharded = config.trainer.devices * config.trainer.nodes, config.trainer.strategy == "fsdp"
    model = _empty_model(config, n_vocab)
    weights = sum(p.nbytes for p in model.parameters())
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    optimizer = recipe.optimizer(model)
    for p in trained:
        p.grad = torch.empty_like(p)
    optimizer.step()
    state = tensor_bytes([list(values.values()) for values in optimizer.state.values()])
    blocks = [sum(p.nbytes for p in block.parameters()) for block in model.layers]
    at_once = weights - sum(blocks) + max(blocks)  # what is around the blocks stays whole until the step is done
    share = world if sharded else 1
    between = 0 if world == 1 else 2 * at_once if sharded else gradients
    rows = -(-config.batch_size // world)
    return Memory(
        -(-weights // share),
        -(-gradients // share),
        -(-state // share),
        activation_bytes(config, n_vocab, rows),
        between,
    )


def _empty_model(config: RunConfig, n_vocab: int) -> GPT:
    with torch.device("meta"):
        model = build_model(config, n_vocab)
    return model.to(WEIGHTS.get(config.trainer.precision))


def activation_bytes(config: RunConfig, n_vocab: int, rows: int) -> int:
    """What a forward pass of so many rows keeps for the backward pass, measured with tensors that hold no numbers.

    Where blocks are computed again, one of them at a time is whole, too.
    """
    if config.trainer.checkpoint_activations:
        whole = replace(config, trainer=replace(config.trainer, checkpoint_activations=False))
        few, all_blocks = (_saved(each, n_vocab, rows) for each in (config, whole))
        return few + (all_blocks - few) // config.model.n_layers
    return _saved(config, n_vocab, rows)


def _saved(config: RunConfig, n_vocab: int, rows: int) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes long to import

    empty = _empty_model(config, n_vocab)
    with FakeTensorMode(allow_non_fake_inputs=True), _NumbersAreZero():
        model = empty.to_empty(device="cpu").train()
        ids = torch.zeros(rows, model.context, dtype=torch.long)
        with saved_bytes(list(model.parameters())) as count, autocast(config.trainer.precision, "cpu"):
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        del loss
    return count()


class _NumbersAreZero(TorchDispatchMode):
    """Whoever asks a tensor without numbers for one gets 0: layers look whether scores leave a kernel's range."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0 if args[0].dtype.is_floating_point else 0
        return func(*args, **(kwargs or {}))


@contextmanager
def saved_bytes(apart: Sequence[Tensor] = ()) -> Iterator[Callable[[], int]]:
    """Count the bytes that are kept for a backward pass inside the block, but for those of some tensors.

    Memory that several tensors share counts once.
    """
    alive: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        alive[storage._cdata] = storage  # or another would get its address
        return tensor

    others = {p.untyped_storage()._cdata for p in apart}
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for address, storage in alive.items() if address not in others)


def autocast(precision: str, accelerator: str) -> torch.autocast:
    """The types that products are computed in, as Lightning sets them for this precision."""
    kind = torch.float16 if precision == "fp16" and accelerator == "cuda" else torch.bfloat16
    return torch.autocast(accelerator, kind, enabled=precision in ("bf16", "fp16"))


# Time.


class Tried(NamedTuple):
    """Median seconds of one batch: forward and backward with the update, and forward alone."""

    step: float
    forward: float


def try_steps(
    config: RunConfig, accelerator: str, recipe: Recipe, n_vocab: int, splits: Dataset, seconds: float
) -> Tried:
    """Make a few steps with a model that is thrown away."""
    model = build_model(config, n_vocab).to(accelerator, WEIGHTS.get(config.trainer.precision))
    use_backends(model, config.trainer.attention_backend, config.trainer.precision)
    optimizer = recipe.optimizer(model)
    took: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(took) < FEWEST_STEPS or time.perf_counter() < end:
        started = time.perf_counter()
        batch = splits.train_batch(
            seed=config.streams.data, step=len(took), batch_size=config.batch_size, context=config.model.context
        ).to(accelerator)
        with autocast(config.trainer.precision, accelerator):
            loss = F.cross_entropy(model(batch.ids, batch.documents).flatten(0, 1), batch.targets.flatten())
        loss.item()
        forward = time.perf_counter() - started
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        took.append((time.perf_counter() - started, forward))
    step, forward = sorted(took[1:])[(len(took) - 1) // 2]
    return Tried(step, forward)


def seconds_of(config: RunConfig, splits: Dataset, batch: Tried) -> float:
    """How long the steps and validations of a run take, from what one batch takes."""
    trainer = config.trainer
    validations = 1 + -(-trainer.max_steps // trainer.val_every)
    validation = batch.forward * splits.n_val_rows(config.model.context) / config.batch_size
    return trainer.max_steps * trainer.accumulate * batch.step + validations * validation


def peak_flops(precision: str, accelerator: str) -> float:
    """FLOP/s of one device, from products of square matrices in the type that training multiplies in."""
    kinds = {"fp32": torch.float32, "fp64": torch.float64, "fp16": torch.float16}
    kind = kinds.get(precision, torch.bfloat16)
    a = torch.randn(PEAK_SIZE, PEAK_SIZE, device=accelerator).to(kind)
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        (a @ a).float().sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * PEAK_SIZE**3 / best


def disk_bytes(config: RunConfig, weights: int, optimizer: int) -> int:
    """About what a run leaves: its checkpoints, of so many bytes, and its maps in half precision before compression."""
    model = config.model
    maps = config.maps.steps * model.n_layers * model.n_heads * min(model.context, 64) ** 2 * 2
    return KEPT_CHECKPOINTS * (weights + optimizer) + maps
