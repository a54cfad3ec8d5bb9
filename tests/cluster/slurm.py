"""Slurm for tests: munged, slurmctld and slurmd with one node on the loopback, all their files in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.object_store import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
STARTED_SECONDS = 120.0
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SwitchType=switch/none
JobRequeue=1
KillWait=5
MinJobAge=2
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why Slurm cannot be run here; "" where it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons are started by root alone"
    absent = [name for name in PROGRAMS if _path(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge)" if absent else ""


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


@dataclass(frozen=True)
class Task:
    """One task of an array that is in the queue."""

    job: str  # ARRAY_INDEX
    index: int
    state: str


@dataclass
class Slurm:
    """A running cluster of one node."""

    root: Path

    def call(self, *words: str, check: bool = True) -> str:
        environment = {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}
        program = _path(words[0])
        assert program is not None
        done = subprocess.run(
            [program, *words[1:]], env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def submit(self, script: Path, array: str) -> None:
        self.call(
            "sbatch", "--requeue", f"--array={array}", "--mem=1", "--cpus-per-task=1", "--output=/dev/null", str(script)
        )

    def tasks(self) -> list[Task]:
        """Tasks in the queue; those that end are not among them."""
        rows = (line.split() for line in self.call("squeue", "-h", "-r", "-o", "%F_%K %K %T").splitlines())
        return [Task(job, int(index), state) for job, index, state in rows]


@contextmanager
def running(root: Path) -> Iterator[Slurm]:
    """Start the daemons; they, and whatever they started, end with the block."""
    for name in ("state", "spool"):
        (root / name).mkdir()
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    facts = {"host": socket.gethostname(), "root": root, "controller": free_port(), "node": free_port()}
    (root / "slurm.conf").write_text(CONFIGURATION.format(**facts))
    slurm = Slurm(root)
    with ExitStack() as stack:
        files = [
            f"--{name}={root}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file", "seed-file", "socket")
        ]
        _start(stack, root, "munged", "--foreground", "--force", f"--key-file={key}", *files)
        _until(lambda: (root / "munge.socket").exists(), root)
        _start(stack, root, "slurmctld", "-D", "-f", f"{root}/slurm.conf")
        _start(stack, root, "slurmd", "-D", "-f", f"{root}/slurm.conf")
        _until(lambda: "idle" in slurm.call("sinfo", "-h", "-o", "%T", check=False), root)
        try:
            yield slurm
        finally:
            slurm.call("scancel", "--signal=KILL", "--full", "--user=root", check=False)
            slurm.call("scancel", "--user=root", check=False)
            end = time.monotonic() + 30
            while slurm.call("squeue", "-h", check=False).strip() and time.monotonic() < end:
                time.sleep(0.2)


def _start(stack: ExitStack, root: Path, name: str, *options: str) -> None:
    program = _path(name)
    assert program is not None
    log = stack.enter_context((root / f"{name}.out").open("wb"))
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    process = subprocess.Popen([program, *options], stdout=log, stderr=log, env=environment)

    def end() -> None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _until(holds, root: Path) -> None:
    end = time.monotonic() + STARTED_SECONDS
    while not holds():
        if time.monotonic() > end:
            words = [path.read_text(errors="replace")[-500:] for path in (*root.glob("*.out"), *root.glob("*.log"))]
            raise RuntimeError("Slurm did not start: " + "\n".join(words))
        time.sleep(0.1)
