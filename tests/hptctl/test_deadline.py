"""`--for 8m`: work stops within the time that it was given, and goes on to the same end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from small_study import STUDY, states

from hpt import timing
from hpt.errors import TIME_IS_UP, ConfigError, Interrupted
from hptctl import deadline, runs
from hptctl.study import leads

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu")


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Inside the tests' process, where what a command is reckoned to take to begin and to end is soon done."""
    monkeypatch.setattr(deadline, "CLOSING_SECONDS", 0.2)
    monkeypatch.setattr(timing, "FIRST_SAVE_SECONDS", 0.2)
    monkeypatch.setattr(leads, "UNKNOWN_LEAD_SECONDS", 0.2)
    monkeypatch.setattr(leads, "SAVED_SECONDS", 0.2)
    return monkeypatch


def give(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """As `--for` does, which counts from the beginning of the process: here of the tests'."""
    patch.setenv(deadline.VARIABLE, str(time.time() + seconds))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("8m", 480), ("1.5h", 5400), ("20", 20), (" 3 m ", 180)])
def test_a_length_of_time_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert deadline.seconds(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "0", "-3m", "8 minutes", "1d", "m"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--for '.*' is not a length of time; write 90s, 45m or 12h$"):
        deadline.seconds(text, "--for")


def test_a_command_has_no_more_time_than_the_command_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(deadline.VARIABLE, raising=False)
    assert deadline.left() == float("inf")
    assert deadline.passes_in(1e9) == 0
    give(monkeypatch, 10)
    end = os.environ[deadline.VARIABLE]
    deadline.limit("1000h")
    assert os.environ[deadline.VARIABLE] == end
    assert deadline.words() == ["--for", "1000h"]
    assert deadline.left() == pytest.approx(10 - deadline.CLOSING_SECONDS, abs=1)
    assert deadline.passes_in(1) == 0
    assert deadline.passes_in(9) == TIME_IS_UP
    deadline.limit("1s")  # of a process that is older than that
    assert deadline.left() < -1
    with pytest.raises(Interrupted, match="stopped at reading images 3 of 9, which starts again"):
        deadline.follow(3, 9, "reading images")
    deadline.follow(9, 9, "reading images")  # it is done
    deadline.lift()
    assert deadline.words() == []


@pytest.mark.slow
def test_a_pretraining_that_is_out_of_time_goes_on_to_the_same_bits(
    hptctl, workplace: Path, digits_folder: Path, slices: pytest.MonkeyPatch
) -> None:
    words = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "5")
    hptctl(*words, "--name", "whole")
    give(slices, 0.5)
    said = hptctl(*words, "--name", "cut", code=75).stderr
    assert said.splitlines()[-1] == (
        f"time is up: {runs.get('cut').status().reason}; go on with `hptctl pretrain --resume cut`"
    )
    assert runs.get("cut").status().state == "interrupted"
    slices.delenv(deadline.VARIABLE)
    hptctl("pretrain", "--resume", "cut")
    assert runs.get("cut").backbone.read_bytes() == runs.get("whole").backbone.read_bytes()


def test_a_study_begins_no_cell_that_would_get_nowhere_and_says_what_it_takes(
    hptctl, workplace: Path, digits_folder: Path, slices: pytest.MonkeyPatch
) -> None:
    (workplace / "mine.toml").write_text(STUDY.format(dataset=digits_folder))
    slices.setattr(leads, "UNKNOWN_LEAD_SECONDS", 3600.0)
    give(slices, 1800)
    said = hptctl("study", "run", "mine.toml", code=75).stderr.splitlines()[-1]
    assert said.startswith("time is up: study 'mine' was stopped, 0 of 9 cells done; to begin ")
    assert "takes about 60 min, and 30 min were left; go on with `hptctl study run mine.toml`" in said
    assert {each.spec().kind for each in runs.all_runs()} == {"study"}


@pytest.mark.slow
def test_a_study_that_was_cut_ten_times_ends_in_the_bits_of_one_that_was_left_alone(
    hptctl, workplace: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory, slices: pytest.MonkeyPatch
) -> None:
    study = STUDY.format(dataset=digits_folder).replace('["knn"]', '["knn", "linear"]')
    study = study.replace("hpt = [2, 4]", "hpt = [20, 60]").replace("target = [4]", "target = [60]")
    found = []
    for folder in (workplace, tmp_path_factory.mktemp("cut")):
        slices.chdir(folder)
        Path("mine.toml").write_text(study)
        cuts = 0
        if folder == workplace:
            hptctl("study", "run", "mine.toml")
        else:
            while True:
                give(slices, 2.5 if cuts < 10 else 3600)
                done = hptctl("study", "run", "mine.toml", code=75 if cuts < 10 else 0)
                if cuts == 10:
                    break
                assert "go on with `hptctl study run mine.toml`" in done.stderr.splitlines()[-1]
                cuts += 1
        assert set(states().values()) == {"done"}
        every = {run.name: run for run in runs.all_runs()}
        figures = {name: run.status().results for name, run in every.items() if run.spec().kind in {"knn", "linear"}}
        found.append(
            (figures, {name: run.backbone.read_bytes() for name, run in every.items() if run.backbone.exists()})
        )
    assert found[0] == found[1]


@pytest.mark.slow
def test_processes_of_a_command_stop_in_time_too(start, workplace: Path, digits_folder: Path) -> None:
    words = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "100000", "--name", "long")
    process = start(*words, "--processes", "2", "--for", "45s")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    last = stderr.decode().strip().splitlines()[-1]
    assert last.startswith("time is up: stopped at step ")
    assert last.endswith("go on with `hptctl pretrain --resume long --for 45s`")
    assert list((workplace / "runs/long/checkpoints").glob("*.sha256"))


@pytest.mark.slow
def test_a_sweep_gives_its_trials_back_in_time(hptctl, own: str, workplace: Path, start) -> None:
    words = ("sweep", "finetune", "own", "--lr", "0.01", "--schedule", "20000-steps", "--preset", "tiny")
    process = start(*words, "--device", "cpu", "--name", "long", "--for", "40s")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 75, stderr
    assert stderr.decode().strip().endswith("go on with `hptctl sweep finetune --resume long --for 40s`")
    assert runs.get("long").status().state == "interrupted"
    assert list(runs.get("long-trial0").path.glob("checkpoints/*.sha256"))
