from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command

TINY = ("--preset", "tiny", "--batch-size", "32", "--steps", "2", "--device", "cpu")


def test_the_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['hptctl', '--help']\n"
        "from hptctl.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'torchvision', 'mlflow', 'optuna', 'pandas', 'accelerate', 'sklearn', 'matplotlib'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout
    assert "pretrain" in done.stdout


def test_the_version_is_the_packages(hptctl) -> None:
    from importlib.metadata import version

    assert hptctl("--version").stdout.strip() == f"hptctl {version('hptctl')}"


def all_commands() -> list[tuple[str, ...]]:
    from typer.main import get_command

    from hptctl.cli import app

    found: list[tuple[str, ...]] = []

    def walk(group: object, path: tuple[str, ...]) -> None:
        for name, inner in group.commands.items():  # type: ignore[attr-defined]
            if hasattr(inner, "commands"):
                walk(inner, (*path, name))
            else:
                found.append((*path, name))

    walk(get_command(app), ())
    return found


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_command_shows_an_example(path: tuple[str, ...]) -> None:
    from typer.main import get_command

    from hptctl.cli import app

    command = get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert f"hptctl {' '.join(path)}" in (command.help or "")


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


def test_debug_shows_the_traceback(hptctl) -> None:
    assert "Traceback" in hptctl("--debug", "pretrain", "-s", "htp", "-d", "digits", code=2).stderr


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


def test_a_tracking_store_that_is_away_costs_a_warning_and_sync_brings_the_rest(
    hptctl, workplace: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/no-such-folder/mlflow.db")
    done = hptctl("pretrain", "-s", "target", "-d", str(digits_folder), *TINY, "--name", "offline")
    assert done.stderr.count("the run goes on") == 1
    assert (workplace / "runs/offline/backbone.safetensors").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "values sent" in hptctl("runs", "sync").stdout
    assert "nothing was missing" in hptctl("runs", "sync").stdout
    shown = json.loads(hptctl("runs", "show", "offline", "--json").stdout)
    assert len(shown["mlflow_run_id"]) == 32
    assert "offline" in hptctl("runs", "show", shown["mlflow_run_id"]).stdout


def test_the_module_runs_as_the_command(workplace: Path) -> None:
    done = subprocess.run(command("--version"), capture_output=True, text=True, cwd=workplace, check=True)
    assert done.stdout.startswith("hptctl ")


def test_bench_says_where_the_time_of_a_step_goes(hptctl) -> None:
    size = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "1")
    figures = json.loads(hptctl("bench", "-d", "shapes@40", *size, "--json").stdout)
    assert figures["ratio_to_bare"] == pytest.approx(
        figures["bare_images_per_second"] / figures["images_per_second"], rel=1e-6
    )
    stages = figures["stages"]
    assert list(stages) == ["load", "augment", "key forward", "query forward", "backward", "update", "other"]
    assert all(stages[name] > 0 for name in stages)
    assert figures["peak_bytes"] > 2**20


def test_doctor_finds_this_machine_well(hptctl) -> None:
    checks = {row["check"]: row for row in json.loads(hptctl("doctor", "--json").stdout)}
    assert checks["tracking"]["ok"]
    assert "torch" in checks["packages"]["found"]
