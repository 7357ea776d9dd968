"""`hptctl runs export|import`: what goes on elsewhere is what would have gone on here."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from program import command, signal_when, wait_for
from run_folders import made
from small_study import STUDY, states

from hptctl import runs
from hptctl.report.selection import Selection, read

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


@pytest.fixture
def other(workplace: Path, new_store: Path) -> Path:
    """Another working folder, whose store holds nothing yet."""
    folder = workplace / "other"
    folder.mkdir()
    shutil.copy(new_store, folder)
    return folder


@pytest.mark.slow
def test_a_report_on_runs_that_were_imported_without_weights_has_the_same_bytes(
    hptctl, own: str, other: Path, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits_folder, workplace / "images")  # inside the folder, so that the path of its images changes
    shutil.copytree(digits_folder, other / "images")
    hptctl("evaluate", "knn", "own", "-d", "images", "--name", "figure")
    hptctl("report", "--out", "report.html")
    said = hptctl("runs", "export", "figure", "--out", "runs.tar", "--without-weights").stdout.splitlines()[-1]
    assert said.startswith("runs.tar: 2 runs, ")
    monkeypatch.chdir(other)
    assert hptctl("runs", "import", "../runs.tar").stdout == "new: own, figure\nwithout weights: own\n"
    hptctl("report", "--out", "report.html")
    page = (other / "report.html").read_bytes()
    assert page == (workplace / "report.html").read_bytes()
    assert b"hptctl evaluate knn untrained -d ./images" in page
    assert str(workplace).encode() not in page
    first_id = json.loads((workplace / "runs/figure/tracking.json").read_bytes())["run_id"]
    assert first_id.encode() in page
    assert first_id != runs.tracked_id(runs.get("figure"))
    assert runs.get(first_id) == runs.get("figure")
    assert set(read(Selection(names=(first_id,))).frame["name"]) == {"own", "figure"}


@pytest.mark.slow
def test_a_pretraining_that_stopped_ends_elsewhere_in_the_same_bits(
    hptctl, other: Path, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with signal_when(workplace / "runs/long/metrics.jsonl"):
        hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "6", "--name", "long", code=143)
    made = json.loads(hptctl("runs", "export", "long", "-o", "long.tar", "--split", "15M", "--json").stdout)
    assert (made["runs"], len(made["written"]) > 2) == (["long"], True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        said = hptctl("runs", "import", "../long.tar.001", "../long.tar.002").stdout
        assert "go on with long: hptctl pretrain --resume long" in said
        hptctl("pretrain", "--resume", "long")
        elsewhere = runs.get("long").status()
    hptctl("pretrain", "--resume", "long")
    assert elsewhere.facts.backbone_sha256 == runs.get("long").status().facts.backbone_sha256
    assert elsewhere.facts.fingerprint == runs.get("long").status().facts.fingerprint


BAD = {
    "a run that is misspelt": (("export", "figur", "-o", "x.tar"), "did you mean 'figure'?"),
    "no size": (("export", "figure", "-o", "x.tar", "--split", "many"), "write for example --split 15M"),
    "a size too small": (("export", "figure", "-o", "x.tar", "--split", "1K"), "is no size of 10.0 KiB or more"),
    "a folder that is not there": (("export", "figure", "-o", "x/x.tar"), "there is no folder x for x.tar"),
    "a folder as the file": (("export", "figure", "-o", "runs"), "runs is a folder"),
    "a move to nowhere": (("import", "x.tar", "--move", "/a"), "is not of the form OLD=NEW"),
    "a move from a relative path": (("import", "x.tar", "--move", "a=b"), "with OLD an absolute path"),
    "no archive": (("import", "x.tar"), "there is no archive x.tar"),
}


@pytest.mark.parametrize(("words", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_leaves_nothing(words: tuple[str, ...], expected: str, hptctl) -> None:
    made("figure")
    refused = hptctl("runs", *words, code=2).stderr.strip().splitlines()
    assert refused[-1].startswith("error: ")
    assert expected in refused[-1]
    assert sorted(path.name for path in Path().iterdir() if not path.name.startswith("mlflow")) == ["runs"]


@pytest.mark.slow
def test_a_study_goes_on_elsewhere_where_it_stopped_and_ends_in_the_same_bits(
    hptctl, workplace: Path, other: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STUDY.replace("hpt = [2, 4]", "hpt = [2, 12]").replace("[set]", "[set]\ncheckpoint_every = 3")
    (workplace / "mine.toml").write_text(text.format(dataset=digits_folder))
    hptctl("study", "run", "mine.toml", "--only", "knn-base*")
    process = subprocess.Popen(command("study", "run", "mine.toml", "--only", "knn-hpt*"), cwd=workplace)
    wait_for(workplace / "runs/hpt-my-digits-s0/checkpoints/step-00000003.sha256", process)
    process.terminate()
    process.wait()
    before = states()
    assert before["hpt-my-digits-s0"] == "stopped"
    hptctl("runs", "export", "mine", "--out", "mine.tar")
    shutil.copytree(digits_folder, other / "elsewhere" / "my digits")
    with monkeypatch.context() as patch:
        patch.chdir(other)
        # Its images lie at another place here, and no --move says so: they are known by what they are.
        Path("mine.toml").write_text(text.format(dataset="elsewhere/my digits"))
        said = hptctl("runs", "import", "../mine.tar").stdout
        assert "go on with hpt-my-digits-s0: hptctl pretrain --resume hpt-my-digits-s0" in said
        assert states() == before
        spec = json.loads(Path("runs/hpt-my-digits-s0/run.json").read_text())
        spec["config"]["dataset"] = "/nowhere/my digits"
        Path("runs/hpt-my-digits-s0/run.json").write_text(json.dumps(spec))
        assert states() == before
        assert "going on from step" in hptctl("study", "run", "mine.toml", "--only", "knn-hpt*").stderr
        elsewhere = runs.get("hpt-my-digits-s0").status().facts
        assert [run.name for run in runs.all_runs() if run.spec().kind == "pretrain"].count("hpt-my-digits-s0") == 1
    hptctl("study", "run", "mine.toml", "--only", "knn-hpt*")
    here = runs.get("hpt-my-digits-s0").status().facts
    assert (elsewhere.backbone_sha256, elsewhere.backbone_sha256_at) == (here.backbone_sha256, here.backbone_sha256_at)
