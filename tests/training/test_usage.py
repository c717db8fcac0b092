"""The peak of memory is that of a run, not that of whatever the process did before."""

import sys

import numpy as np
import pytest

from attnlab.training.usage import Meter, peak_bytes, reset_peak_memory

SIZE = 200 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_peak() -> None:
    """A peak counts what was held and is forgotten."""
    reset_peak_memory("cpu")
    before = peak_bytes("cpu")
    block = np.ones(SIZE, dtype=np.uint8)
    during = peak_bytes("cpu")
    assert during - before >= 0.9 * block.nbytes
    del block
    reset_peak_memory("cpu")
    assert peak_bytes("cpu") <= during - 0.9 * SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_memory_of_a_run_is_its_own() -> None:
    """What earlier runs left behind in a process is not counted, however much it is."""
    left, measured = [], []
    for _ in range(3):
        meter = Meter("cpu")
        block = np.ones(SIZE // 4, dtype=np.uint8)
        measured.append(meter.memory_bytes())
        left.append(block)  # as a leak would
    assert all(bytes_ is not None and abs(bytes_ - SIZE // 4) < SIZE // 20 for bytes_ in measured)
    assert {"load", "others_cpu"} == set(meter.beside())
