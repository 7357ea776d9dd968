"""Pretrainings from an S3 store on 127.0.0.1, killed without a word and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts_of_files import object_store
from program import Hptctl, wait_for

pytestmark = pytest.mark.slow
TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu", "--steps", "12", "--set", "checkpoint_every=3")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.mark.parametrize("streamed", ["true", "false"])
def test_a_run_that_was_killed_goes_on_with_the_same_bits(
    streamed: str,
    store: str,
    hptctl: Hptctl,
    start: Callable[..., subprocess.Popen[bytes]],
    digits_folder: Path,
) -> None:
    place = f"s3://bucket/{streamed}/"
    hptctl("datasets", "pack", str(digits_folder), place, "--shard-size", "64KiB")
    pretrain = ("pretrain", "-s", "target", "-d", place, *TINY, "--set", f"data.stream={streamed}")
    hptctl(*pretrain, "--name", "whole")
    process = start(*pretrain, "--name", "cut")
    wait_for(Path("runs/cut/checkpoints/step-00000006.sha256"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    hptctl("pretrain", "--resume", "cut")
    whole, cut = (json.loads((Path("runs") / name / "status.json").read_text())["facts"] for name in ("whole", "cut"))
    assert whole["backbone_sha256"] == cut["backbone_sha256"]
    assert whole["data_fingerprint"] == cut["data_fingerprint"]


def test_two_processes_stream_what_one_does(store: str, hptctl: Hptctl, digits_folder: Path) -> None:
    hptctl("datasets", "pack", str(digits_folder), "s3://bucket/two/", "--shard-size", "64KiB")
    pretrain = ("pretrain", "-s", "target", "-d", "s3://bucket/two/", *TINY, "--set", "data.stream=true")
    losses = []
    for count in ("1", "2"):
        hptctl(*pretrain, "--steps", "3", "--processes", count, "--name", f"of-{count}", "--set", "log_every=1")
        lines = (Path("runs") / f"of-{count}" / "metrics.jsonl").read_text().splitlines()
        losses.append([line["loss"] for line in map(json.loads, lines) if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
