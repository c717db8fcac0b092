"""A model whose parameters, gradients and optimizer states lie in parts on several processes, and its checkpoints."""

import copy
import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from attnlab.attention.backends import use_backends
from attnlab.errors import FileFailure
from attnlab.model import GPT
from attnlab.store.checkpoints import CheckpointFolder, is_sharded, shard_name
from attnlab.store.digests import digest_of
from attnlab.training.checkpoint import OPTIMIZER, load_checkpoint, load_rest
from attnlab.training.process_group import ProcessGroup


class Whole(NamedTuple):
    """Parameters by name as one process has them, and the names that stand for another's parameter (a tied head)."""

    tensors: dict[str, Tensor]
    aliases: dict[str, str]


class Sharded(ModelParallelStrategy):
    """FSDP2 (`torch.distributed.fsdp.fully_shard`, arXiv 2304.11277) of every block and of what is around them.

    Each parameter is cut along its first axis; a process puts those of a block together when the block is computed, and
    keeps gradients and optimizer states of its parts alone. A parameter without axes is whole in every process. A
    checkpoint is a folder that every process writes its parts to, by torch.distributed.checkpoint, as safetensors.
    """

    def __init__(self, group: ProcessGroup, folder: CheckpointFolder) -> None:
        super().__init__(data_parallel_size=group.world_size, tensor_parallel_size=1)
        self.group, self.folder = group, folder

    @property
    def mesh(self) -> DeviceMesh:
        """The processes along which parameters are cut."""
        mesh: DeviceMesh = self.device_mesh["data_parallel"]
        return mesh

    # A checkpoint: what is no tensor in the file that the first process writes, tensors in parts.

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As the optimizer's own, with the names of parameters in place of numbers."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        names = self._names()
        groups = [{**group, "params": [names[p] for p in group["params"]]} for group in optimizer.param_groups]
        return {"state": {names[p]: dict(state) for p, state in optimizer.state.items()}, "param_groups": groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        step, beside = checkpoint["global_step"], checkpoint.pop("beside", {})
        whole = _unalias(checkpoint.pop("state_dict"))
        tensors = dict(whole.tensors)
        for optimizer in checkpoint["optimizer_states"]:
            for name, state in optimizer["state"].items():
                parts = {key: value for key, value in state.items() if isinstance(value, Tensor)}
                tensors |= {f"{OPTIMIZER}{name}/{key}": value for key, value in parts.items()}
                optimizer["state"][name] = {key: value for key, value in state.items() if key not in parts}
        folder = self.folder.path / shard_name(step)
        if self.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)  # what a killed command left of it
            folder.mkdir(parents=True)
        self.group.barrier()
        try:
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
        except dcp.CheckpointException as error:
            raise _file_failure(folder, error) from error
        own = sorted(folder.glob(f"shard-{self.global_rank + 1:05d}-*"))
        digests = {name: entry for part in self.group.gather(_digests(own)) for name, entry in part.items()}
        if self.is_global_zero:
            file = io.BytesIO()
            torch.save({**checkpoint, "aliases": whole.aliases}, file)
            self.folder.commit(folder.name, step, digests, file.getvalue(), beside)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = Path(checkpoint_path)
        source: _Folder | _File = _Folder(path) if is_sharded(path) else _File(path)
        assert self.lightning_module is not None
        own = _unalias(self.lightning_module.state_dict()).tensors
        names, targets, states = self._names(), dict(own), dict[Tensor, dict[str, Any]]()
        for optimizer, saved in zip(self.optimizers, source.rest["optimizer_states"], strict=False):
            order = [names[p] for group in optimizer.param_groups for p in group["params"]]
            plain = source.plain(saved, order)
            for group, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True):
                group.update({key: value for key, value in theirs.items() if key != "params"})
                for p in group["params"]:
                    states[p] = dict(plain.get(names[p], {}))
                    for key, (shape, dtype) in source.moments(names[p]).items():
                        states[p][key] = targets[f"{OPTIMIZER}{names[p]}/{key}"] = (
                            torch.zeros_like(p.detach(), dtype=dtype)
                            if shape == p.shape
                            else torch.zeros(shape, dtype=dtype, device=p.device if group.get("fused") else "cpu")
                        )
        with torch.no_grad():
            source.fill(targets)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                optimizer.state.update({p: states[p] for p in group["params"] if states.get(p)})
        return {**source.rest, "state_dict": {}}

    def _names(self) -> dict[Tensor, str]:
        """After `state_dict`, which cuts what a validation has left whole."""
        assert self.lightning_module is not None
        return {p: name for name, p in self.lightning_module.named_parameters()}


class _Folder:
    """A checkpoint in parts, of which a process reads what is its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.rest = path, load_rest(path)
        self.tensors = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata

    def plain(self, saved: Mapping[str, Any], order: Sequence[str]) -> Mapping[str, Any]:
        """What an optimizer keeps of each parameter, by name, that is no tensor."""
        states: Mapping[str, Any] = saved["state"]
        return states

    def moments(self, name: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The tensors that an optimizer keeps of a parameter."""
        start = f"{OPTIMIZER}{name}/"
        entries: dict[str, Any] = {
            key.removeprefix(start): e for key, e in self.tensors.items() if key.startswith(start)
        }
        return {key: (entry.size, entry.properties.dtype) for key, entry in entries.items()}

    def fill(self, targets: dict[str, Tensor]) -> None:
        dcp.load(targets, storage_reader=HuggingFaceStorageReader(str(self.path)))


