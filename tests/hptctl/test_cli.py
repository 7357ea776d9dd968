"""The command line as a whole."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from program import command, verbs


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


def test_every_command_shows_an_example() -> None:
    for path, verb in verbs().items():
        assert f"hptctl {path}" in (verb.help or ""), path


def test_debug_shows_the_traceback(hptctl) -> None:
    assert "Traceback" in hptctl("--debug", "pretrain", "-s", "htp", "-d", "digits", code=2).stderr


def test_the_module_runs_as_the_command(workplace: Path) -> None:
    done = subprocess.run(command("--version"), capture_output=True, text=True, cwd=workplace, check=True)
    assert done.stdout.startswith("hptctl ")


def test_signals_end_a_command_in_a_line_at_any_moment_of_its_beginning(start, workplace: Path) -> None:
    """Also a second one, while the first is being explained."""
    for delay in (0.1, 0.4, 0.8, 1.6):
        process = start("study", "plan", "quick", "-d", "shapes@200")
        time.sleep(delay)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, stderr = process.communicate(timeout=60)
        assert b"Traceback" not in stderr
        assert process.returncode in {0, 128 + signal.SIGINT, -signal.SIGINT}, (
            stderr
        )  # ended before it, or before Python ran
