"""Every verb as a process of its own: what it imports is there, and its words and exit code come out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from program import Hptctl, checked, verbs

ELSEWHERE = {
    "pretrain": "runs/test_launch.py::test_a_signal_saves_a_checkpoint_and_says_how_to_go_on",
    "evaluate knn": "runs/test_worker.py::test_what_has_nothing_to_save_is_ended_by_a_signal",
    "report": "commands/test_report.py::test_watching_waits_for_a_first_evaluation_and_writes_again_after_the_next",
}
"""Verbs that real work is done by, and the test that starts it as a process."""

HERE = {
    "demo --folder a-file": (1, "File exists"),
    "advise gone/": (2, "no such folder"),
    "compare one": (2, "one run alone"),
    "ui": (0, "the runs are tracked by a server"),
    "bench -d gone/": (2, "no such folder"),
    "doctor": (0, "on Python"),
    "evaluate linear gone": (2, "there are no weights 'gone'"),
    "evaluate finetune gone": (2, "there are no weights 'gone'"),
    "evaluate detection gone": (2, "there are no weights 'gone'"),
    "evaluate segmentation gone": (2, "there are no weights 'gone'"),
    "evaluate show gone": (2, "there is no run 'gone'"),
    "evaluate features gone -d digits --out f.npz": (2, "there are no weights 'gone'"),
    "evaluate layers gone away -d digits": (2, "there are no weights 'gone'"),
    "sweep detection gone": (2, "there are no weights 'gone'"),
    "sweep segmentation gone": (2, "there are no weights 'gone'"),
    "sweep finetune gone": (2, "there are no weights 'gone'"),
    "sweep linear gone": (2, "there are no weights 'gone'"),
    "sweep pretrain -s htp -d digits": (2, "did you mean 'hpt'"),
    "sweep retry gone": (2, "there is no run 'gone'"),
    "sweep list": (0, "no sweeps"),
    "sweep show gone": (2, "there is no run 'gone'"),
    "sweep best gone": (2, "there is no run 'gone'"),
    "sweep export gone": (2, "there is no run 'gone'"),
    "study list": (0, "paper-linear"),
    "study run gone": (2, "gone"),
    "study plan gone": (2, "gone"),
    "study status gone": (2, "gone"),
    "study retry gone": (2, "gone"),
    "runs list": (0, "no runs"),
    "runs show gone": (2, "there is no run 'gone'"),
    "runs sync": (0, ""),
    "runs export gone --out runs.tar": (2, "there is no run 'gone'"),
    "runs import gone.tar": (2, "there is no archive gone.tar"),
    "datasets list": (0, "flowers"),
    "datasets info flowers": (0, "published: train 1,020"),
    "datasets prepare flower": (2, "did you mean 'flowers'"),
    "datasets check gone/": (2, "no such folder"),
    "datasets stats gone/": (2, "no such folder"),
    "datasets preview gone/": (2, "no such folder"),
    "datasets pack gone/ out/": (2, "no such folder"),
    "datasets where": (0, "data"),
    "datasets cache list": (0, ""),
    "datasets cache prune": (0, "removed 0 entries"),
    "weights list": (0, "moco-v2-800ep"),
    "weights fetch gone": (2, "gone"),
    "weights inspect gone": (2, "there are no weights 'gone'"),
    "weights convert gone out.pth": (2, "there are no weights 'gone'"),
    "weights export gone": (2, "there are no weights 'gone'"),
}
"""Command lines that end soon, with the exit code and a part of what is said."""

FEW = {
    *("demo --folder a-file", "advise gone/", "compare one", "ui", "bench -d gone/", "doctor", "evaluate linear gone"),
    *("evaluate detection gone", "evaluate layers gone away -d digits", "sweep finetune gone", "sweep list"),
    *("study plan gone", "study list", "runs sync", "runs export gone --out runs.tar", "datasets info flowers"),
    *("datasets check gone/", "datasets pack gone/ out/", "weights list", "weights export gone"),
}
"""Those that are tried each time, some of each group of commands; the others take a second each, and are slow."""


def test_every_verb_is_run_as_a_process() -> None:
    here = {next(verb for verb in verbs() if f"{line} ".startswith(f"{verb} ")) for line in HERE}
    assert here | ELSEWHERE.keys() == verbs().keys()
    assert HERE.keys() >= FEW
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), place


WARM = """
import json, os, runpy, sys
import mlflow.store.tracking.sqlalchemy_store, mlflow.tracking, optuna, scipy.stats, torch
for line in sys.stdin:
    words, folder, out, err, environment = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, path in (1, out), (2, err):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hptctl", *words]
    runpy.run_module("hptctl", run_name="__main__", alter_sys=True)
    break
"""
"""A process that has imported the large libraries, which takes the time, and nothing of ours, and becomes `hptctl` once
a line."""


@pytest.fixture(scope="module")
def warm() -> Iterator[Hptctl]:
    """Run `hptctl` as a process of its own, forked from one that is warm."""
    starter = subprocess.Popen([sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdin is not None and starter.stdout is not None

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        assert starter.stdin is not None and starter.stdout is not None
        files = [Path("out").absolute(), Path("err").absolute()]
        starter.stdin.write(json.dumps([words, str(Path.cwd()), *map(str, files), dict(os.environ)]) + "\n")
        starter.stdin.flush()
        code = int(starter.stdout.readline())
        return subprocess.CompletedProcess(words, code, *(file.read_text(encoding="utf-8") for file in files))

    yield partial(checked, run)
    starter.communicate(timeout=60)


@pytest.mark.parametrize("line", [line if line in FEW else pytest.param(line, marks=pytest.mark.slow) for line in HERE])
def test_a_verb_says_what_it_has_to_and_ends(
    line: str, warm: Hptctl, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = HERE[line]
    monkeypatch.setenv("HPTCTL_CACHE", str(workplace / "cache"))
    if line == "ui":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://runs.example")
    Path("a-file").touch()
    done = warm(*line.split(), code=code)
    assert said in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
