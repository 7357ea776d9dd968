"""The benchmarks run on small images: they are part of the project and must not rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def run(script: str, *arguments: object, out: Path) -> dict[str, Any]:
    command = [sys.executable, f"benchmarks/{script}", *map(str, arguments), "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(out.read_text())
    return document


def test_a_step_is_measured_beside_the_standard_loop_and_the_bare_steps(digits_folder: Path, tmp_path: Path) -> None:
    names = ["bare", "ready", "ours", "pillow", "standard"]
    document = run(
        "pretraining.py", digits_folder, "--image-size", 16, "--batch-size", 16, "--strategy", "hpt-bn",
        "--steps", 1, "--repeats", 1, "--only", *names, out=tmp_path / "figures.json",
    )  # fmt: skip
    assert set(document["medians"]) == set(names)
    assert min(document["medians"].values()) > 0


def test_a_step_of_moco_v3_is_measured_beside_itself_on_views_that_are_ready(
    digits_folder: Path, tmp_path: Path
) -> None:
    document = run(
        "pretraining.py", digits_folder, "--image-size", 16, "--batch-size", 16, "--backbone", "vit_tiny_patch16_224",
        "--steps", 1, "--repeats", 1, "--only", "bare", "ready", "ours", out=tmp_path / "figures.json",
    )  # fmt: skip
    assert set(document["medians"]) == {"ready", "ours"}
    assert document["left_out"] == {"bare": "the paper's step is of a plain ResNet"}


def test_a_first_run_is_measured_beside_a_bare_loop_of_the_decoder(digits_folder: Path, tmp_path: Path) -> None:
    words = (digits_folder, "--images", 60, "--repeats", 1)
    document = run("cache.py", *words, out=tmp_path / "figures.json")
    assert document["images"] == 60
    assert min(document["processor"]["bare"]) > 0


def test_heads_are_measured_beside_one(digits_folder: Path, tmp_path: Path) -> None:
    document = run(
        "probe.py", digits_folder, "--image-size", 16, "--steps", 3, "--repeats", 1, out=tmp_path / "figures.json"
    )
    assert set(document["medians"]) == {"one head", "nine heads"}


def test_verdicts_are_compared_with_the_truth(tmp_path: Path) -> None:
    figures = run("verdict.py", "--pages", 6, "--processes", 2, out=tmp_path / "figures.json")
    assert set(figures) == {"false_verdict_share", "coverage_3_seeds", "power_2_points", "pages"}
    assert figures["coverage_3_seeds"] > 0.8


def test_memory_does_not_grow_with_the_set(tmp_path: Path) -> None:
    document = run(
        "memory.py", "--gib", 0.01, 0.6, "--image-size", 16, "--batch-size", 16, "--steps", 1, "--folder", tmp_path,
        out=tmp_path / "figures.json",
    )  # fmt: skip
    small, large = document["medians"]["0.01"], document["medians"]["0.6"]
    assert large["of files"] - small["of files"] > 0.5
    assert large["anonymous"] - small["anonymous"] < 0.1


def test_pruners_are_replayed_on_recorded_curves(tmp_path: Path) -> None:
    curves = tmp_path / "curves.json"
    looks = {str(tenth): 0.05 * tenth for tenth in range(1, 11)}
    grid = [
        [lr, "10-steps", {k: v - 0.1 * i for k, v in looks.items()}, 0.5 - 0.1 * i] for i, lr in enumerate((0.001, 0.1))
    ]
    curves.write_text(json.dumps([grid, grid]))
    words = ("none.zip", "--schedule", "10-steps", "--replays", 2, "--trials", 8, "--curves", curves)
    medians = run("sweep_pruning.py", *words, out=tmp_path / "figures.json")["medians"]
    assert medians["none"]["steps"] == 80
    assert medians["halving"]["steps"] < 80
    assert {row["best val"] for row in medians.values()} == {0.5}


def test_trials_are_claimed_once_through_our_queue(tmp_path: Path) -> None:
    document = run("sweep_storage.py", "--processes", 2, "--trials", 6, out=tmp_path / "figures.json")
    for name in ("ours journal", "ours sqlite"):
        row = document["medians"][name]
        assert (row["twice"], row["never"], row["extra"]) == (0, 0, 0)


def test_near_copies_are_told_from_images_of_one_kind(digits_folder: Path, tmp_path: Path) -> None:
    words = (digits_folder, "shapes@200", "--many", 300)
    document = run("near_copies.py", *words, out=tmp_path / "figures.json")
    digits, shapes = document[digits_folder.stem], document["shapes@200"]
    assert digits["own certain"] == digits["across certain"] == shapes["across certain"] == 0
    assert shapes["JPEG q50"] > 0.9


def test_the_first_step_is_measured_stage_by_stage_beside_the_import_of_torch(
    digits_folder: Path, tmp_path: Path
) -> None:
    document = run("first_step.py", digits_folder, "--repeats", 1, out=tmp_path / "figures.json")
    parts = [found["wall"][1] for name, found in document.items() if name not in ("whole", "import torch", "beyond")]
    assert sum(parts) == pytest.approx(document["whole"]["wall"][1])
    assert min(parts) >= 0


def test_ways_of_waiting_are_measured_alone_and_beside_a_busy_process(tmp_path: Path) -> None:
    words = ("--repeats", 1, "--steps", 1, "--batch-size", 8, "--others", 1000, "--settings", "default", "2000")
    document = run("beside.py", *words, out=tmp_path / "figures.json")
    assert document["counted"] == document["turns"] == len(document["rows"]) == 4
    assert min(min(row["images_per_second"]) for row in document["rows"].values()) > 0
    assert set(document["rows"]["2000 fp32 beside"]) == {"turns", "images_per_second", "of default", "of alone"}


def test_streaming_is_measured_beside_the_cache_and_the_bare_step(tmp_path: Path) -> None:
    document = run(
        "streaming.py", "--images", 96, "--side", 60, 80, "--image-size", 16, "--batch-size", 16, "--steps", 1,
        "--repeats", 2, out=tmp_path / "figures.json",
    )  # fmt: skip
    assert set(document["images/s"]) == {"decode", "stream", "cached", "streamed", "bare"}
    assert document["shuffle"]["classes"] == 30
    document = run("streaming.py", "--members", 2000, out=tmp_path / "figures.json")
    assert document["members"] == 4000
