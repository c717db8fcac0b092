"""A Slurm of one node on loopback, as long as a test runs: two cores, and a partition that yields to another."""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.limits import HANG
from tests.sweep.crashing_runs import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONF = """
ClusterName=attnlab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket
CredType=cred/munge
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=yields Nodes={host} Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=first Nodes={host} State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """The programs of Slurm that are not installed."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=places) is None]


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Start it, give the environment in which its commands find it, and end it by its processes."""
    home = Path(tempfile.mkdtemp(prefix="slurm-"))  # the path of a socket must be short
    for name in ("state", "spool"):
        (home / name).mkdir()
    host, ports = socket.gethostname().split(".")[0], free_ports(2)
    conf = CONF.format(host=host, user=getpass.getuser(), home=home, ctld_port=ports[0], d_port=ports[1])
    (home / "slurm.conf").write_text(conf)
    (home / "munge.key").write_bytes(os.urandom(1024))
    (home / "munge.key").chmod(0o400)
    environment = {"SLURM_CONF": str(home / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    munge = [f"--{what}-file={home}/munge.{what}" for what in ("key", "pid", "log", "seed")]
    with ExitStack() as open_ones:
        open_ones.callback(shutil.rmtree, home, ignore_errors=True)
        for command in (
            ["munged", "--force", "--foreground", f"--socket={home}/munge.socket", *munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            with (home / f"{command[0]}.out").open("wb") as said:
                daemon = subprocess.Popen(
                    command, env={**os.environ, **environment}, stdout=said, stderr=said, start_new_session=True
                )
            open_ones.callback(end, daemon)
            if command[0] == "munged":
                wait_for((home / "munge.socket").exists)
        wait_for(lambda: "idle" in asked(environment, "sinfo", "-h", "-o", "%T"))
        yield environment


def end(daemon: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, and make it."""
    daemon.terminate()
    try:
        daemon.wait(HANG)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def free_ports(n: int) -> list[int]:
    """Ports of loopback that nobody listens at."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def asked(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm says; nothing while nobody answers."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=HANG
    )
    return done.stdout if done.returncode == 0 else ""
