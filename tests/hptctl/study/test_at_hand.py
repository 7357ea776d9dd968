"""The base of a study that takes the best at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from publisher_host import Quiet, serving

from hpt import encoder, weights
from hpt.data.fetch import Checksum
from hpt.known_weights import KNOWN
from hptctl import runs
from hptctl.study import at_hand
from hptctl.study import definition as grid

NAME = "imagenet-supervised-resnet18"
STUDY = """
datasets = ["{dataset}"]
weights = ["best-at-hand"]
preset = "tiny"
evaluations = ["knn"]
strategies = ["base"]
floor = false

[set]
device = "cpu"
batch_size = 32

[[bases]]
name = "toy"
dataset = "shapes@100"
strategy = "target"
steps = 1
"""
TOY = "this shows the tool, it says nothing about your images"


@pytest.fixture
def host(workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host of the known weights on 127.0.0.1, and the folder of its files; `mine.toml` is the study."""
    (workplace / "mine.toml").write_text(STUDY.format(dataset=digits_folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HPTCTL_CACHE", str(workplace / "cache"))
    folder = workplace / "host"
    folder.mkdir()
    file = folder / KNOWN[NAME].file_name
    weights.save(encoder.build("resnet18", seed=1).state_dict(), file, metadata={})
    checksum = Checksum("sha256", hashlib.sha256(file.read_bytes()).hexdigest())
    with serving(folder) as address:
        for name, known in KNOWN.items():
            offered = replace(known, url=f"{address}/{known.file_name}", checksum=checksum)
            monkeypatch.setitem(KNOWN, name, offered)
        yield folder


@pytest.mark.slow
def test_real_weights_are_fetched_by_a_run_and_not_by_a_plan_and_stay_the_studys_base(
    hptctl, host: Path, own: str
) -> None:
    for verb in ("plan", "status"):
        said = " ".join(hptctl("study", verb, "mine.toml").stdout.split())
        assert f"base: {NAME}, real weights that suit a CPU, which a run fetches first" in said
        assert f"run downloads first: the weights {NAME}" in said
    assert Quiet.asked == []
    assert json.loads(hptctl("study", "plan", "mine.toml", "--json").stdout)["base"]["weights"] == NAME
    said = hptctl("study", "run", "mine.toml")
    assert len(Quiet.asked) == 1
    assert f"base: {NAME}, real weights that suit a CPU, fetched for this study" in " ".join(said.stderr.split())
    assert TOY not in said.stdout
    assert json.loads(Path("runs/mine/base.json").read_text())["weights"] == NAME
    assert "1 dataset, 3 runs" in hptctl("report", "--study", "mine").stdout
    KNOWN[NAME].path.unlink()
    (host / KNOWN[NAME].file_name).unlink()
    again = hptctl("study", "status", "mine.toml").stdout
    assert f"base: {NAME}, real weights that suit a CPU, fetched for this study (--weights takes another)" in again


@pytest.mark.slow
def test_without_them_the_newest_pretraining_on_other_images_is_the_base_and_stays_it(hptctl, host: Path) -> None:
    (host / KNOWN[NAME].file_name).unlink()
    words = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--steps", "1")
    for number, folder in enumerate(("others", "more")):
        Path(folder).mkdir()
        for each, pixels in enumerate(np.random.default_rng(number).integers(0, 256, (40, 24, 24, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(f"{folder}/{each}.png")
    hptctl("pretrain", "-s", "target", "-d", "others", *words, "--name", "mine-on-others")
    hptctl("pretrain", "-s", "target", "-d", "shapes@60", *words, "--name", "a-toy")  # newer, and no base
    study = grid.load("mine.toml")
    hptctl("pretrain", "-s", "target", "-d", study.datasets[0], *words, "--name", "on-the-target")
    said = hptctl("study", "run", "mine.toml")
    notes = " ".join(said.stderr.split())
    assert f"note: {NAME} is not to be had (127.0.0.1 answered 404" in notes
    assert "base: mine-on-others, your newest pretraining on other images (others)" in notes
    assert runs.get("base-my-digits-s0").spec().source == "mine-on-others"
    hptctl("pretrain", "-s", "target", "-d", "more", *words, "--name", "newer")
    kept = at_hand.choose(study, fetch=True)
    assert kept is not None
    assert kept.weights == "mine-on-others"
    (Path("runs/mine") / "base.json").unlink()
    fresh = at_hand.choose(study, fetch=True)
    assert fresh is not None
    assert fresh.weights == "newer"  # not what the study itself has pretrained


@pytest.mark.slow
def test_with_nothing_at_hand_the_base_is_a_toy_and_the_study_says_what_that_is_worth(hptctl, host: Path) -> None:
    (host / KNOWN[NAME].file_name).unlink()
    said = hptctl("study", "run", "mine.toml")
    assert TOY in said.stdout
    assert "base: toy, a toy that the study pretrains on shapes@100" in " ".join(said.stdout.split())
    assert runs.get("base-my-digits-s0").spec().source == "toy"
    assert TOY in hptctl("study", "status", "mine.toml").stdout
    hptctl("study", "run", "mine.toml")  # and the toy of a study is no base of the user's own
    assert "3 done" in hptctl("study", "status", "mine.toml").stdout


def test_weights_that_the_user_names_are_taken_and_nothing_is_fetched(hptctl, host: Path, own: str) -> None:
    said = hptctl("study", "run", "mine.toml", "--weights", "own", "-d", "shapes@60")
    assert "base:" not in said.stderr
    assert Quiet.asked == []
    assert runs.get("base-shapes-60-s0").spec().source == "own"


def test_a_study_without_a_base_of_its_own_asks_for_one(hptctl, host: Path) -> None:
    (host / KNOWN[NAME].file_name).unlink()
    text = Path("mine.toml").read_text()
    Path("mine.toml").write_text(text[: text.index("[[bases]]")])
    assert "give --weights" in hptctl("study", "run", "mine.toml", code=2).stderr


def test_quick_takes_the_best_at_hand_with_three_seeds_and_a_control_as_long_as_toy_and_hpt() -> None:
    study = grid.load("quick", {"datasets": ["digits"]})
    real = grid.cells(at_hand.settled(study, at_hand.Choice(NAME, "")), lambda _: "resnet18")
    assert len([c for c in real if c.kind == "pretrain"]) == 4 * 3
    assert [len([c for c in real if c.kind == kind]) for kind in ("linear", "knn")] == [4 * 3 + 3] * 2
    toy = grid.cells(at_hand.settled(study, at_hand.Choice("own-base", "", toy=True)), lambda _: "resnet18")
    longer = {f"target-digits-s{seed}@500" for seed in range(3)}
    control = longer | {f"{kind}-{each}" for kind in ("linear", "knn") for each in longer}
    assert {c.id for c in toy} - {c.id for c in real} == {"own-base", *control}
