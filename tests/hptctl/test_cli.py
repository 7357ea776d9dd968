from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from program import command

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


def test_debug_shows_the_traceback(hptctl) -> None:
    assert "Traceback" in hptctl("--debug", "pretrain", "-s", "htp", "-d", "digits", code=2).stderr


def test_the_module_runs_as_the_command(workplace: Path) -> None:
    done = subprocess.run(command("--version"), capture_output=True, text=True, cwd=workplace, check=True)
    assert done.stdout.startswith("hptctl ")
