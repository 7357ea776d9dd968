"""`hptctl runs list|show|sync`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

TINY = ("--preset", "tiny", "--batch-size", "32", "--steps", "2", "--device", "cpu")


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
