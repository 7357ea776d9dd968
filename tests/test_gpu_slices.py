"""A study in slices of a machine that has PyTorch and no network: what is carried there, and what comes home."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from run_folders import made

from hpt import checkpoint

ROOT = Path(__file__).parent.parent
PROGRAMS = ROOT / "benchmarks" / "gpu"
MIB = 2**20


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(PROGRAMS))
    return {name: importlib.import_module(name) for name in ("portions", "needed", "prepare", "run", "collect")}


# ---- what is carried there


def test_files_are_cut_into_portions_and_joined_whichever_way_they_came(
    programs: dict[str, ModuleType], tmp_path: Path
) -> None:
    portions, limit = programs["portions"], programs["portions"].FOR_MANIFEST + 1000
    files = []
    for name, size in (("a", 10), ("wheels/b", 990), ("c", 2500), ("empty", 0)):
        file = tmp_path / Path(name).name
        file.write_bytes(os.urandom(size))
        files.append((name, file))
    (tmp_path / "out").mkdir()
    made = portions.cut(files, tmp_path / "out", limit, {"about": "a test"})
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in made]
    assert len(made) == 2
    assert max(sizes) <= limit
    made[1].rename(tmp_path / "out" / "renamed")
    came = [tmp_path / "out" / "renamed", made[0]]
    manifest = portions.read_manifest(came)
    assert portions.join(manifest, came, tmp_path / "joined") == []
    for name, file in files:
        assert (tmp_path / "joined" / name).read_bytes() == file.read_bytes()
    assert portions.join(manifest, came[1:], tmp_path / "joined") == ["c"]
    piece = min((tmp_path / "out" / "renamed").glob("c.*"))
    piece.write_bytes(bytes(len(piece.read_bytes())))
    with pytest.raises(portions.PortionError, match="c is not what was sent; carry it again"):
        portions.join(manifest, came, tmp_path / "joined")
    with pytest.raises(portions.PortionError, match=r"0 of the folders have a manifest\.json"):
        portions.read_manifest([tmp_path / "out" / "renamed"])


def test_weights_travel_of_what_cells_that_are_left_start_from_and_of_what_goes_on(
    programs: dict[str, ModuleType], tmp_path: Path
) -> None:
    for name in ("own", "used up", "statistics", "hpt", "begun"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        file = "checkpoints/step-00000002.pt" if name == "begun" else "backbone.safetensors"
        (tmp_path / name / file).touch()

    def row(run: str | None, state: str, strategy: str = "hpt", **about: bool) -> dict[str, Any]:
        return {"run": run, "state": state, "config": {"strategy": strategy}, "needed": True, "here": True} | about

    rows = [row("own", "done", "target"), row("used up", "done", needed=False), row("elsewhere", "done", here=False)]
    rows += [row("statistics", "done", "base"), row("begun", "stopped"), row("hpt", "done"), row(None, "left")]
    rows += [row("without its checkpoint", "stopped")]
    assert programs["needed"].with_weights(rows, tmp_path) == ["own", "hpt", "begun", "statistics"]


def test_archives_are_carried_with_all_their_parts_and_bad_words_are_one_line(
    programs: dict[str, ModuleType], tmp_path: Path
) -> None:
    prepare = programs["prepare"]
    for name in ("records.tar.001", "records.tar.002", "weights.tar"):
        (tmp_path / name).touch()
    given = [tmp_path / name for name in ("records.tar", "weights.tar")]
    assert [path for path, _ in prepare.archives(given)] == [
        *("runs/1/records.tar.001", "runs/1/records.tar.002"),
        "runs/2/weights.tar",
    ]
    for words, said in (
        (("--from", tmp_path), "--from goes on with a study; name its file with --study"),
        (("--python", "python3"), "'python3' is no version; write for example 3.12"),
        (("--portion", "62"), "'62' is no size; write for example 62M"),
    ):
        refused = program(sys.executable, "prepare", "--out", tmp_path / "out", *words, code=None)
        assert said in refused.stderr.splitlines()[-1]


# ---- what comes home


@pytest.mark.slow
def test_records_come_home_first_and_weights_as_far_as_there_is_room(
    programs: dict[str, ModuleType], workplace: Path
) -> None:
    run = programs["run"]
    own = run.Slice(
        out=workplace / "out", work=workplace, manifest={}, end=time.monotonic() + 300, seconds=300.0,
        environment=dict(os.environ), tiny=True, skip=frozenset(), bring=4 * MIB, keeps=False,
    )  # fmt: skip
    own.out.mkdir()
    own.study.mkdir()
    os.chdir(own.study)
    carried, base, figure = made("carried", "pretrain"), made("base", "pretrain"), made("figure", "linear")
    for each in (carried, base, figure):
        next(each.path.glob("status.json")).with_name("backbone.safetensors").write_bytes(bytes(3 * MIB))
    stamps = run.stamps(own.study)
    home = {"carried": (stamps["carried"], True)}
    begun = made("begun", "pretrain", state="interrupted", config={"steps": 100, "batch_size": 32})
    begun.append_metrics({"images_per_second": 64.0}, 4)
    checkpoint.save(begun.path / "checkpoints", 3, {"state": bytes(2 * MIB)})
    about = {"needed": True, "here": True, "config": {"strategy": "target"}}
    cells = [about | {"run": name, "state": "done"} for name in ("carried", "base")]
    cells += [about | {"run": "begun", "state": "stopped"}]
    packed = run.pack(own, home, cells)
    assert packed["runs"] == ["figure", "base", "begun"]
    assert packed["whole"] == ["base"]
    assert packed["stayed"]["begun"] == pytest.approx(2 * MIB, rel=0.01)
    log = (own.out / "log.txt").read_text()
    assert "begun: its checkpoint of 2 MiB finds no room in what goes home (--bring 4M): the next slice" in log
    assert "makes it again if cells need it, in about 50 s; a slice has to hold that, or the machine to stay" in log
    names = {path.name for path in own.out.iterdir()}
    assert names == {"log.txt", "records.tar.001", "weights.tar.001"}
    assert sum(path.stat().st_size for path in own.out.glob("*.tar.*")) < 4 * MIB
    assert run.at_home(own)["base"] == (run.stamps(own.study)["base"], True)
    assert run.pack(own, run.at_home(own), cells)["runs"] == []
    assert programs["collect"].study_in_words(
        {"study_file": "s.toml", "study": {"exit_code": 75, "cells": {"done": 2}, "seconds": 9, "packed": packed}}
    ) == [
        "study s.toml: 2 done; 9 s",
        "weights that did not come home, and that the study goes on from: begun (2 MiB)",
    ]


def test_a_slice_is_kept_once_and_the_next_one_goes_on_from_the_folder(
    programs: dict[str, ModuleType], tmp_path: Path
) -> None:
    collect = programs["collect"]
    asked = ["--out", "to-carry", "--go-on", "a.tar", "b.tar", "--study", "s.toml", "--from", "old"]
    record = {"began": 0.0, "asked": asked, "study_file": "s.toml"}
    kept = [collect.keep(record, tmp_path), collect.keep(record, tmp_path)]
    assert kept == [(tmp_path / "19700101-000000.json", True), (tmp_path / "19700101-000000.json", False)]
    assert collect.keep(record | {"asked": []}, tmp_path) == (tmp_path / "19700101-000000-2.json", True)
    start = "next: uv run python benchmarks/gpu/prepare.py --out to-carry --study s.toml"
    assert collect.next_command(record, tmp_path) == start
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "run.json").touch()
    assert collect.next_command(record, tmp_path) == f"{start} --from {tmp_path}"


# ---- all of it

STUDY = """
datasets = ["digits.zip"]
weights = ["own"]
preset = "tiny"
evaluations = ["knn", "linear"]
strategies = ["base", "target", "hpt"]
equal_length = false
seeds = {seeds}

