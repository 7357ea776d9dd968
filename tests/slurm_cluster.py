"""A real Slurm of one machine, as tests start it: munged, slurmctld and slurmd on free ports of 127.0.0.1, as root.

No control group is needed, no accounting database, and nothing of an installed cluster's own configuration is read.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,sched_min_interval=100000
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
KillWait=10
EnforcePartLimits=ALL
SlurmdTimeout=10
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 NodeHostname={host} CPUs={cpus} RealMemory=4000
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


def absent() -> str:
    """Why no Slurm can be started here; empty where one can."""
    if missing := [tool for tool in NEEDED if _tool(tool) is None]:
        return f"Slurm is not installed here (no {', '.join(missing)}): apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "Slurm's daemons are started as root"


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SlurmCluster:
    """One controller and one node, both of this machine."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder, self.cpus = folder, cpus
        self.host = socket.gethostname().partition(".")[0]
        self.configuration = folder / "slurm.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        munge = self.folder / "munge"
        for path in (munge, self.folder / "state", self.folder / "spool"):
            path.mkdir(mode=0o755)
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        ports = [_free_port() for _ in range(2)]
        values = {"host": self.host, "ports": ports, "folder": self.folder, "cpus": self.cpus}
        self.configuration.write_text(CONFIGURATION.format(**values))
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={_no_control_groups()}\n")
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", *options)
        self.wait(lambda: (munge / "socket").exists(), "munged")
        self._start("slurmctld", "-D", "-c", "-f", str(self.configuration))
        self.start_node()

    def start_node(self, hiding: Path | None = None) -> None:
        """Start the node; `hiding` is a folder that its jobs do not see."""
        node = [str(_tool("slurmd")), "-D", "-f", str(self.configuration)]
        if hiding is not None:
            node = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{hiding}' && exec {' '.join(node)}"]
        self._start("slurmd", command=node)
        self.wait(lambda: self.node_state().startswith(("idle", "mixed", "allocated")), "slurmd", self._up)

    def kill_node(self) -> None:
        """As a machine that has lost its power: the node's daemon and all that it runs are gone."""
        process = self._running.pop("slurmd")
        process.kill()
        process.wait()
        for step in self.steps():
            for each in (step, *_descendants(step)):
                _kill(each)

    def steps(self) -> list[int]:
        """The processes by which the node looks after jobs."""
        import psutil

        spool = str(self.folder)
        found = []
        for process in psutil.process_iter(["pid", "name", "environ"]):
            if "slurmstepd" in (process.info["name"] or "") and spool in str(process.info["environ"]):
                found.append(process.info["pid"])
        return found

    def node_state(self) -> str:
        done = subprocess.run(["sinfo", "-h", "-o", "%t"], capture_output=True, text=True, env=self.environment)
        return done.stdout.strip()

    def scontrol(self, *words: str) -> str:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _up(self) -> None:
        words = ["scontrol", "update", f"nodename={self.host}", "state=resume"]
        subprocess.run(words, capture_output=True, env=self.environment, timeout=60)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.configuration)}

    def wait(
        self, done: Callable[[], bool], what: str, do: Callable[[], object] = lambda: None, seconds: float = 60
    ) -> None:
        end = time.monotonic() + seconds
        while not done():
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended\n{self.logs()}"
            assert time.monotonic() < end, f"{what} did not come up\n{self.logs()}"
            do()
            time.sleep(0.2)

    def logs(self) -> str:
        return "\n".join(
            f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        for name in ("slurmd", "slurmctld", "munged"):
            if (process := self._running.pop(name, None)) is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        for step in self.steps():
            for each in (step, *_descendants(step)):
                _kill(each)

    def _start(self, name: str, *options: str, command: list[str] | None = None) -> None:
        with (self.folder / f"{name}.out.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command or [str(_tool(name)), *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _no_control_groups() -> str:
    """The plugin that needs none: before 23.02 the one that waits to be asked for any."""
    said = subprocess.run([str(_tool("slurmd")), "-V"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in said.split()[-1].split(".")[:2])
    return "disabled" if (major, minor) >= (23, 2) else "cgroup/v1"


def _descendants(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def slurm_cluster(folder: Path, cpus: int = 4) -> Iterator[SlurmCluster]:
    """A cluster that runs while the block does; it may have more cores than the machine, so that jobs run at once."""
    cluster = SlurmCluster(folder, cpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
