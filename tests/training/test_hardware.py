"""What is asked for, what the machine has, and what comes of it."""

import builtins
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.training.launch import folder_of, run_here

from attnlab.attention import masked
from attnlab.attention.multi_head import MultiHeadAttention
from attnlab.build import build_model
from attnlab.config.compose import compose_config
from attnlab.errors import UsageError
from attnlab.runs import load
from attnlab.store.experiment_folder import ExperimentFolder
from attnlab.store.run_folder import RunFolder
from attnlab.training import hardware
from attnlab.training.checkpoint import load_checkpoint
from attnlab.training.hardware import (
    Setting,
    Sizes,
    check_memory,
    device_name,
    has_native_bfloat16,
    measure_dtypes,
    memory_bytes,
    resolve_accelerator,
    resolve_attention_dtype,
    resolve_precision,
    set_threads,
)


def machine(patch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Pretend to have so many CUDA devices, or Apple's."""
    patch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    patch.setattr(torch.cuda, "device_count", lambda: cuda)
    patch.setattr(torch.backends.mps, "is_available", lambda: mps)


# Devices


@pytest.mark.parametrize(
    ("setting", "cuda", "mps", "expected"),
    [
        ("cpu", 0, False, "cpu"),
        ("cpu", 2, True, "cpu"),
        ("auto", 0, False, "cpu"),
        ("auto", 1, False, "cuda"),
        ("auto", 0, True, "mps"),
        ("gpu", 1, False, "cuda"),
        ("gpu", 0, True, "mps"),
        ("gpu", 1, True, "cuda"),
    ],
)
def test_device(setting: str, cuda: int, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device follows from the setting and the machine."""
    machine(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_accelerator(setting, 1) == expected


def test_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is not there is refused in a line."""
    machine(monkeypatch)
    with pytest.raises(
        UsageError, match=r"^trainer\.accelerator \(gpu\) needs a GPU and this machine has none; use trainer=cpu$"
    ):
        resolve_accelerator("gpu", 1)


@pytest.mark.parametrize(("cuda", "mps", "devices", "there"), [(2, False, 3, 2), (0, True, 2, 1)])
@pytest.mark.parametrize("setting", ["gpu", "auto"])
def test_more_gpus_than_there_are_are_refused(
    setting: str, cuda: int, mps: bool, devices: int, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, cuda=cuda, mps=mps)
    message = rf"^trainer\.devices \({devices}\) is more than this machine has GPUs \({there}\)$"
    with pytest.raises(UsageError, match=message):
        resolve_accelerator(setting, devices)
    resolve_accelerator(setting, there)


def test_several_processes_may_share_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert resolve_accelerator("cpu", 4) == resolve_accelerator("auto", 4) == "cpu"


# Precision


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({}, "fp32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
        ({"architecture": "aarch64", "sve_bf16": True}, "bf16"),
    ],
)
def test_auto_precision_on_cpu(able: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto takes bf16 where the CPU multiplies it itself."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_on_gpu(native: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto takes bf16 where the GPU has it and not where it is emulated."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert resolve_precision("auto", "cuda") == expected
    assert resolve_precision("auto", "mps") == "fp32"


@pytest.mark.parametrize("accelerator", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("setting", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken(
    setting: str, accelerator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        assert resolve_precision(setting, accelerator) == setting


def test_this_machine_has_an_answer() -> None:
    assert has_native_bfloat16("cpu") in (True, False)


# Threads


@pytest.fixture
def threads() -> Any:
    """Whatever a test sets, the others go on as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are as asked or as many as this process may use."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert set_threads(3) == 3 == torch.get_num_threads()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5}, raising=False)
    assert set_threads(None) == 2 == torch.get_num_threads()
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert set_threads(None) == 4 == torch.get_num_threads()


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("wished", "threads_then"), [("3", 3), ("3,2", 3), ("0", 2), ("", 2), ("many", 2)])
def test_omp_num_threads(monkeypatch: pytest.MonkeyPatch, wished: str, threads_then: int) -> None:
    """OMP_NUM_THREADS is what null means where it is set."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", wished)
    assert set_threads(None) == threads_then == torch.get_num_threads()
    assert set_threads(1) == 1 == torch.get_num_threads()


# The type of attention


SMALL = Sizes(2, 2, 16, 8)


@pytest.mark.parametrize(
    ("setting", "precision", "accelerator", "expected"),
    [
        ("auto", "fp32", "cpu", "fp32"),
        ("fp32", "fp32", "cpu", "fp32"),
        ("bf16", "fp32", "cpu", None),
        ("fp32", "bf16", "cpu", "fp32"),
        ("bf16", "bf16", "cpu", "bf16"),
        ("auto", "bf16", "cuda", "bf16"),
        ("fp32", "bf16", "cuda", None),
    ],
)
def test_attention_dtype_as_set(
    setting: str, precision: str, accelerator: str, expected: str | None, tmp_path: Path
) -> None:
    """Where there is nothing to choose, or somebody chose, nothing is measured; what cannot be is refused."""
    if expected is None:
        with pytest.raises(UsageError, match=rf"^trainer\.attention_dtype \({setting}\) must be auto where"):
            resolve_attention_dtype(setting, precision, accelerator, SMALL, ExperimentFolder(tmp_path))
    else:
        assert resolve_attention_dtype(setting, precision, accelerator, SMALL, ExperimentFolder(tmp_path)) == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_attention_dtype_measured_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run of an experiment decides for all others, whatever the machine would say later."""
    monkeypatch.setattr(hardware, "measure_dtypes", lambda sizes: {"value": kind, "shape": sizes})
    experiment = ExperimentFolder(tmp_path / "e")
    assert resolve_attention_dtype("auto", "bf16", "cpu", SMALL, experiment) == kind
    monkeypatch.setattr(hardware, "measure_dtypes", lambda sizes: {"value": "another"})
    assert resolve_attention_dtype("auto", "bf16", "cpu", Sizes(1, 1, 1, 1), experiment) == kind
    for damage in ("", "[]", '{"trainer.attention_dtype": {"value": "fp8"}}', "[" * 100_000):
        experiment.resolved.write_text(damage)
        with pytest.raises(UsageError, match=experiment.resolved.name):
            resolve_attention_dtype("auto", "bf16", "cpu", SMALL, experiment)


@pytest.mark.parametrize(("seconds", "kind"), [(1.0, "fp32"), (1.1, "fp32"), (1.2, "bf16")])
def test_attention_dtype_needs_a_clear_gain(seconds: float, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock on which float32 takes `seconds` and bfloat16 one."""
    ticks = (t for turn in range(1000) for t in (10 * turn, 10 * turn + seconds, 10 * turn + 5, 10 * turn + 6))
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(ticks))
    assert measure_dtypes(SMALL)["value"] == kind


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_attention_dtype_reaches_the_kernel(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training; what is judged without gradients stays in the type it is in."""
    words = ["model.d_model=16", "model.n_layers=2", "model.n_heads=2", f"trainer.attention_dtype={kind}"]
    words.append("model.dropout=0")
    model, types = build_model(compose_config(words), 7), []
    for owner, name in ((F, "scaled_dot_product_attention"), (masked, "attend_in_half")):

        def watched(q: torch.Tensor, *args: Any, usual: Any = getattr(owner, name), **settings: Any) -> torch.Tensor:
            types.append(q.dtype)
            return usual(q, *args, **settings)

        monkeypatch.setattr(owner, name, watched)
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(1, 4, dtype=torch.long))
        with torch.no_grad():
            model(torch.zeros(1, 4, dtype=torch.long))
    trained = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    assert types == [trained, trained, torch.bfloat16, torch.bfloat16]
    assert MultiHeadAttention(4, n_heads=1).kernel_dtype == torch.float32


def test_attention_dtype_in_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored as what it came to, and a run that is set to it by name is the same run."""
    monkeypatch.setattr(hardware, "measure_dtypes", lambda sizes: {"value": "bf16"})
    words = ("trainer.precision=bf16", "trainer.max_steps=1")
    first = run_here(tmp_path, *words)
    config = folder_of(tmp_path) / "config.yaml"
    assert "  attention_dtype: bf16\n" in config.read_text()
    records = ExperimentFolder(tmp_path / "runs" / "default").read_resolved()
    assert records["trainer.attention_dtype"] == {"value": "bf16"}
    again = run_here(tmp_path, *words, "trainer.attention_dtype=bf16")
    assert {key: again[key] for key in first} == first
    assert len(list((tmp_path / "runs" / "default").glob("*/seed_0"))) == 1
    run_here(tmp_path, *words, "trainer.attention_dtype=fp32")
    assert len(list((tmp_path / "runs" / "default").glob("*/seed_0"))) == 2


# Memory

FAULTS = """
import resource, sys, torch
from attnlab.training.hardware import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    keep_freed_memory()
for step in range(40):
    parts = [torch.ones(2**18) for _ in range(20)]  # a MiB each
    del parts
    if step == 19:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no such setting")
def test_what_a_step_frees_is_there_for_the_next() -> None:
    """A page that had to be asked for again is a fault: 5,120 of them are 20 MiB. Without the setting it depends on
    what happens to lie at the end of the heap, so that here the library is told to keep nothing."""
    careless = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", FAULTS, kind], env=careless))
        for kind in ("kept", "usual")
    }
    assert faults["kept"] < 50 < faults["usual"]


# Names


def test_a_device_has_the_name_people_know_it_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    assert (device_name("cuda"), device_name("mps")) == ("NVIDIA H100", "Apple GPU")
    name = device_name("cpu")
    assert name == name.strip() != "" and "\n" not in name


def test_name_of_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without a list of models is named by its kind."""
    usual = builtins.open

    def without(path: Any, *args: Any, **settings: Any) -> Any:
        if path == "/proc/cpuinfo":
            raise FileNotFoundError(path)
        return usual(path, *args, **settings)

    monkeypatch.setattr(builtins, "open", without)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert device_name("cpu") == "riscv64"


def test_model_too_large() -> None:
    """A model that no memory could hold is refused before it is built."""
    memory = memory_bytes("cpu")
    assert memory is not None
    check_memory(memory // 16, "cpu")
    with pytest.raises(
        UsageError, match=r"make [\d,]+ parameters, which need [\d,]+ GiB to train, and this device has"
    ):
        check_memory(memory // 16 + 1, "cpu")


@pytest.mark.parametrize(("precision", "accelerator"), [("fp16", "cpu"), ("fp16", "mps"), ("bf16-true", "mps")])
def test_precisions_refused(precision: Setting, accelerator: str) -> None:
    """What a device cannot do is refused, where Lightning would train in another type."""
    with pytest.raises(UsageError, match=rf"^trainer\.precision \({precision}\) needs a"):
        resolve_precision(precision, accelerator)


def test_weights_in_bfloat16(tmp_path: Path) -> None:
    """bf16-true keeps weights and what the optimizer has of them in bfloat16; the run is looked at in float32."""
    run_here(tmp_path, "trainer.precision=bf16-true", "trainer.max_steps=2", "trainer.checkpoint_activations=true")
    folder = RunFolder(folder_of(tmp_path))
    checkpoint, _ = folder.checkpoints.newest()
    assert checkpoint is not None
    content = load_checkpoint(checkpoint)
    moments = [t for state in content["optimizer_states"][0]["state"].values() for t in state.values() if t.ndim]
    assert {t.dtype for t in [*content["state_dict"].values(), *moments]} == {torch.bfloat16}
    model, _ = load(folder.path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
