"""Runs that arrive: all of an archive or nothing of it, whatever has happened to it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import content, crafted, grown, made, member

from hpt import checkpoint
from hpt.errors import Interrupted, RunError
from hptctl import runs, tracking
from hptctl.console import Display
from hptctl.runs import Run, archive
from hptctl.runs.record import Tags
from hptctl.study.import_runs import Arrival, import_runs


@pytest.fixture
def there(workplace: Path) -> Path:
    """A working folder with a pretraining, an evaluation of it, and a pretraining that stopped."""
    folder = workplace / "there"
    (folder / "images").mkdir(parents=True)
    with contextlib.chdir(folder):
        base = made("base", "pretrain", config={"dataset": str(folder / "images")})
        about = {"source": "base", "source_folder": str(base.path.resolve())}
        tags = Tags(strategy="target", weights="base", weights_file=str(base.path.resolve() / "backbone.safetensors"))
        made("figure", tags=tags, **about)
        made("stopped", "pretrain", state="interrupted", config={"dataset": str(folder / "images")})
    return folder


@pytest.fixture
def here(there: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that they go to, entered: it has a run of its own. Beside it lie `runs.tar` and the parts of
    `cut.tar`."""
    sent(there, "runs.tar")
    sent(there, "cut.tar", split=10_240)
    folder = there.parent / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(there.parent / "mlflow.db", folder)
    made("mine")
    return folder


def sent(folder: Path, out: str, *, split: int | None = None, weights: bool = True) -> None:
    with contextlib.chdir(folder):
        archive.write(folder.parent / out, runs.all_runs(), [], split=split, weights=weights)


def brought(*files: str, moves: tuple[tuple[str, str], ...] = ()) -> Arrival:
    return import_runs([Path("..") / file for file in files], moves, display=Display(silent=True))


def test_runs_arrive_with_the_paths_of_their_new_folder_and_in_its_store(here: Path) -> None:
    found = brought("runs.tar")
    assert set(found.new) == {"base", "figure", "stopped"}
    assert found.new.index("base") < found.new.index("figure")
    assert found.stopped == {"stopped": "hptctl pretrain --resume stopped"}
    assert found.absent == {str(here / "images"): 1}
    figure = runs.get("figure").spec()
    assert figure.source_folder == str(here / "runs" / "base")
    assert figure.tags.weights_file == str(here / "runs" / "base" / "backbone.safetensors")
    assert [run.name for run in runs.ancestry(runs.get("figure"))] == ["base"]
    records = {record.name: record for record in tracking.read_runs()}
    assert records.keys() == {"base", "figure", "stopped"}
    assert records["figure"].source_id == records["base"].run_id
    assert records["stopped"].state == "KILLED"
    for name, record in records.items():
        spec, status = runs.get(name).spec(), runs.get(name).status()
        assert (record.start, record.end) == (int(spec.created * 1000) / 1000, int((status.ended or 0) * 1000) / 1000)
        assert record.folder == str(here / "runs" / name)
    before = content(here)
    again = brought("cut.tar.002", "cut.tar.003")
    assert (again.new, again.updated, set(again.here)) == ((), (), {"base", "figure", "stopped"})
    assert content(here) == before


def bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path: Path, bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-bytes])


def swapped(a: Path, b: Path) -> None:
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two)
    b.write_bytes(one)


def remade(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], object]) -> None:
    """The archive with other members than its manifest says."""
    with tarfile.open(path) as tar:
        found = [(each, tar.extractfile(each).read()) for each in tar.getmembers()][2:]  # type: ignore[union-attr]
    listed = [(info.name, data) for info, data in found]
    change(found)
    crafted(path, found, listed)


EMPTY = "runs/base/artifacts/empty.csv"


