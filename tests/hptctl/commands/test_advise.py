"""`hptctl advise`, as people use it: on digits, with labels and without."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program import Hptctl, checked, made_once, run_inside
from sklearn.datasets import load_digits

from hpt import encoder

TINY = ("--preset", "tiny", "--device", "cpu", "--batch-size", "32", "--steps", "2")


@pytest.fixture(scope="module")
def made(new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `scans/` (80 digits of three classes each), a base on shapes, `source`, and two adaptations
    of it to the scans, `first` and `second`."""

    def make(folder: Path) -> None:
        shutil.copy(new_store, folder)
        scans = load_digits()
        for digit in range(3):
            (folder / "scans" / str(digit)).mkdir(parents=True)
            for number, scan in enumerate(scans.images[scans.target == digit][60:140]):
                pixels = np.kron(scan * 255 / 16, np.ones((2, 2))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "scans" / str(digit) / f"{number:02d}.png")
        checked(run_inside, "pretrain", "-s", "target", "-d", "shapes@64", *TINY, "--name", "source")
        for name, strategy in (("first", "hpt"), ("second", "hpt-bn")):
            checked(run_inside, "pretrain", "-s", strategy, "-d", "scans", "-w", "source", *TINY, "--name", name)

    return made_once(tmp_path_factory, "advised", make)


@pytest.fixture
def place(workplace: Path, made: Path) -> Path:
    shutil.copytree(made, workplace, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints", "*.lock"))
    return workplace


def asked(hptctl: Hptctl, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hptctl("advise", *words, "--device", "cpu", "--json").stdout)
    return found


def test_what_was_adapted_is_found_and_measured_against_its_base_with_a_page(hptctl: Hptctl, place: Path) -> None:
    found = asked(hptctl, "scans", "--seeds", "3", "--out", "advice.html")
    assert [each["name"] for each in found["adapted"]] == ["first", "second"]
    assert found["base"]["name"] == "source"
    assert found["base"]["measured"] in ("as it is", "with BatchNorm's statistics estimated on these images")
    assert found["settings"]["seeds"] == [0, 1, 2]
    assert found["settings"]["split"] == "val"
    assert found["dataset"]["images"] == {"train": 168, "val": 24, "test": 48}
    curve = found["curve_of_the_base"]
    assert curve["labels"] == [3, 6, 15, 30, 60, 168]
    assert curve["val_images"] == 24
    for worth in found["worth"]:
        assert [rung["labels"] for rung in worth["by_labels"]] == curve["labels"]
        last = worth["by_labels"][-1]
        assert last["gain"]["value"] == pytest.approx(last["figure"]["value"] - curve["figures"][-1]["value"])
        assert worth["gain"]["low"] <= worth["gain"]["value"] <= worth["gain"]["high"]
    first = found["adapted"][0]
    assert (first["cost"]["steps"], first["cost"]["images"], first["run"]) == (2, 64, "first")
    assert first["cost"]["hours"] > 0
    assert re.fullmatch("[0-9a-f]{64}", first["sha256"])
    assert found["expected_gain"] is None
    assert found["domain_distance"]["mean"] > found["domain_distance"]["mean_of_halves"] > 0
    page = Path("advice.html").read_text()
    assert page.count("<svg") == 1
    assert first["sha256"] in page and found["dataset"]["fingerprint"] in page
    assert all(step["why"].split(":")[0].split("'")[0] in page for step in found["next"])
    assert "http" not in re.sub(r"http://www.w3.org/\S+", "", page)


def test_the_terminal_has_a_table_that_fits_and_says_what_to_do_next(hptctl: Hptctl, place: Path) -> None:
    said = hptctl("advise", "scans", "-a", "first", "--kind", "knn", "--seeds", "2", "--device", "cpu")
    assert re.search(r"^first(:| is)", said.stdout)
    assert "20 nearest neighbours on frozen features" in said.stdout
    assert "Next:\n1. " in said.stdout
    rows = [line for line in said.stdout.splitlines() if re.match(r" +\d+ +\d+\.\d %", line)]
    assert len(rows) == 6
    assert max(map(len, rows)) <= 80
    assert "test images were left alone" in said.stderr
    commands = re.findall(r"^   hptctl (\w+)", said.stdout, flags=re.MULTILINE)
    assert commands


def test_a_figure_of_all_labels_is_that_of_evaluate(hptctl: Hptctl, place: Path) -> None:
    found = asked(hptctl, "scans", "-a", "first", "--kind", "knn", "--seeds", "2")
    hptctl("evaluate", "knn", "first", "--device", "cpu", "--name", "voted")
    results = json.loads((place / "runs" / "voted" / "status.json").read_text())["results"]
    assert found["worth"][0]["by_labels"][-1]["figure"]["value"] == pytest.approx(results["val/top1"])


def test_before_any_adaptation_the_gain_is_unknown_and_the_command_that_tells_is_given(
    hptctl: Hptctl, place: Path
) -> None:
    shutil.rmtree("runs/first")
    shutil.rmtree("runs/second")
    found = asked(hptctl, "scans", "--base", "source", "--seeds", "2")
    assert found["expected_gain"] == "unknown"
    assert found["worth"] == []
    assert len(found["curve_of_the_base"]["figures"]) == 6
    commands = [command for step in found["next"] for command in step["commands"]]
    assert "hptctl pretrain -s hpt -d scans -w source --preset tiny --stop-when-worse" in commands


def test_without_labels_copies_rank_and_distance_are_told_and_no_gain(hptctl: Hptctl, place: Path) -> None:
    flat = place / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((place / "scans").rglob("*.png"))[:30]):
        shutil.copy(path, flat / f"{number}.png")
    shutil.copy(flat / "0.png", flat / "again.png")
    said = hptctl("advise", "flat", "--base", "source", "--device", "cpu", "--out", "flat.html")
    assert "expected gain: unknown: flat has no labels" in said.stdout
    assert "1 equal file" in said.stdout
    assert re.search(r"domain distance +\d\.\d\d\d standard deviations", said.stdout)
    assert "hptctl pretrain -s hpt -d flat -w source" in said.stdout
    assert "points" not in said.stdout
    page = Path("flat.html").read_text()
    assert "Unknown" in page and "<svg" not in page