[steps]
hpt = [6]
target = [6]

[set]
batch_size = 32

[[bases]]
name = "own"
dataset = "shapes@100"
strategy = "target"
steps = 6
"""
WORK_SECONDS = 120
"""That the study takes at least: two windows of 55 s, which a slice of 90 s leaves to it, and some more."""


@pytest.mark.slow
def test_a_study_in_slices_ends_in_the_figures_of_the_one_that_was_left_alone(
    digits_folder: Path, tmp_path: Path
) -> None:
    alone, home = tmp_path / "alone", tmp_path / "home"
    for folder in (alone, home):
        folder.mkdir()
        shutil.make_archive(str(folder / "digits"), "zip", digits_folder)
    bare = bare_python(tmp_path / "bare")
    environment = os.environ | {"HPTCTL_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    environment = {key: value for key, value in environment.items() if not key.startswith("MLFLOW")}

    took = grown_until(alone, environment)
    shutil.copy(alone / "mine.toml", home)
    codes: list[int] = []
    while not codes or (codes[-1] == 75 and len(codes) < 10):
        carried, out = tmp_path / "carried", tmp_path / f"out-{len(codes)}"
        there = f"{sys.version_info.major}.{sys.version_info.minor}"
        words = ("--out", carried, "--study", home / "mine.toml", "--datasets", home / "digits.zip", "--python", there)
        program(sys.executable, "prepare", *words, "--from", home, environment=environment)
        offline = {"PIP_NO_INDEX": "1", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        offline["OMP_NUM_THREADS"] = environment["OMP_NUM_THREADS"]  # bits depend on the number of threads
        words = (carried, "--out", out, "--for", "90s", "--device", "cpu", "--tiny", "--skip", "tests,bench")
        done = program(bare, "run", *words, environment=offline, code=None)
        assert done.returncode in (0, 75), done.stdout + done.stderr + (out / "log.txt").read_text()
        codes.append(done.returncode)
        assert len(list(out.iterdir())) <= 8
        assert max(file.stat().st_size for file in out.iterdir()) < 16 * MIB
        program(sys.executable, "collect", out, "--folder", home, environment=environment)
        shutil.rmtree(carried)
    assert (codes[-1], codes.count(75) >= 2) == (0, True), f"{codes}, {took:.0f} s alone"
    assert figures(home, environment) == figures(alone, environment)
    assert len(list((home / "slices").iterdir())) == len(codes)


def grown_until(folder: Path, environment: dict[str, str]) -> float:
    """Do the study in a folder, with as many seeds as keep this machine busy for a while; the seconds that it took."""
    seeds, took, began = 1, 0.0, time.monotonic()
    while took < WORK_SECONDS:
        (folder / "mine.toml").write_text(STUDY.format(seeds=list(range(seeds))))
        hptctl("study", "run", "mine.toml", folder=folder, environment=environment)
        took = time.monotonic() - began
        seeds = max(seeds + 1, math.ceil(seeds * WORK_SECONDS / took))
    return took


def figures(folder: Path, environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """The results of every evaluation of the study, all of which are done."""
    said = hptctl("study", "status", "mine.toml", "--json", folder=folder, environment=environment)
    rows = json.loads(said)["cells"]
    assert Counter(row["state"] for row in rows) == {"done": len(rows)}
    runs = {row["cell"]: folder / "runs" / row["run"] / "status.json" for row in rows if row["kind"] != "pretrain"}
    return {cell: json.loads(file.read_text())["results"] for cell, file in runs.items()}


def bare_python(folder: Path) -> str:
    """A Python with pip, and with PyTorch, torchvision and what these need from here."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    waiting, found = ["torch", "torchvision"], set[str]()
    while waiting:
        name = waiting.pop()
        try:
            each = distribution(name)
        except PackageNotFoundError:  # of another system
            continue
        if name in found:
            continue
        found.add(name)
        waiting += [Requirement(line).name for line in each.requires or [] if "extra ==" not in line]
        for top in {file.parts[0] for file in each.files or []} - {"..", "__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(str(each.locate_file(top)))
    return str(folder / "bin" / "python")


def hptctl(*words: str, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "hptctl", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(
    python: str, name: str, *words: object, environment: dict[str, str] | None = None, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    command = [python, str(PROGRAMS / f"{name}.py"), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done