def instead(path: Path, other: tarfile.TarInfo) -> None:
    """The archive with another member in place of an empty file."""
    remade(path, lambda found: found.__setitem__([info.name for info, _ in found].index(EMPTY), (other, b"")))


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a bit of the manifest": (
        "runs.tar",
        lambda p: bit(p / "runs.tar", 540),
        "manifest.json is not what manifest.sha256 is of",
    ),
    "a bit of a header": ("runs.tar", lambda p: bit(p / "runs.tar", -11_000), "runs.tar is damaged"),
    "a bit of a file": ("runs.tar", lambda p: bit(p / "runs.tar", 15_000), "runs.tar is damaged: runs/base/artifacts/"),
    "a bit at the end": ("runs.tar", lambda p: bit(p / "runs.tar", -1), "runs.tar is damaged: after its last file"),
    "cut by a byte": ("runs.tar", lambda p: cut(p / "runs.tar", 1), "runs.tar is cut short; copy it again"),
    "cut inside the manifest": (
        "runs.tar",
        lambda p: (p / "runs.tar").write_bytes((p / "runs.tar").read_bytes()[:700]),
        "runs.tar is cut short",
    ),
    "empty": ("runs.tar", lambda p: (p / "runs.tar").write_bytes(b""), "runs.tar is cut short"),
    "too long": (
        "runs.tar",
        lambda p: (p / "runs.tar").write_bytes((p / "runs.tar").read_bytes() + b"x"),
        "it holds 1 B that its manifest does not name",
    ),
    "the first part gone": ("cut.tar", lambda p: (p / "cut.tar.001").unlink(), "cut.tar.001 is missing"),
    "a part gone": ("cut.tar", lambda p: (p / "cut.tar.002").unlink(), "cut.tar.002 is missing"),
    "the last part gone": ("cut.tar", lambda p: (p / "cut.tar.007").unlink(), "cut.tar.007 is missing"),
    "a part cut": ("cut.tar.003", lambda p: cut(p / "cut.tar.002", 5), "cut.tar.002 is cut short"),
    "the last part cut": ("cut.tar", lambda p: cut(p / "cut.tar.007", 5), "cut.tar.007 is cut short"),
    "parts swapped": ("cut.tar", lambda p: swapped(p / "cut.tar.002", p / "cut.tar.003"), "cut.tar.00"),
    "first parts swapped": ("cut.tar", lambda p: swapped(p / "cut.tar.001", p / "cut.tar.002"), "is no archive"),
    "a further file": (
        "runs.tar",
        lambda p: remade(p / "runs.tar", lambda m: m.append((member("runs/base/x", b"x"), b"x"))),
        "runs.tar is damaged: after its last file",
    ),
    "a link": (
        "runs.tar",
        lambda p: instead(p / "runs.tar", member(EMPTY, type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        f"it holds a link '{EMPTY}' where its manifest names {EMPTY}",
    ),
    "a device": (
        "runs.tar",
        lambda p: instead(p / "runs.tar", member(EMPTY, type=tarfile.CHRTYPE)),
        f"it holds no plain file '{EMPTY}' where",
    ),
    "a way up": ("runs.tar", lambda p: instead(p / "runs.tar", member("../evil")), "it holds a file '../evil' where"),
    "an absolute path": (
        "runs.tar",
        lambda p: instead(p / "runs.tar", member("/tmp/evil")),
        "it holds a file '/tmp/evil' where",
    ),
}


@pytest.mark.parametrize(("file", "damage", "expected"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_archive_is_refused_in_a_line_and_the_folder_stays_as_it_was(
    file: str, damage: Callable[[Path], object], expected: str, here: Path, hptctl
) -> None:
    damage(here.parent)
    before = content(here)
    refused = hptctl("runs", "import", f"../{file}", code=2).stderr.strip().splitlines()
    assert refused[-1].startswith("error: ")
    assert expected in refused[-1]
    assert content(here) == before
    assert [path.name for path in (here / "runs").iterdir()] == ["mine"]


def test_one_bad_archive_of_several_keeps_all_of_them_out(here: Path) -> None:
    bit(here.parent / "cut.tar.003", 50)
    with pytest.raises(RunError, match="is damaged"):
        brought("runs.tar", "cut.tar")
    assert [path.name for path in (here / "runs").iterdir()] == ["mine"]


def test_a_run_that_got_further_elsewhere_takes_its_place_and_keeps_its_run_in_the_store(
    here: Path, there: Path
) -> None:
    brought("runs.tar")
    tracked = runs.tracked_id(runs.get("stopped"))
    grown(runs.get("stopped"), 4, "interrupted")
    assert brought("runs.tar").updated == ()
    assert len(list(runs.get("stopped").metrics())) == 4
    grown(Run(there / "runs" / "stopped"), 6)
    sent(there, "later.tar")
    with runs.get("stopped").working(), pytest.raises(RunError, match="'stopped' is being worked on"):
        brought("later.tar")
    assert brought("later.tar").updated == ("stopped",)
    assert runs.get("stopped").status().state == "finished"
    (record,) = (record for record in tracking.read_runs() if record.name == "stopped")
    assert (record.run_id, record.state, record.metrics["val/top1"]) == (tracked, "FINISHED", 0.6)
    assert brought("runs.tar").updated == ()


def test_a_full_copy_takes_the_place_of_one_without_weights_and_never_the_other_way_round(
    here: Path, there: Path, hptctl
) -> None:
    (there / "runs/base/backbone.safetensors").write_bytes(b"weights")
    checkpoint.save(there / "runs/stopped/checkpoints", 3, {})
    sent(there, "full.tar")
    sent(there, "records.tar", weights=False)
    assert brought("records.tar").without_weights == ("base", "stopped")
    assert [archive.weights_of(runs.get(name)) for name in ("base", "stopped")] == [[], []]
    grown(runs.get("stopped"), 9, "interrupted")  # steps that nothing goes on from
    found = brought("full.tar")
    assert (set(found.updated), found.without_weights) == ({"base", "stopped"}, ())
    assert len(list(runs.get("stopped").metrics())) == 3
    before = content(here)
    assert set(brought("records.tar").here) == {"base", "figure", "stopped"}
    assert content(here) == before
    shutil.rmtree(here / "runs")
    assert brought("records.tar", "full.tar").without_weights == ()
    status = Run(there / "runs" / "base").status()
    Run(there / "runs" / "base").write_status(results=status.results | {"test/more": 1.0})
    sent(there, "records.tar", weights=False)
    said = hptctl("runs", "import", "../records.tar").stdout
    assert "updated: base\n" in said
    assert "without weights" not in said
    assert runs.get("base").backbone.read_bytes() == b"weights"
    assert "test/more" in runs.get("base").status().results


def test_the_same_work_made_elsewhere_counts_and_other_work_keeps_the_whole_archive_out(here: Path) -> None:
    made("figure", fingerprint="of figure", config={"made": "here"})
    found = brought("runs.tar")
    assert (set(found.new), found.here) == ({"base", "stopped"}, ("figure",))
    assert runs.get("figure").spec().config == {"made": "here"}
    for name in ("base", "stopped"):
        shutil.rmtree(here / "runs" / name)
    shutil.rmtree(here / "runs" / "figure")
    made("figure", fingerprint="of something else")
    before = content(here)
    with pytest.raises(RunError, match=r"'figure' of the archive is other work .* import into another folder: mkdir"):
        brought("runs.tar")
    assert content(here) == before


def test_a_study_whose_name_is_taken_by_another_one_gets_a_number_and_its_children_follow(
    here: Path, there: Path
) -> None:
    with contextlib.chdir(there):
        made("study", "study", state="interrupted", config={"name": "study", "seeds": [1]})
        made("child", parent="study")
    sent(there, "study.tar")
    made("study", "study", config={"name": "study", "seeds": [2]})
    found = brought("study.tar")
    assert found.renamed == {"study": "study-2"}
    assert runs.get("child").spec().parent == "study-2"
    assert runs.get("study-2").spec().config["seeds"] == [1]
    assert runs.get("study").spec().config["seeds"] == [2]
    before = content(here)
    again = brought("study.tar")
    assert (again.new, again.updated, again.renamed) == ((), (), {})
    assert content(here) == before


def test_images_and_weights_from_outside_are_where_move_says(here: Path, there: Path) -> None:
    (here / "my images").mkdir()
    found = brought("runs.tar", moves=((str(there / "images"), str(here / "my images")),))
    assert found.absent == {}
    assert runs.get("stopped").spec().config == {"dataset": str(here / "my images")}
    shutil.rmtree(here / "runs")
    assert brought("runs.tar").absent == {str(here / "images"): 1}
    again = brought("runs.tar", moves=((str(there / "images"), str(here / "my images")),))
    assert (again.updated, again.absent) == (("stopped",), {})


def test_a_run_that_was_killed_on_its_own_machine_is_known_for_it(here: Path, there: Path) -> None:
    status = there / "runs" / "stopped" / "status.json"
    pid = 2**22 + 1  # beyond any process
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "running", "pid": pid, "ended": None}))
    sent(there, "killed.tar")
    brought("killed.tar")
    assert runs.get("stopped").status().state == "killed"
    assert json.loads((here / "runs/stopped/status.json").read_text())["state"] == "killed"
    (record,) = (record for record in tracking.read_runs() if record.name == "stopped")
    assert record.end == max(line["time"] for line in runs.get("stopped").metrics())


