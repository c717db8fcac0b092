"""What the machine can do: devices, threads, and whether bfloat16 pays."""

import ctypes
import os
import platform
import time
from contextlib import suppress
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

from attnlab.attention.half_kernel import attend_in_half
from attnlab.errors import UsageError
from attnlab.machine.environment import cores, environment_of_user
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.training.resolved import not_here, resolve, resolved_before

CLEARLY = 1.15  # by how much attention in bfloat16 must be the faster one
ROUNDS = 8  # of each type
MOST_NUMBERS = 2**23  # of the map that is measured on: a second's work

Dtype = Literal["fp32", "bf16", "fp64"]
Precision = Literal["fp32", "bf16", "fp64", "bf16-true", "fp16"]
Setting = Literal["auto", "fp32", "bf16", "fp64", "bf16-true", "fp16"]
WEIGHTS = {"bf16-true": torch.bfloat16, "fp64": torch.float64}  # the type of weights by precision, elsewhere float32
StrategyName = Literal["single", "ddp", "fsdp"]
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's numbers of these settings, in malloc.h
BYTES_PER_PARAMETER = 16  # the weight, its gradient and two moments, in float32


class Sizes(NamedTuple):
    """Of the attention whose speed is measured: (batch, heads, length, width of a head)."""

    batch: int
    heads: int
    length: int
    width: int


