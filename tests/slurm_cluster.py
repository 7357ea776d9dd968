"""A real Slurm of one machine, as tests start it: munged, slurmctld and two slurmd on free ports of 127.0.0.1, as root.

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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
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
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=one NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs={cpus} RealMemory=4000
NodeName=two NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs={cpus} RealMemory=4000 State=DOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP
PartitionName=patient Nodes=ALL MaxTime=60 State=UP GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=2 PreemptMode=OFF
"""
"""Jobs of `urgent` put those of `main` back into the queue at once, and those of `patient` a minute after SIGTERM."""
NODES = ("one", "two")
OF_NODE = "SLURM_TESTS_NODE"
"""The variable that holds the name of a node, for its daemon and what that starts."""


def absent() -> str:
    """Why no Slurm can be started here; empty where one can."""
    if missing := [tool for tool in NEEDED if _tool(tool) is None]:
        return f"Slurm is not installed here (no {', '.join(missing)}): apt-get install slurm-wlm munge"
    return "" if os.getuid() == 0 else "Slurm's daemons are started as root"


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class SlurmCluster:
    """A controller and the node `one`, both of this machine; `two` is down until somebody starts it."""

    def __init__(self, folder: Path, cpus: int) -> None:
        self.folder, self.cpus = folder, cpus
        self.configuration = folder / "slurm.conf"
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        munge = self.folder / "munge"
        for path in (munge, self.folder / "state", self.folder / "spool"):
            path.mkdir(mode=0o755)
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().partition(".")[0]
        values = {"host": host, "ports": _free_ports(3), "folder": self.folder, "cpus": self.cpus}
        self.configuration.write_text(CONFIGURATION.format(**values))
        (self.folder / "cgroup.conf").write_text(f"CgroupPlugin={_no_control_groups()}\n")
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        options = [f"--{option}={munge / name}" for option, name in files.items()]
        self._start("munged", "--foreground", "--force", *options)
        self.wait(lambda: (munge / "socket").exists(), "munged")
        self._start("slurmctld", "-D", "-c", "-f", str(self.configuration))
        self.start_node()

    def start_node(self, name: str = NODES[0], *, hiding: Path | None = None) -> None:
        """Start a node; `hiding` is a folder that its jobs do not see."""
        node = [str(_tool("slurmd")), "-D", "-N", name, "-f", str(self.configuration)]
        if hiding is not None:
            node = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{hiding}' && exec {' '.join(node)}"]
        self._start(name, command=node)
        up = ("idle", "mixed", "allocated")
        self.wait(lambda: self.node_state(name).startswith(up), f"node {name}", lambda: self._resume(name))

    def kill_node(self, name: str = NODES[0]) -> None:
        """As a machine that has lost its power: the node's daemon and all that it runs are gone."""
        if (process := self._running.pop(name, None)) is not None:
            process.kill()
            process.wait()
        self._kill_steps(name)

    def _kill_steps(self, *nodes: str) -> None:
        """Kill the processes by which nodes look after jobs, and what these run."""
        import psutil

        for process in psutil.process_iter(["pid", "name"]):
            if "slurmstepd" not in (process.info["name"] or ""):
                continue
            with suppress(FileNotFoundError, ProcessLookupError):
                # Not by psutil, for whom it ends where the process has written its title over it.
                around = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                of_ours = f"SLURM_CONF={self.configuration}".encode() in around
                if of_ours and any(f"{OF_NODE}={node}".encode() in around for node in nodes):
                    for each in (process.pid, *_descendants(process.pid)):
                        _kill(each)

    def node_state(self, name: str) -> str:
        words = ["sinfo", "-h", "-n", name, "-p", "main", "-o", "%t"]
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment)
        return done.stdout.strip()

    def scontrol(self, *words: str) -> str:
        done = subprocess.run(["scontrol", *words], capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _resume(self, name: str) -> None:
        words = ["scontrol", "update", f"nodename={name}", "state=resume"]
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
        for name in (*NODES, "slurmctld", "munged"):
            if (process := self._running.pop(name, None)) is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._kill_steps(*NODES)

    def _start(self, name: str, *options: str, command: list[str] | None = None) -> None:
        with (self.folder / f"{name}.out.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                command or [str(_tool(name)), *options],
                env={**self.environment, OF_NODE: name},
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


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


@contextmanager
def slurm_cluster(folder: Path, cpus: int = 4) -> Iterator[SlurmCluster]:
    """A cluster while the block runs; a node may have more cores than the machine, so that jobs run at once."""
    cluster = SlurmCluster(folder, cpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