def test_what_a_killed_import_left_is_put_in_order_by_the_next(here: Path) -> None:
    left = here / "runs" / ".import-left"
    (left / "replaced").mkdir(parents=True)
    (here / "runs" / "mine").rename(left / "replaced" / "mine")
    assert [run.name for run in runs.all_runs()] == []
    brought("runs.tar")
    assert {run.name for run in runs.all_runs()} == {"mine", "base", "figure", "stopped"}
    assert not list((here / "runs").glob(".*"))


def test_an_import_that_cannot_place_a_run_takes_the_others_back(here: Path) -> None:
    (here / "runs" / "stopped").mkdir()
    (here / "runs" / "stopped" / "notes.txt").write_text("mine")
    before = content(here)
    with pytest.raises(RunError, match="runs/stopped is there, but holds no run"):
        brought("runs.tar")
    assert content(here) == before
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["mine", "stopped"]


def test_a_store_that_is_away_costs_a_warning_and_a_full_disk_nothing(
    here: Path, hptctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    full = shutil.disk_usage(".")._replace(free=100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        said = hptctl("runs", "import", "../runs.tar", code=2).stderr
    assert "KiB do not fit into" in said
    assert "has 100 B left; free some space" in said
    assert [path.name for path in (here / "runs").iterdir()] == ["mine"]
    done = hptctl("runs", "import", "../runs.tar", "--json")
    assert done.stderr.count("the runs are in place, `hptctl runs sync` sends them to the store later") == 1
    assert set(json.loads(done.stdout)["new"]) == {"base", "figure", "stopped"}


def test_a_signal_on_the_way_leaves_nothing_behind(here: Path) -> None:
    kept = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, _: (_ for _ in ()).throw(Interrupted(number, "stopped")))
    before = content(here)
    try:
        with pytest.raises(Interrupted):
            import_runs(
                [Path("../runs.tar")],
                display=Display(silent=True, follow=lambda *_: os.kill(os.getpid(), signal.SIGTERM)),
            )
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert content(here) == before
    assert [path.name for path in (here / "runs").iterdir()] == ["mine"]