def test_too_few_labels_one_class_and_no_base_are_each_a_line(hptctl: Hptctl, place: Path, digits_folder: Path) -> None:
    few = asked(hptctl, str(digits_folder), "--base", "source")
    assert few["no_curves"] == "12 labelled val images tell too little, 20 are the least"
    shutil.copytree(place / "scans" / "0", place / "one" / "zeros")
    assert asked(hptctl, "one", "--base", "source")["no_curves"] == "one has one class only"


def test_what_does_not_fit_is_refused_in_a_line(hptctl: Hptctl, place: Path, digits_folder: Path) -> None:
    assert "unknown dataset 'scan'" in hptctl("advise", "scan", code=2).stderr
    assert "did you mean 'linear'" in hptctl("advise", "scans", "--kind", "liner", code=2).stderr
    assert "did you mean 'first'" in hptctl("advise", "scans", "-a", "frist", code=2).stderr
    assert "end --out in .html" in hptctl("advise", "scans", "--out", "a.pdf", code=2).stderr
    torch.save(encoder.build("resnet34", seed=0).state_dict(), place / "larger.pth")
    larger = hptctl("advise", "scans", "-b", "source", "-a", "larger.pth", code=2).stderr
    assert "larger.pth is a resnet34, and the base source a resnet18" in larger
    assert (
        "does not say what it was adapted from; name that: --base"
        in hptctl("advise", "scans", "-a", "larger.pth", code=2).stderr
    )
    assert "started from random weights" in hptctl("advise", "scans", "-a", "source", code=2).stderr


def test_what_was_pretrained_on_test_images_is_refused(hptctl: Hptctl, place: Path) -> None:
    other = ("advise", "scans", "-a", "first", "--set", "data.split_seed=7", "--device", "cpu")
    assert re.search(r"run 'first' was pretrained on \d+ of the 48 test images", hptctl(*other, code=2).stderr)
