"""`hptctl bench`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from hpt import bench


def test_bench_says_where_the_time_of_a_step_goes(hptctl) -> None:
    size = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "1")
    figures = json.loads(hptctl("bench", "-d", "shapes@40", *size, "--json").stdout)
    assert figures["ratio_to_bare"] == pytest.approx(  # of a single repeat
        figures["bare_images_per_second"] / figures["images_per_second"], rel=1e-6
    )
    stages = figures["stages"]
    assert list(stages) == ["load", "augment", "key forward", "query forward", "backward", "update", "other"]
    assert all(stages[name] > 0 for name in stages)
    assert figures["peak_bytes"] > 2**20


class Operations(TorchDispatchMode):
    """A clock that goes on by one with each operation on tensors: the same whatever else the machine does."""

    def __init__(self) -> None:
        super().__init__()
        self.done = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.done += 1
        return func(*args, **(kwargs or {}))

    def perf_counter(self) -> float:
        return self.done

    process_time = perf_counter


def test_bench_tells_the_stages_of_moco_v3_apart(hptctl, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "1", "--set", "moco_v3.hidden=64")
    with Operations() as clock:
        monkeypatch.setattr(bench, "time", clock)
        figures = json.loads(hptctl("bench", "-d", "shapes@40", "--backbone", "test_vit", *words, "--json").stdout)
    stages = figures["stages"]
    assert all(stages[name] > 0 for name in stages if name not in ("load", "other"))
    # Each view goes through both encoders: the keys' pass is the queries' without predictor and loss.
    assert 0.7 < stages["key forward"] / stages["query forward"] < 1
    assert stages["backward"] > stages["query forward"]
    assert figures["bound"] == "the model"


def test_bench_names_the_users_images_and_what_bounds_a_step(hptctl) -> None:
    size = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "2")
    said = hptctl("bench", "-d", "shapes@40", *size).stdout  # train and val
    assert "On these 32 images, on average 64 x 64 in the cache, a step is bound by the model." in " ".join(
        said.split()
    )
