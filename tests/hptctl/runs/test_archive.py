"""Runs as one file: what is in it, its bytes, its parts."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from run_folders import crafted, grown, made, member

from hpt import checkpoint
from hpt.errors import ConfigError, RunError
from hptctl.runs import archive


def test_the_same_runs_give_the_same_bytes_in_a_plain_tar_that_others_read(workplace: Path) -> None:
    found = [made("b"), made("a-2"), made("a")]
    manifest = archive.write(Path("one.tar"), found, ["b"])
    for run in found:
        for file in run.path.rglob("*"):
            file.touch()
            file.chmod(0o755)
    archive.write(Path("two.tar"), found[::-1], ["b"])
    assert Path("one.tar").read_bytes() == Path("two.tar").read_bytes()
    with tarfile.open("one.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["manifest.json", "manifest.sha256"]
        assert names[2:] == sorted(names[2:]) == [entry.path for entry in manifest.files]
        assert {(each.uid, each.mtime, each.mode) for each in tar.getmembers()} == {(0, 0, 0o644)}
        tar.extractall("out", filter="data")
    assert Path("out/runs/a/metrics.jsonl").read_bytes() == (found[2].path / "metrics.jsonl").read_bytes()
    assert not list(Path("out").rglob("lock"))


def test_parts_are_the_whole_cut_and_nothing_of_an_earlier_export_stays_beside_them(workplace: Path) -> None:
    found = [made(f"run {number}") for number in range(5)]
    out = Path("runs.tar")
    archive.write(out, found, [])
    whole = out.read_bytes()
    archive.write(out, found, [], split=10_240)
    assert not out.exists()
    parts = sorted(Path().glob("runs.tar.*"))
    assert [path.name for path in parts] == [f"runs.tar.{number:03d}" for number in range(1, len(parts) + 1)]
    assert len(parts) > 2
    assert {path.stat().st_size for path in parts[:-1]} == {10_240}
    assert b"".join(path.read_bytes() for path in parts) == whole
    assert archive.read(parts[1]) == archive.read(out)
    archive.write(out, found, [], split=2 * 10_240)
    assert len(list(Path().glob("runs.tar.*"))) == len(parts) // 2 + len(parts) % 2
    archive.write(out, found, [])
    assert list(Path().glob("runs.tar*")) == [out]
    with pytest.raises(ConfigError, match=r"999 at most; give a --split of 1M or more"):
        archive.write(out, found, [], split=10)


def test_an_export_that_fails_leaves_the_older_archive_whole(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [made("a"), made("b")]
    out = Path("runs.tar")
    archive.write(out, found, [])
    before = out.read_bytes()

    def grow(done: int, total: int, what: str) -> None:
        if what == "packing":
            with (found[1].path / "metrics.jsonl").open("a") as file:
                file.write("{}\n")

    with pytest.raises(RunError, match=r"run 'b' changed while it was exported \(runs/b/metrics\.jsonl\)"):
        archive.write(out, found, [], progress=grow)
    with pytest.raises(ConfigError, match="there is no folder nowhere"):
        archive.write(Path("nowhere/runs.tar"), found, [])
    full = shutil.disk_usage(".")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(RunError, match=r"KiB do not fit into .*, which has 100 B left"):
        archive.write(out, found, [])
    assert out.read_bytes() == before
    assert {path.name for path in Path().glob("*runs.tar*")} == {"runs.tar"}


def test_the_newest_whole_checkpoint_travels_with_a_run_that_is_not_finished(workplace: Path) -> None:
    run = made("one", state="interrupted")
    for step in (1, 2, 3):
        checkpoint.save(run.path / "checkpoints", step, {}, keep=3)
    (run.path / "checkpoints" / "step-00000003.pt").write_bytes(b"damaged")
    (run.path / ".run.json.abc.part").touch()
    names = {file.name for file in archive.files_of(run)}
    assert {name for name in names if name.startswith("step")} == {"step-00000002.pt", "step-00000002.sha256"}
    assert not [name for name in names if name.endswith((".part", "lock"))]
    grown(run, 5)
    assert not [file for file in archive.files_of(run) if file.name.startswith("step")]


def test_weights_may_stay_and_the_manifest_names_the_runs_that_had_some(workplace: Path) -> None:
    base, figure, alone = made("base", "pretrain"), made("figure", "linear"), made("alone", state="interrupted")
    (base.path / "backbones").mkdir()
    for file in ("base/backbone", "base/backbones/step-1", "figure/model"):
        (workplace / f"runs/{file}.safetensors").write_bytes(b"weights")
    for name in ("split.json", "pretrained-on.npy", "pretrained-on-thumbnails.npy"):
        (base.path / name).write_bytes(b"a record")
    checkpoint.save(alone.path / "checkpoints", 3, {})
    found = [base, figure, alone, made("none")]
    assert archive.write(Path("full.tar"), found, []).without_weights == ()
    records = archive.write(Path("records.tar"), found, [], weights=False)
    assert records.without_weights == ("alone", "base", "figure")
    full = {entry.path for entry in archive.read(Path("full.tar")).manifest.files}
    assert full - {entry.path for entry in records.files} == {
        *("runs/alone/checkpoints/step-00000003.pt", "runs/alone/checkpoints/step-00000003.sha256"),
        *("runs/base/backbone.safetensors", "runs/base/backbones/step-1.safetensors"),
        "runs/figure/model.safetensors",
    }


def test_a_run_that_is_being_worked_on_does_not_travel(workplace: Path) -> None:
    run = made("one")
    with run.working(), pytest.raises(RunError, match=r"run 'one' is being worked on by .*stop it first"):
        archive.write(Path("runs.tar"), [run], [])
    run.write_status(state="running", host="another", pid=1)
    with pytest.raises(RunError, match="run 'one' is being worked on by another; wait for it, or stop it first"):
        archive.write(Path("runs.tar"), [run], [])
    assert not list(Path().glob("*.tar*"))


RUN = b'{"kind": "knn"}'
FOREIGN = {
    "a way up": ("runs/../evil", "holds 'runs/../evil', which is no file of a run"),
    "a way up inside a run": ("runs/a/../../evil", "which is no file of a run"),
    "an absolute path": ("/runs/a/evil", "which is no file of a run"),
    "another folder": ("evil/a/x", "which is no file of a run"),
    "a hidden run": ("runs/.import-x/x", "which is no file of a run"),
    "a file beside the runs": ("runs/evil", "which is no file of a run"),
    "an empty name": ("runs/a//evil", "which is no file of a run"),
    "a line break": ("runs/a/x\ny", "which is no file of a run"),
    "the same file twice": ("runs/a/run.json", "holds runs/a/run.json twice"),
    "a file as a folder": ("runs/a/run.json/x", "holds runs/a/run.json as a file and as a folder"),
    "a run without a record": ("runs/b/x", "holds no run.json of 'b'"),
}


@pytest.mark.parametrize(("path", "expected"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_manifest_of_anything_but_files_of_runs_is_refused(path: str, expected: str, tmp_path: Path) -> None:
    files = [("runs/a/run.json", RUN), (path, b"x")]
    crafted(tmp_path / "x.tar", [(member(name, data), data) for name, data in files], files)
    with pytest.raises(RunError) as refused:
        archive.read(tmp_path / "x.tar")
    assert expected in str(refused.value)


def test_a_newer_format_and_a_file_of_another_kind_are_named_as_such(tmp_path: Path) -> None:
    crafted(tmp_path / "x.tar", [], [], format=archive.FORMAT + 1)
    with pytest.raises(RunError, match=r"was written by hptctl 9\.9, in a newer format than .* reads"):
        archive.read(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(b"PK" * 500)
    with pytest.raises(RunError, match="is no archive that `hptctl runs export` wrote: it does not begin as one"):
        archive.read(tmp_path / "x.tar")
    with pytest.raises(RunError, match=r"there is no archive .*y\.tar"):
        archive.read(tmp_path / "y.tar")
    (tmp_path / "x.tar").write_bytes(member("manifest.json", size=2**30).tobuf())
    with pytest.raises(RunError, match=r"its manifest\.json has 1\.0 GiB"):
        archive.read(tmp_path / "x.tar")
