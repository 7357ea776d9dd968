"""How many cores are counted: bindings in real processes, and control groups as the kernel shows them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpt import cores

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
COUNT = "from hpt import cores; print(cores.usable())"

pytestmark = pytest.mark.skipif(not BOUND, reason="this system binds no process to cores")


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores, all of which this process may be scheduled on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


def machine(root: Path, groups: str, **files: str) -> Path:
    """`/proc/self/cgroup` and files of `/sys/fs/cgroup`, under another root."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_a_process_that_is_bound_to_one_core_counts_one() -> None:
    one = min(os.sched_getaffinity(0))
    bound = f"import os; os.sched_setaffinity(0, {{{one}}}); {COUNT}"
    assert subprocess.run([sys.executable, "-c", bound], capture_output=True, text=True).stdout == "1\n"


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("limit", "counted"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("9900000 100000", 64)],
)
def test_a_limit_of_version_2_counts(limit: str, counted: int, tmp_path: Path) -> None:
    assert cores.usable(machine(tmp_path, "0::/\n", **{"cpu.max": f"{limit}\n"})) == counted


@pytest.mark.usefixtures("many")
def test_the_narrowest_group_on_the_way_up_counts(tmp_path: Path) -> None:
    files = {"slice/cpu.max": "400000 100000\n", "slice/job/step/cpu.max": "max 100000\n"}
    root = machine(tmp_path, "0::/slice/job/step\n", **files)
    assert cores.usable(root) == 4
    (root / "sys/fs/cgroup/slice/job/cpu.max").write_text("300000 100000\n")
    assert cores.usable(root) == 3


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_limit_of_version_1_counts(controllers: str, tmp_path: Path) -> None:
    files = {"cpu.cfs_quota_us": "500000\n", "cpu.cfs_period_us": "100000\n"}
    files |= {"job/cpu.cfs_quota_us": "-1\n", "job/cpu.cfs_period_us": "100000\n"}
    folder = controllers if controllers != "cpuacct,cpu" else "cpu"
    groups = f"9:memory:/job\n4:{controllers}:/job\n3:cpuset:/job\n0::/\n"
    assert cores.usable(machine(tmp_path, groups, **{f"{folder}/{k}": v for k, v in files.items()})) == 5


@pytest.mark.usefixtures("many")
def test_in_a_container_the_mounted_group_counts_though_proc_names_the_hosts(tmp_path: Path) -> None:
    files = {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cores.usable(machine(tmp_path, "2:cpu:/docker/0123abcd\n", **files)) == 2
    above = machine(tmp_path / "v2", "0::/../other\n", **{"cpu.max": "700000 100000\n"})
    assert cores.usable(above) == 7


def test_without_control_groups_the_binding_counts(tmp_path: Path) -> None:
    assert cores.usable(tmp_path) == BOUND
    assert 1 <= cores.usable() <= BOUND
