"""Passwords are nowhere to be read, and standard output is JSON alone where that was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hptctl import console, runs, tracking
from hptctl.secrets import masked, masked_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://alice:s3cret@host:80/x", "http://alice:***@host:80/x"),
        ("postgresql+psycopg://u:p%40ss@h/db?sslmode=on", "postgresql+psycopg://u:***@h/db?sslmode=on"),
        ("postgresql://u:p@ss/w:rd@h/db", "postgresql://u:***@h/db"),
        ("postgresql://h/db?user=u&password=geheim", "postgresql://h/db?user=u&password=***"),
        ("mysql://:x@h and http://b:y@h", "mysql://:***@h and http://b:***@h"),
        ("http://token@host", "http://token@host"),  # a name, as far as anybody can tell
        ("a plain sentence: nobody@example.org", "a plain sentence: nobody@example.org"),
    ],
)
def test_the_password_of_an_address_is_hidden(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_what_the_environment_keeps_secret_is_hidden_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "MLFLOW_TRACKING_TOKEN": "tok-123456",
        "PGPASSWORD": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "aws-key",
        "HPTCTL_STORAGE": "postgresql://u:p%C3%A4ss-word@h/db",
    }
    harmless = {"TOKENIZERS_PARALLELISM": "false", "PWD": os.getcwd(), "API_KEY": "abc"}  # noqa: PTH109
    for name, value in (secrets | harmless).items():
        monkeypatch.setenv(name, value)
    assert masked("tok-123456 hunter2 aws-key päss-word p%C3%A4ss-word") == " ".join(["***"] * 5)
    assert masked(f"false {harmless['PWD']} abc") == f"false {harmless['PWD']} abc"
    value = {"a": ["hunter2", 7, None, True], "b": {"c": "http://u:pw@h"}}
    assert masked_in(value) == {"a": ["***", 7, None, True], "b": {"c": "http://u:***@h"}}


def test_a_password_of_the_tracking_store_is_not_written_down(
    hptctl, own: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:s3cretpw@127.0.0.1:9")  # where nobody answers
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = hptctl("evaluate", "knn", "own", "-d", "shapes@60", "--name", "seen")
    assert "http://alice:***@127.0.0.1:9" in done.stderr
    failed = hptctl("runs", "sync", "seen", code=2)
    assert "s3cretpw" not in done.stdout + done.stderr + failed.stdout + failed.stderr
    assert tracking.place() == "http://alice:***@127.0.0.1:9"
    for file in runs.get("seen").path.rglob("*"):
        assert not file.is_file() or b"s3cretpw" not in file.read_bytes(), file


def test_a_password_on_the_command_line_is_not_recorded(hptctl, workplace: Path) -> None:
    arguments = ("-s", "target", "-d", "shapes@60", "--preset", "tiny", "--batch-size", "16", "--steps", "1")
    hptctl("pretrain", *arguments, "--name", "own", "--experiment", "http://u:geheim@h")
    assert "http://u:***@h" in runs.get("own").spec().command
    assert "geheim" not in hptctl("runs", "show", "own", "--json").stdout


def test_standard_output_is_json_alone_whatever_a_library_prints_there() -> None:
    program = (
        "import os, sys\n"
        "from hptctl import console\n"
        "console.json_alone()\n"
        "print('a library')\n"
        "os.write(1, b'a library past Python\\n')\n"
        "os.system('echo a child')\n"
        "console.say('a line')\n"
        "console.print_json({'a': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"a": 1}
    assert {"a library", "a library past Python", "a child", "a line"} <= {*done.stderr.splitlines()}


def test_a_traceback_hides_a_password() -> None:
    program = "from hptctl import secrets\nsecrets.mask_tracebacks()\nraise ValueError('http://u:geheim@h')\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ValueError: http://u:***@h" in done.stderr


def test_a_table_hides_a_password_too(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("of http://u:geheim@h", ("trial", "why"), [("0", "no answer from http://u:geheim@h")])
    shown = capsys.readouterr().out
    assert "geheim" not in shown
    assert shown.count("http://u:***@h") == 2
