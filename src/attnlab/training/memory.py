"""How much memory a run took at most, also where several runs share one process."""

import resource
import sys

import torch


def forget_peak(accelerator: str) -> None:
    """Look for the peak anew; on the CPU this needs Linux, elsewhere the peak stays that of the whole process."""
    if accelerator == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
                file.write("5")  # the kernel's word for: the peak of the resident set is what it is now
        except OSError:
            pass  # not Linux, or a container that hides it


def peak_bytes(accelerator: str) -> int:
    """The most memory held at once: what tensors took on a GPU, the whole process on a CPU."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
