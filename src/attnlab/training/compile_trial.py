"""Whether compiling a model pays for a run, tried once per experiment, and where what was compiled is kept."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attnlab.attention.backends import use_backends
from attnlab.build import build_model
from attnlab.config.run_config import RunConfig
from attnlab.model import GPT
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training.compiled import compile_network, reason_of
from attnlab.training.resolved import AUTO, not_here, resolve, resolved_before

KEY = "trainer.compile"
MOST_GAINED = 2.0  # times faster than plain; 1.57 is the most of all variants in LOG.md
LEAST_SECONDS = 10.0  # that a compiler takes; 9 to 249 in LOG.md
TRIES = 3  # steps that are timed


def share_compiled(cache: Path) -> None:
    """Keep what is compiled below the cache, for other runs and processes, unless the user has chosen a place."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((cache / "compiled").absolute()))


def resolve_compile(
    setting: bool | Literal["auto"], choose: Callable[[], Mapping[str, Any]], experiment: ExperimentFolder
) -> bool:
    """What trainer.compile = auto | true | false comes to, for all runs of an experiment.

    `auto` is what `choose` finds for the first of them. Where that was true, a machine without a compiler is refused:
    the run would go on in other arithmetic than it began with.
    """
    before = resolved_before(KEY, setting, experiment)
    if setting == AUTO and before is True and (reason := _no_compiler()):
        raise not_here(KEY, "true", experiment, f"nothing can be compiled here ({reason})")
    return bool(resolve(KEY, setting, choose, experiment))


def _no_compiler() -> str | None:
    """Why the smallest function cannot be compiled; None if it can."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:
        return reason_of(error)
    return None


def try_compiler(config: RunConfig, vocabulary: int, accelerator: str) -> dict[str, Any]:
    """Whether compiling pays for a run of this length: what it saves must be more than the seconds it takes.

    A run that is too short for the fastest compiler and the largest gain ever measured is not compiled at all. Else
    both kinds of step are timed on the run's own model and batches of its shape, and what was compiled is kept, so that
    the run need not do it again.
    """
    trainer, model = config.trainer, build_model(config, vocabulary).to(accelerator)
    use_backends(model, trainer.attention_backend, trainer.precision)
    rows = config.batch_size // (trainer.devices * trainer.nodes)
    ids = torch.zeros(rows, config.model.context, dtype=torch.long, device=accelerator)
    bf16, batches = trainer.precision == "bf16", trainer.max_steps * trainer.accumulate
    plain = _seconds(model, model, ids, bf16)
    record: dict[str, Any] = {"value": False, "batches": batches, "seconds_plain": plain}
    if plain * batches * (1 - 1 / MOST_GAINED) < LEAST_SECONDS:
        return record
    started = time.perf_counter()
    with torch.autocast(accelerator, torch.bfloat16, enabled=bf16):
        network = compile_network(model, ids)
    if network is model:
        return record
    compiling, compiled = time.perf_counter() - started, _seconds(network, model, ids, bf16)
    pays = (plain - compiled) * batches > compiling
    return {**record, "value": pays, "seconds_compiled": compiled, "seconds_compiling": compiling}


def _seconds(network: Callable[..., Tensor], model: GPT, ids: Tensor, bf16: bool) -> float:
    """The fastest of a few steps, forward and backward; the random streams are left as they were."""
    trained, least = [p for p in model.parameters() if p.requires_grad], float("inf")
    with torch.random.fork_rng([ids.device] if ids.is_cuda else []):
        for turn in range(TRIES + 1):
            started = time.perf_counter()
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(network(ids, None).flatten(0, 1), ids.flatten())
            torch.autograd.grad(loss, trained, allow_unused=True)[0].sum().item()  # waits for an accelerator
            if turn:  # the first one allocates and chooses kernels
                least = min(least, time.perf_counter() - started)
    return least
