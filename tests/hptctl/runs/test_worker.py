"""One run's work, killed and resumed, and what it refuses to work on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from PIL import Image
from program import signal_when, wait_for
from run_folders import made

from hpt.config import EvaluateConfig
from hpt.data.embedded import draw_shape
from hpt.errors import RunError
from hptctl import runs
from hptctl.runs.record import Facts, Tags
from hptctl.runs.worker import Materials, refuse_other_precision

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--set", "log_every=1")


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    lines = [line for line in logged(run) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def state(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_run_killed_and_resumed_ends_in_the_same_bits(hptctl, start, workplace: Path, digits_folder: Path) -> None:
    arguments = (
        "pretrain",
        "-s",
        "target",
        "-d",
        str(digits_folder),
        *TINY,
        "--steps",
        "12",
        "--set",
        "checkpoint_every=4",
    )
    hptctl(*arguments, "--name", "unbroken")
    process = start(*arguments, "--name", "killed")
    wait_for(workplace / "runs/killed/checkpoints/step-00000004.sha256", process)
    while len(losses(workplace / "runs/killed")) < 6:  # past the checkpoint, so that steps are done again
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (workplace / "runs/killed/backbone.safetensors").exists()
    assert "killed" in hptctl("runs", "list").stdout  # a dead process is not shown as running
    hptctl("pretrain", "--resume", "killed")
    unbroken, killed = (workplace / "runs" / name for name in ("unbroken", "killed"))
    assert (killed / "backbone.safetensors").read_bytes() == (unbroken / "backbone.safetensors").read_bytes()
    assert losses(killed) == losses(unbroken)

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{workplace / 'mlflow.db'}")
    for run in (unbroken, killed):
        run_id = json.loads((run / "tracking.json").read_text())["run_id"]
        history = client.get_metric_history(run_id, "loss")
        assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == list(enumerate(losses(run), 1))
        assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "arguments",
    [("pretrain", "-s", "base", "-w", "own"), pytest.param(("evaluate", "knn", "own"), marks=pytest.mark.slow)],
)
def test_what_has_nothing_to_save_is_ended_by_a_signal(
    arguments: tuple[str, ...], start, own: str, workplace: Path
) -> None:
    process = start(*arguments, "-d", "shapes@1500", "--name", "long")
    wait_for(workplace / "runs/long/split.json", process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert state(workplace / "runs/long")["state"] == "interrupted"


def test_test_images_that_were_pretrained_on_are_refused(hptctl, workplace: Path, digits_folder: Path) -> None:
    other_split = ("--set", "data.split_seed=1")
    hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--steps", "1", "--name", "other", *other_split)
    for weights in ("other", "runs/other/backbone.safetensors"):
        command = ("evaluate", "knn", weights, "-d", str(digits_folder), "--preset", "tiny")
        refused = hptctl(*command, "--set", "data.split_seed=0", code=2).stderr
        assert "test images" in refused
        assert "--set data.split_seed=1" in refused
    # So are the same files under other names, in a list.
    (workplace / "heap").mkdir()
    lines = ["path,label"]
    for number, path in enumerate(sorted(digits_folder.glob("*/*.png"))):
        shutil.copy(path, workplace / "heap" / f"{number:03d}.png")
        lines.append(f"heap/{number:03d}.png,{path.parent.name}")
    (workplace / "heap.csv").write_text("\n".join(lines))
    refused = hptctl("evaluate", "knn", "other", "-d", "heap.csv", "--preset", "tiny", code=2).stderr
    assert "run 'other' was pretrained on" in refused and "evaluate on others" in refused
    # The run's own split is taken over.
    assert "84 training labels, 12 val and 24 test images" in hptctl("evaluate", "knn", "other").stdout


def test_copies_of_test_images_that_were_encoded_again_and_resized_are_refused_and_may_be_allowed(
    hptctl, workplace: Path
) -> None:
    for number in range(120):
        drawn = Image.fromarray(draw_shape(number))
        for folder in ("drawn", "smaller", "others"):
            (workplace / folder / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        drawn.save(workplace / f"drawn/{number % 2}/{number}.png")
        drawn.resize((40, 40)).save(workplace / f"smaller/{number % 2}/copy of {number}.jpg", quality=70)
        Image.fromarray(draw_shape(1000 + number)).save(workplace / f"others/{number % 2}/{number}.png")
    other_split = ("--set", "data.split_seed=1")  # the same one would keep the same pictures apart
    hptctl("pretrain", "-s", "target", "-d", "smaller", *TINY, "--steps", "1", "--name", "smaller", *other_split)
    assert (workplace / "runs/smaller/pretrained-on-thumbnails.npy").stat().st_size == 128 + 96 * 256
    command = ("evaluate", "knn", "smaller", "--preset", "tiny", "--set", "data.split_seed=0", "-d")
    refused = hptctl(*command, "drawn", code=2).stderr
    found = re.search(
        r"pretrained on near copies of (\d+) of the 24 test images, encoded again or resized: .*png", refused
    )
    assert found is not None and int(found[1]) >= 12, refused  # a fifth of the copies is in its own test split
    assert "--set allow_near_copies=true" in refused
    allowed = hptctl(*command, "drawn", "--set", "allow_near_copies=true", "--name", "allowed")
    assert "near copies of" in allowed.stderr
    assert state(workplace / "runs/allowed")["facts"]["near_copies"] == found[1]
    assert "near copies" not in hptctl(*command, "others").stderr  # different images of one kind
    # Where nobody can tell, nothing is evaluated.
    its_own = {"pretrained-on-thumbnails.npy": "others", "pretrained-on.npy": "others", "split.json": "smaller"}
    for name, dataset in its_own.items():
        kept = workplace / "runs/smaller" / name
        kept.write_bytes(kept.read_bytes()[:-100])
        refused = hptctl(*command, dataset, "--set", "knn.k=3", code=2).stderr
        assert f"{name} is damaged" in refused and "pretrain again" in refused


def test_a_run_goes_on_in_the_precision_in_which_it_began(workplace: Path) -> None:
    run = runs.create("pretrain", None, "began", experiment="e", command="c", config={})
    run.write_status(facts=Facts(precision="bf16"))
    refuse_other_precision(run, Facts(precision="bf16"))
    with pytest.raises(RunError, match="began in bf16 and would go on in fp32 on this device; go on where it began"):
        refuse_other_precision(run, Facts(precision="fp32"))
    run.write_status(facts=Facts())  # a run of version 0.1
    refuse_other_precision(run, Facts(precision="fp32"))


def test_a_run_whose_images_have_changed_is_not_resumed(hptctl, workplace: Path, digits_folder: Path) -> None:
    images = workplace / "own images"
    shutil.copytree(digits_folder, images)
    arguments = ("pretrain", "-s", "target", "-d", "own images", *TINY, "--steps", "500", "--name", "changed")
    with signal_when(workplace / "runs/changed/metrics.jsonl"):
        hptctl(*arguments, code=128 + signal.SIGTERM)
    next(images.rglob("*.png")).unlink()
    assert "are not those that run 'changed' began with" in hptctl("pretrain", "--resume", "changed", code=2).stderr


def test_weights_whose_file_is_gone_are_found_by_name_and_have_to_be_the_same(workplace: Path, own: str) -> None:
    config = EvaluateConfig(kind="knn", weights="own", dataset="digits", backbone="resnet18")
    run = made("figure", tags=Tags(weights="own", weights_file="/gone/backbone.safetensors"))
    sha256 = runs.get("own").status().facts.backbone_sha256
    assert Materials().weights_of(run, config).sha256 == sha256
    run.write_status(facts=Facts(weights_sha256=sha256))
    assert Materials().weights_of(run, config).sha256 == sha256
    run.write_status(facts=Facts(weights_sha256="0" * 64))
    with pytest.raises(RunError, match=r"has other weights than run 'figure' began with .*bring those back"):
        Materials().weights_of(run, config)
