"""`hptctl bench`."""

from __future__ import annotations

import json

import pytest


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


def test_bench_tells_the_stages_of_moco_v3_apart(hptctl) -> None:
    words = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "7", "--set", "moco_v3.hidden=64")
    figures = json.loads(hptctl("bench", "-d", "shapes@40", "--backbone", "test_vit", *words, "--json").stdout)
    stages = figures["stages"]
    assert all(stages[name] > 0 for name in stages)
    # Each view goes through both encoders: the keys' pass is the queries' without the predictor, and has no gradients.
    assert 0.2 < stages["key forward"] / stages["query forward"] < 2
    assert stages["backward"] > 0.5 * stages["query forward"]
    assert figures["bound"] == "the model"


def test_bench_names_the_users_images_and_what_bounds_a_step(hptctl) -> None:
    size = ("--preset", "tiny", "--batch-size", "16", "--steps", "1", "--repeats", "2")
    said = hptctl("bench", "-d", "shapes@40", *size).stdout  # train and val
    assert "On these 32 images, on average 64 x 64 in the cache, a step is bound by the model." in " ".join(
        said.split()
    )