class _File:
    """A checkpoint that one process wrote, of which every process reads all and takes its own."""

    def __init__(self, path: Path) -> None:
        self.rest = load_checkpoint(path)
        self.whole = _unalias(self.rest["state_dict"]).tensors
        self.states: dict[str, dict[str, Tensor]] = {}

    def plain(self, saved: Mapping[str, Any], order: Sequence[str]) -> Mapping[str, Any]:
        """Parameters are numbered there, in the order of the groups."""
        states = {name: saved["state"].get(number, {}) for number, name in enumerate(order)}
        for name, state in states.items():
            self.states[name] = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        return {n: {key: v for key, v in state.items() if key not in self.states[n]} for n, state in states.items()}

    def moments(self, name: str) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {key: (value.shape, value.dtype) for key, value in self.states[name].items()}

    def fill(self, targets: dict[str, Tensor]) -> None:
        moments = {f"{OPTIMIZER}{n}/{key}": value for n, state in self.states.items() for key, value in state.items()}
        for name, target in targets.items():
            whole = (self.whole | moments)[name]
            local(target).copy_(local(cut(whole, target)))


def shard(model: GPT, mesh: DeviceMesh) -> None:
    """Cut the parameters of every block, and of what is around the blocks, in place."""
    scalars = {p for p in model.parameters() if not p.ndim}  # which FSDP2 does not take
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(model, mesh=mesh, ignored_params=scalars)


def can_start_empty(model: GPT) -> bool:
    """Whether all numbers of a model on the meta device are parameters and buffers, which `spread` gives it."""
    values = (value for module in model.modules() for name, value in vars(module).items() if not name.startswith("_"))
    return not any(isinstance(part, Tensor) for value in values for part in _parts(value))


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)


@torch.no_grad()
def spread(model: GPT, whole: GPT | None, device: torch.device) -> None:
    """Give a model in parts its numbers, where the first process alone has it whole, and the others have it on meta.

    One tensor at a time is whole in them. All processes must take part.
    """
    sources = {} if whole is None else {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    if whole is None:
        model.to_empty(device=device)
    for name, target in (*model.named_parameters(), *model.named_buffers()):
        if not target.numel():
            continue
        like = torch.empty(target.shape, dtype=target.dtype, device=device)
        tensor = like if whole is None else like.copy_(sources[name])
        dist.broadcast(tensor, 0)
        if whole is None:
            local(target).copy_(local(cut(tensor, target)))


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process has, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, put together by all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has, cut as another one is."""
    if not isinstance(like, DTensor):
        return whole
    whole = whole.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def put_together(model: GPT, into: GPT | None) -> None:
    """Copy a model that lies in parts into one that is whole, where there is one; all processes must take part."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a validation leaves some as they were computed with
    targets = {} if into is None else dict(into.named_parameters())
    for name, p in model.named_parameters():
        whole = full(p)
        if into is not None:
            targets[name].copy_(whole)
    if into is not None:
        for own, target in zip(model.buffers(), into.buffers(), strict=True):
            target.copy_(own)


def keep_whole(model: GPT) -> GPT:
    """A copy on the CPU to put the parts together in, for pictures and texts: all torch's own code."""
    whole = copy.deepcopy(model).requires_grad_(False)
    use_backends(whole, "torch", "fp32")
    return whole


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The L2 norm of all gradients, wherever their parts lie."""
    if not any(isinstance(g, DTensor) for g in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    kinds = [[g for g in gradients if isinstance(g, DTensor) is cut_up] for cut_up in (True, False)]
    return torch.nn.utils.get_total_norm([full(torch.nn.utils.get_total_norm(kind)) for kind in kinds if kind])


def clip(parameters: Sequence[nn.Parameter], bound: float, norm: Tensor) -> None:
    """Bring gradients of this norm to at most `bound`."""
    for kind in (True, False):
        these = [p for p in parameters if isinstance(p, DTensor) is kind]
        if these:
            torch.nn.utils.clip_grads_with_norm_(these, bound, norm)


def average(gradients: Sequence[Tensor]) -> None:
    """The mean over the processes of gradients that each has whole, in place."""
    for gradient in gradients:
        dist.all_reduce(gradient)
        gradient.div_(dist.get_world_size())


def _unalias(state: Mapping[str, Any]) -> Whole:
    """Each tensor once: a tied head has two names."""
    first: dict[int, str] = {}
    tensors, aliases = {}, {}
    for name, tensor in state.items():
        storage = local(tensor).untyped_storage().data_ptr() or id(tensor)
        if storage in first and local(state[first[storage]]).shape == local(tensor).shape:
            aliases[name] = first[storage]
        else:
            first[storage] = name
            tensors[name] = tensor
    return Whole(tensors, aliases)


def _digests(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    return {file.name: digest_of(file) for file in files}


def _file_failure(folder: Path, error: dcp.CheckpointException) -> BaseException:
    """What the machine has refused to one of the processes, in one line."""
    rank, (cause, _) = next(iter(error.failures.items()))
    if isinstance(cause, OSError):
        reason = cause.strerror or str(cause)
        return FileFailure(f"cannot write {folder} (process {rank}: {reason}); paths.runs says where it goes")
    return error
