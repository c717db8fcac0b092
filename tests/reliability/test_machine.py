"""Environments, streams, locales and signals of a command, from its first line to its last."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.reliability.test_disk import TINY
from tests.training.launch import ROOT, tiny

from attnlab.errors import UsageError
from attnlab.machine.environment import Processes, alone, check_arguments, processes

LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def train(folder: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    """`python train.py` in a process of its own."""
    line = [sys.executable, str(ROOT / "train.py"), *tiny(folder, *TINY, *words)]
    given = {word.partition("=")[0]: word for word in line[2:]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*line[:2], *given.values()], capture_output=True, env=environment, check=False, timeout=600)


# Launchers


VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1"},
        {"LOCAL_RANK": "1"},
        {"RANK": "none", "WORLD_SIZE": "2", "NODE_RANK": "1"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"},
    ],
)
def test_one_device_is_alone(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one device there is one process, and Lightning is not told otherwise; the variables come back."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes(1) == Processes()
    with alone():
        assert not {"RANK", "LOCAL_RANK", "SLURM_PROCID"} & set(os.environ)
    assert {name: os.environ[name] for name in variables} == variables


@pytest.mark.parametrize(("devices", "nodes", "rank"), [(2, 1, 1), (2, 2, 3), (1, 2, 1)])
def test_several_devices_are_counted(devices: int, nodes: int, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes that a launcher has started know their number; without one, the first starts the others."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert processes(2) == Processes(0, 0, 2, 1, launched=False)
    for name, value in zip(VARIABLES, (rank, rank % devices, devices * nodes), strict=True):
        monkeypatch.setenv(name, str(value))
    for address, port in (("", "29500"), ("127.0.0.1", ""), ("127.0.0.1", "abc"), ("127.0.0.1", "70000")):
        monkeypatch.setenv("MASTER_ADDR", address)
        monkeypatch.setenv("MASTER_PORT", port)
        with pytest.raises(UsageError, match=r"^MASTER_ADDR \(.*\) and MASTER_PORT \(.*\) must say where"):
            processes(devices, nodes)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert processes(devices, nodes) == Processes(rank, rank % devices, devices, nodes, launched=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"LOCAL_RANK": "1"},
        {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4"},
        {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "x"},
    ],
)
def test_stray_ranks_refused(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to no launch of so many processes is refused by name."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"^trainer\.devices \(2\).*{next(iter(variables))}=.*unset"):
        processes(2)


def test_nodes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody but a launcher can start processes on other machines."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"^trainer\.nodes \(2\) needs a launcher.*torchrun --nnodes=2"):
        processes(1, 2)


def test_launchers_variables_run(tmp_path: Path) -> None:
    """A command with numbers of two launchers, an ASCII locale and a sample that it cannot print trains to its end."""
    stray = {"RANK": "1", "LOCAL_RANK": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "x"}
    done = train(tmp_path, "sample.prompt='é'", **stray, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert rb"\xe9" in done.stdout


# Streams


def test_words_that_are_no_text() -> None:
    """Chinese on the command line of an ASCII locale is refused with the remedy."""
    with pytest.raises(UsageError, match=r"^cannot read 'experiment_name=.*PYTHONUTF8=1"):
        check_arguments(["experiment_name=\udce5\udcae"])


@pytest.mark.parametrize(
    ("redirected", "code", "lines"), [(">/dev/full", 1, 1), (">&-", 0, 0), ("2>&- >/dev/full", 1, 0)]
)
def test_output_that_cannot_be_written(redirected: str, code: int, lines: int) -> None:
    """A full device ends in one line, a closed stream in none."""
    command = f"{sys.executable} -c 'from attnlab.cli import main; main()' --help {redirected}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == code and done.stderr.count("\n") == lines, done.stderr
    assert lines == 0 or "standard output: No space left on device" in done.stderr


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_before_the_run(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """From the first line on a signal is one line and its exit code, and nothing is written."""
    start = f"""
import os, runpy, signal, sys
for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(each, signal.SIG_DFL)
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "hydra":
            os.kill(os.getpid(), {number.value})
sys.meta_path.insert(0, Importing())
sys.argv = ["train.py"]
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == code
    assert done.stderr.startswith("error: stopped by ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


STARTS = {
    signal.SIGHUP: "runpy.run_module('attnlab.cli.train', run_name='__main__')",
    signal.SIGINT: "from attnlab.cli import main; main()",
    signal.SIGTERM: f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')",
}


@pytest.mark.parametrize(("number", "start"), STARTS.items())
def test_signal_at_the_start(number: signal.Signals, start: str) -> None:
    """Each of the three commands heeds signals before it imports what takes longer: PyYAML is the first of that."""
    code = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name in ("yaml", "inspect"):
            os.kill(os.getpid(), {number.value})
sys.meta_path.insert(0, Importing())
sys.argv = ["attnlab"]
{start}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 128 + number
    assert done.stderr.startswith("error: stopped by ") and done.stderr.count("\n") == 1


def test_signal_waits_for_a_file(tmp_path: Path) -> None:
    """A signal in the middle of a write ends the process when the file is whole, and no temporary one is left."""
    start = """
import os, signal, sys
from pathlib import Path
from attnlab.store import files
from attnlab.machine.signals import end_at_signals
end_at_signals()
flush = os.fsync
def fsync(handle):
    os.kill(os.getpid(), signal.SIGTERM)
    flush(handle)
os.fsync = fsync
files.write_atomically(Path(sys.argv[1]), b"whole", key="paths.runs")
print("not reached")
"""
    path = tmp_path / "file"
    done = subprocess.run(
        [sys.executable, "-c", start, str(path)], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (143, "")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"whole"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_signal_while_the_summary_is_written(number: signal.Signals, tmp_path: Path) -> None:
    """The run is finished, says that it was stopped, and is not done again."""
    given = {word.partition("=")[0]: word for word in tiny(tmp_path, *TINY)}
    start = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from attnlab.training import run as training
usual = training.summarise
def summarise(*args):
    os.kill(os.getpid(), {number.value})
    return usual(*args)
training.summarise = summarise
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
    line = [sys.executable, "-c", start, *given.values()]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.startswith("error: stopped, with the run finished") and done.stderr.count("\n") == 1
    again = train(tmp_path)
    assert again.returncode == 0 and b"is finished" in again.stdout
