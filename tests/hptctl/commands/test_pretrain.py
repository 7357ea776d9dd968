"""`hptctl pretrain`: what it takes and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = ("--preset", "tiny", "--batch-size", "32", "--steps", "2", "--device", "cpu")


BAD = {
    "a strategy that does not exist": (
        ("-s", "htp", "-d", "digits"),
        "unknown strategy 'htp' (did you mean 'hpt'?)",
    ),
    "no step": (("-s", "target", "-d", "digits", "--steps", "0"), "steps"),
    "a folder that does not exist": (("-s", "target", "-d", "./nothing"), "nothing"),
    "weights for a random start": (("-s", "target", "-d", "digits", "-w", "x.pth"), "drop --weights"),
    "weights that do not exist": (
        ("-s", "hpt", "-d", "digits", "-w", "mocov2"),
        "there are no weights 'mocov2'",
    ),
    "an unknown field": (
        ("-s", "target", "-d", "digits", "--set", "moco.queue=9"),
        "did you mean 'moco.queue_size'?",
    ),
    "a value of the wrong kind": (("-s", "target", "-d", "digits", "--set", "moco.dim=many"), "moco.dim"),
    "hpt without weights": (("-s", "hpt", "-d", "digits", "--set", "weights=none"), "needs base weights"),
    "a negative seed": (("-s", "target", "-d", "digits", "--seed", "-1"), "seed"),
    "an unknown preset": (("-s", "target", "-d", "digits", "--preset", "papr"), "did you mean 'paper'?"),
    "a device that is not here": (("-s", "target", "-d", "digits", "--device", "cuda:77"), "cuda:77"),
    "no strategy": (("-d", "digits"), "strategy is missing"),
    "a machine without its rank": (("-s", "target", "-d", "digits", "--machines", "2"), "needs --machine-rank"),
    "processes that the machines cannot share": (
        (
            *("-s", "target", "-d", "digits", "--processes", "1", "--machines", "2", "--machine-rank", "0"),
            *("--main-address", "127.0.0.1:9"),
        ),
        "--processes 1 cannot be shared evenly by 2 machines",
    ),
    "a start of its own for machines": (
        (
            *("-s", "target", "-d", "digits", "--create-only", "--machines", "2", "--machine-rank", "0"),
            *("--main-address", "127.0.0.1:9"),
        ),
        "drop it, or --machines",
    ),
    "a wait that is no time": (("-s", "target", "-d", "digits", "--wait", "soon"), "is not a length of time"),
    "a dataset that is misspelt": (("-s", "target", "-d", "digit"), "did you mean 'digits'?"),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD.keys())
def test_bad_input_to_pretrain_is_one_line_and_leaves_nothing(arguments, hptctl, workplace: Path) -> None:
    options, expected = arguments
    done = hptctl("pretrain", "--preset", "tiny", *options, code=2)
    lines = done.stderr.strip().splitlines()
    assert expected in lines[-1], done.stderr
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (workplace / "runs").exists() or not list((workplace / "runs").iterdir())


def test_a_run_name_is_used_once(hptctl, digits_folder: Path) -> None:
    arguments = ("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--name", "one")
    hptctl(*arguments)
    assert "a run named 'one' exists already" in hptctl(*arguments, code=2).stderr


def test_a_configuration_file_lies_under_sets_and_options(hptctl, workplace: Path) -> None:
    (workplace / "my.toml").write_text('preset = "tiny"\nsteps = 7\nseed = 3\n[moco]\nqueue_size = 256\ndim = 32\n')
    done = hptctl(
        *("pretrain", "-s", "target", "-d", "digits", "--config", "my.toml"),
        *("--set", "moco.queue_size=512", "--steps", "9", "--dry-run", "--json"),
    )
    plan = json.loads(done.stdout)
    config = plan["config"]
    assert (plan["steps"], config["seed"], config["moco.queue_size"], config["moco.dim"]) == (9, 3, 512, 32)
    assert config["image_size"] == 32  # the preset's
    assert plan["estimated_seconds"] > 0
    assert not (workplace / "runs").exists()


def test_a_run_is_only_created_and_says_how_it_is_started(hptctl, workplace: Path) -> None:
    arguments = ("pretrain", "-s", "target", "-d", "digits", *TINY, "--create-only")
    said = json.loads(hptctl(*arguments, "--processes", "2", "--name", "two", "--json").stdout)
    folder = workplace / "runs/two"
    start = f"accelerate launch --multi_gpu --num_processes 2 -m hptctl.worker {folder}"
    assert said == {"name": "two", "folder": str(folder), "start": f"ACCELERATE_USE_CPU=true {start}"}
    assert json.loads((folder / "run.json").read_text())["config"]["processes"] == 2
    assert not (folder / "status.json").exists()
    one = hptctl(*arguments, "--name", "one").stdout
    assert f"start it: ACCELERATE_USE_CPU=true accelerate launch --num_processes 1 -m hptctl.worker {workplace}" in one