def resolve_accelerator(setting: str, devices: int) -> str:
    """ "cpu", "cuda" or "mps" for trainer.accelerator = cpu | gpu | auto; refuses what is not there."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if setting == "cpu" or (setting == "auto" and not cuda and not mps):
        return "cpu"
    if not cuda and not mps:
        raise UsageError(f"trainer.accelerator ({setting}) needs a GPU and this machine has none; use trainer=cpu")
    if devices > max(cuda, 1):
        raise UsageError(f"trainer.devices ({devices}) is more than this machine has GPUs ({max(cuda, 1)})")
    return "cuda" if cuda else "mps"


def accelerator_of(setting: str, devices: int, experiment: ExperimentFolder) -> str:
    """The same, where `auto` is what earlier runs of the experiment have made of it, or is refused."""
    chosen = resolved_before("trainer.accelerator", setting, experiment)
    try:
        return resolve_accelerator(chosen, devices)
    except UsageError as error:
        if chosen == setting:
            raise
        raise not_here("trainer.accelerator", chosen, experiment, "this machine has no such device") from error


def strategy_name(setting: str, world_size: int) -> StrategyName:
    """How the processes share the work, for trainer.strategy = auto | ddp | fsdp; one alone has nothing to share."""
    if world_size == 1:
        return "single"
    return "fsdp" if setting == "fsdp" else "ddp"


def has_native_bfloat16(accelerator: str) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it does not, bfloat16 costs time instead of saving it."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") or able.get("sve_bf16"))


def resolve_precision(setting: Setting, accelerator: str) -> Precision:
    """What trainer.precision comes to; refuses what the device cannot do: Lightning would do something else there."""
    if setting == "fp16" and accelerator != "cuda":
        raise UsageError(
            f"trainer.precision (fp16) needs a CUDA GPU, and this run is on {accelerator}; choose bf16 or fp32"
        )
    if setting == "bf16-true" and accelerator == "mps":
        raise UsageError("trainer.precision (bf16-true) needs a CPU or a CUDA GPU, and this run is on mps; choose fp32")
    if setting != "auto":
        return setting
    return "bf16" if has_native_bfloat16(accelerator) else "fp32"


def usual_dtype(precision: Setting) -> Dtype:
    """What queries, keys and values are under a precision; of fp16, where nobody asks, float32."""
    kinds: dict[Setting, Dtype] = {"bf16": "bf16", "bf16-true": "bf16", "fp64": "fp64"}
    return kinds.get(precision, "fp32")


def resolve_attention_dtype(
    setting: Literal["auto", "fp32", "bf16", "fp64"],
    precision: Precision,
    accelerator: str,
    sizes: Sizes,
    experiment: ExperimentFolder,
) -> Dtype:
    """ "fp32" or "bf16" for trainer.attention_dtype = auto | fp32 | bf16: what queries, keys and values are on a CPU.

    Where a CPU trains in bfloat16, it depends on the processor which is faster. `auto` measures that for the first run
    of an experiment, at its sizes, and takes the same for all others, whatever they are and wherever they run.
    """
    free = accelerator == "cpu" and precision in ("bf16", "bf16-true")
    own = usual_dtype(precision)
    if setting != "auto" and not free and setting != own:
        raise UsageError(
            f"trainer.attention_dtype ({setting}) must be auto where trainer.precision comes to {precision} on "
            f"{accelerator}: the two differ only on a CPU that trains in bf16"
        )
    if setting != "auto" or not free:
        return own if setting == "auto" else setting
    kind: Dtype = resolve("trainer.attention_dtype", setting, lambda: measure_dtypes(sizes), experiment)
    return kind


def measure_dtypes(sizes: Sizes) -> dict[str, object]:
    """Which type is the faster one for attention, forward and backward, and by how much: both sides take turns."""
    batch = max(1, min(sizes.batch, MOST_NUMBERS // (sizes.heads * sizes.length**2)))
    shape = (batch, sizes.heads, sizes.length, sizes.width)
    q, k, v, slope = torch.randn(4, batch, sizes.length, sizes.heads, sizes.width).transpose(2, 3)  # as in a layer
    v, slope = v.bfloat16(), slope.bfloat16()  # positions leave q and k in float32
    leaves = [x.requires_grad_() for x in (q, k, v)]
    least = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for turn in range(ROUNDS + 1):
        for kind, seconds in least.items():
            started = time.perf_counter()
            if kind == torch.bfloat16:
                q, k = (x.to(kind, memory_format=torch.contiguous_format) for x in leaves[:2])
                o = attend_in_half(q, k, v, None, sizes.width**-0.5)
            else:
                o = F.scaled_dot_product_attention(leaves[0], leaves[1], v.to(kind), is_causal=True)
            o.to(v.dtype).backward(slope)
            took = time.perf_counter() - started
            if turn:  # the first turn allocates and chooses kernels
                least[kind] = min(seconds, took)
    ratio = least[torch.float32] / least[torch.bfloat16]
    return {
        "value": "bf16" if ratio > CLEARLY else "fp32",
        "times_faster_in_bf16": round(ratio, 3),
        "shape": shape,
        "device": device_name("cpu"),
        "threads": torch.get_num_threads(),
    }


def set_threads(setting: int | None, processes: int = 1) -> int:
    """Set the number of CPU threads; null: OMP_NUM_THREADS, or all cores we may use, shared by so many processes.

    Returns it as it would be for one process, which is the same whatever a run goes on with.
    """
    requested = environment_of_user().get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    asked = setting or (int(requested) if requested.isdecimal() else 0)
    torch.set_num_threads(asked or max(1, cores() // processes))
    return asked or cores()


def keep_freed_memory() -> None:
    """Have the C library keep what one step frees for the next, where it can: each page that is asked for again is a
    fault, and those of small models came to a tenth of a step. `malloc_trim` gives it back all the same."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, 1 << 29)  # bytes free at the end of the heap
        library.mallopt(MMAP_THRESHOLD, 1 << 25)  # what is larger is given back; glibc's own bound rises to this, too


def check_memory(parameters: int, accelerator: str) -> None:
    """Refuse a model whose weights, gradients and optimizer state alone are more than the device holds."""
    needed, there = parameters * BYTES_PER_PARAMETER, memory_bytes(accelerator)
    if there is not None and needed > there:
        raise UsageError(
            f"model.d_model and model.n_layers make {parameters:,} parameters, which need {needed / 2**30:,.0f} GiB to "
            f"train, and this device has {there / 2**30:,.0f} GiB; make the model smaller"
        )


def memory_bytes(accelerator: str) -> int | None:
    """The memory of the device in bytes; None where nobody tells."""
    if accelerator == "cuda":
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def device_name(accelerator: str) -> str:
    """The name people know the device by."""
    if accelerator == "cuda":
        return torch.cuda.get_device_name()
    if accelerator == "mps":
        return "Apple GPU"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
