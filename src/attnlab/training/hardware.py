"""What the machine can do: devices, threads, and whether bfloat16 pays."""

import os
import platform

import torch

from attnlab.errors import UsageError
from attnlab.machine import cores

BYTES_PER_PARAMETER = 16  # the weight, its gradient and two moments, in float32


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


def has_native_bfloat16(accelerator: str) -> bool:
    """Whether the hardware multiplies bfloat16 itself; where it does not, bfloat16 costs time instead of saving it."""
    if accelerator == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "mps":
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16") or able.get("sve_bf16"))


def resolve_precision(setting: str, accelerator: str) -> str:
    """ "fp32" or "bf16" for trainer.precision = auto | fp32 | bf16."""
    if setting != "auto":
        return setting
    return "bf16" if has_native_bfloat16(accelerator) else "fp32"


def set_threads(setting: int | None) -> int:
    """Set the number of CPU threads and return it; null: OMP_NUM_THREADS, or all cores we may use."""
    wished = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = setting or (int(wished) if wished.isdecimal() else 0) or cores()
    torch.set_num_threads(threads)
    return threads


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
