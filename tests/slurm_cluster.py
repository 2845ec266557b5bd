"""A Slurm of its own in one folder: a controller and a few nodes on this machine, for tests and to try things out.

    python tests/slurm_cluster.py FOLDER [NODES]      starts one and says how it is used; ends with Enter

It needs the programs of Slurm and munge (Debian: slurmctld slurmd slurm-client munge), and neither systemd nor a
database nor anything of the machine's own configuration.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
KillWait=10
MinJobAge=600
InactiveLimit=0
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{last}] CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> list[str]:
    """Programs that are not here."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Cluster:
    """Two or more nodes `n1`, `n2`, ... of `cpus` each; `environment` is that in which Slurm's commands find it."""

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 2) -> None:
        self._folder, self._nodes, self._cpus = folder.resolve(), nodes, cpus
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
        self.environment = {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf"), "PATH": path}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        folder = self._folder
        for name in ("state", *(f"spool-n{number}" for number in range(1, self._nodes + 1))):
            (folder / name).mkdir(parents=True, exist_ok=True)
        ports = free_ports(self._nodes + 1)
        facts = {"host": platform.node().partition(".")[0], "user": getpass.getuser(), "folder": folder}
        facts |= {"nodes": self._nodes, "cpus": self._cpus, "ports": ports, "last": ports[-1]}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**facts))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        places = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
        places |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
        try:
            self._start("munged", "--foreground", "--force", *(f"--{name}={place}" for name, place in places.items()))
            wait_for(lambda: (folder / "munge.socket").exists(), "munged")
            self._start("slurmctld", "-D")
            for number in range(1, self._nodes + 1):
                self._start("slurmd", "-D", "-N", f"n{number}", as_="n" + str(number))
            wait_for(lambda: self.call("sinfo", "-hN", "-p", "main", "-t", "idle").count("\n") == self._nodes, "nodes")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        for place in Path("/proc").glob("[0-9]*"):  # jobs, which outlive their node's daemon
            with contextlib.suppress(OSError):
                if f"SLURM_CONF={self._folder}/".encode() in (place / "environ").read_bytes():
                    os.kill(int(place.name), signal.SIGKILL)

    def call(self, *words: str, checked: bool = True) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        assert not (checked and done.returncode), f"{words}: {done.stderr}"
        return done.stdout

    def states(self) -> dict[str, tuple[str, str]]:
        """Tasks of arrays and jobs that are there: name -> state and node."""
        lines = self.call("squeue", "-hr", "-t", "all", "-o", "%i|%T|%N").splitlines()
        return {name: (state, node) for name, state, node in (line.split("|") for line in lines)}

    def lose(self, node: str) -> None:
        """As if a node were cut off: its daemon is gone, the controller told so; what ran there runs on."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def begin_now(self) -> None:
        """What was queued again waits two minutes: it need not."""
        for name, (state, _) in self.states().items():
            if state == "PENDING":
                self.call("scontrol", "update", f"JobId={name}", "StartTime=now", checked=False)

    def _start(self, program: str, *words: str, as_: str = "") -> None:
        log = open(self._folder / f"{as_ or program}.out", "wb")  # noqa: SIM115  # the daemon's from now on
        self._daemons[as_ or program] = subprocess.Popen(
            [shutil.which(program, path=self.environment["PATH"]) or program, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()


def free_ports(count: int) -> list[int]:
    """A few ports, all but the first in a row, that nobody listens at."""
    for start in range(17_100, 30_000, count):
        try:
            for port in range(start, start + count):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port))
        except OSError:
            continue
        return list(range(start, start + count))
    raise AssertionError("no free ports")


def wait_for(holds, what: str, seconds: float = 60.0) -> None:
    """Wait until `holds()`; fails, naming `what`, where it does not in that time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"still waiting for {what} after {seconds:g} s"
        time.sleep(0.2)


if __name__ == "__main__":
    with Cluster(Path(sys.argv[1]), int((sys.argv[2:] or ["2"])[0])) as cluster:
        print(cluster.call("sinfo", "-N"))
        input(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}; Enter ends it ")
