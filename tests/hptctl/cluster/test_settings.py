"""What is asked of a cluster, read and checked before anything is sent."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from small_study import STUDY

from hpt.errors import ConfigError
from hptctl import runs
from hptctl.cluster.settings import Cluster, read
from hptctl.study import definition as grid


def test_what_the_command_line_says_goes_over_the_files_and_those_over_the_study(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('partition = "cpu"\nmem = "4G"\n[sbatch]\nconstraint = "a100"\n')
    (tmp_path / "b.toml").write_text('[cluster]\nmem = "8G"\nsetup = ["module load cuda", "true"]\n')
    table = Cluster(partition="gpu", gpus=2)
    files = (str(tmp_path / "a.toml"), str(tmp_path / "b.toml"))
    found = read([*files, "time=4h", "sbatch.nice=100", "sbatch.exclusive=true"], table)
    assert (found.partition, found.gpus, found.mem, found.minutes) == ("cpu", 2, "8G", 240)
    assert found.sbatch == {"constraint": "a100", "nice": "100", "exclusive": "true"}
    assert found.setup == ("module load cuda", "true")
    assert read(["setup=module load cuda=12"]).setup == ("module load cuda=12",)
    assert read(['setup=["a", "b"]']).setup == ("a", "b")


@pytest.mark.parametrize(
    ("text", "minutes"), [("90m", 90), ("4h", 240), ("1.5h", 90), ("2d", 2880), ("1-12:00:00", 2160), ("0:30:30", 31)]
)
def test_a_limit_is_in_whole_minutes(text: str, minutes: int) -> None:
    assert Cluster(time=text).minutes == minutes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("partion=gpu", r"^unknown field 'partion' \(did you mean 'partition'\?\)$"),
        ("time=90", r"^time: '90' is not a length of time: write 90m, 4h, 2d or 1-12:00:00$"),
        ("gpus=two", "^gpus = 'two': "),
        ("sbatch.partition=gpu", "^sbatch: 'partition' has a field of its own: partition$"),
        ("sbatch.output=x", "^sbatch: output cannot be set: "),
        ('setup=["a"', "the value is not valid JSON$"),
        ("nowhere.toml", "^--cluster nowhere.toml does not exist; give a TOML file"),
    ],
)
def test_a_setting_that_is_none_is_a_line(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read([given])


def test_a_studys_table_is_checked_with_it_and_no_part_of_what_it_is(workplace: Path) -> None:
    text = STUDY.format(dataset="digits")
    Path("plain.toml").write_text(text)
    Path("mine.toml").write_text(f'{text}\n[cluster]\npartition = "gpu"\n[cluster.sbatch]\nconstraint = "a100"\n')
    found = grid.load("mine.toml")
    assert (found.cluster.partition, found.cluster.sbatch) == ("gpu", {"constraint": "a100"})
    assert found.model_dump(mode="json") | {"name": "plain"} == grid.load("plain.toml").model_dump(mode="json")
    Path("odd.toml").write_text(f"{text}\n[cluster]\narray_paralelism = 4\n")
    with pytest.raises(ConfigError, match=r"^unknown field 'cluster.array_paralelism' \(did you mean 'cluster.array_p"):
        grid.load("odd.toml")


def test_jobs_that_nobody_runs_leave_no_folder(hptctl, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(workplace))  # a machine without Slurm
    (workplace / "mine.toml").write_text(STUDY.format(dataset="digits"))
    for words in (("study", "run", "mine.toml"), ("pretrain", "-s", "target", "-d", "digits", "--preset", "tiny")):
        said = hptctl(*words, "--on", "slurm", code=2).stderr
        assert said.startswith(
            "error: there is no sbatch on this machine, so no Slurm to send jobs to; give the command"
        )
        assert "did you mean 'slurm'" in hptctl(*words, "--on", "slrum", code=2).stderr
        assert "--cluster is of jobs, and there are none" in hptctl(*words, "--cluster", "gpus=1", code=2).stderr
        assert "did you mean 'gpus'" in hptctl(*words, "--on", "local", "--cluster", "gpu=1", code=2).stderr
    assert runs.all_runs() == []


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="Slurm's commands are not installed here")
def test_a_slurm_that_is_installed_and_not_there_is_a_line(
    hptctl, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "mine.toml").write_text(STUDY.format(dataset="digits"))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        lines = ("ClusterName=none", "SlurmctldHost=none(127.0.0.1)", f"SlurmctldPort={nobody.getsockname()[1]}")
        (workplace / "slurm.conf").write_text("\n".join([*lines, "NodeName=one", "PartitionName=main Nodes=one\n"]))
        (workplace / "empty.conf").touch()
        for conf, why in (
            ("empty.conf", "scontrol: fatal: Unable to process configuration file"),
            ("slurm.conf", "Slurmctld(primary) at none is DOWN"),
        ):
            monkeypatch.setenv("SLURM_CONF", str(workplace / conf))
            for words in (("study", "run", "mine.toml"), ("pretrain", "-s", "target", "-d", "digits")):
                said = hptctl(*words, "--on", "slurm", code=2).stderr.replace("\n", " ")
                assert (
                    f"no Slurm to send jobs to can be reached from this machine: scontrol does not answer: {why}"
                    in said
                )
                assert "try the settings out with --on local" in said
    assert runs.all_runs() == []
