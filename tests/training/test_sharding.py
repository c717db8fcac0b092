"""A model in parts, as a process sees it: one alone here, several in test_several_processes.py."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from tests.training.fits import CONTEXT, VOCAB, adamw, tiny_model
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from attnlab.model import GPT
from attnlab.training.optimizer import MuonOfParts, matrices_of
from attnlab.training.sharding import clip, keep_whole, put_together, shard, total_norm


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def backward(model: GPT) -> None:
    ids = torch.arange(2 * CONTEXT).reshape(2, -1) % VOCAB
    model(ids).logsumexp(-1).square().mean().backward()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_steps(kind: str, mesh: DeviceMesh) -> None:
    """In parts, norms, clipping and updates come to what they come to without, and the parts can be put together."""
    plain = tiny_model().double()
    model = copy.deepcopy(plain)
    whole = keep_whole(model)
    shard(model, mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    make = adamw().optimizer if kind == "adamw" else lambda one: MuonOfParts(matrices_of(one), lr=0.1)
    optimizers = [make(one) for one in (plain, model)]
    for _ in range(2):
        norms = []
        for one, optimizer in zip((plain, model), optimizers, strict=True):
            trained = list(one.parameters())
            backward(one)
            norms.append(total_norm([p.grad for p in trained if p.grad is not None]))
            clip(trained, 0.1, norms[-1])
            optimizer.step()
            one.zero_grad()
        torch.testing.assert_close(*norms, rtol=1e-12, atol=0)
    put_together(model, whole)
    for name, p in plain.named_parameters():
        torch.testing.assert_close(whole.get_parameter(name), p, rtol=0, atol=1e-12, check_device=False)
    start = tiny_model().double()
    assert any(not torch.equal(whole.get_parameter(name), p) for name, p in start.named_parameters())
