"""`hptctl datasets pack`, and what is done with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Hptctl

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu")


def test_a_pack_is_shown_and_checked_as_the_folder_is(place: Path, hptctl: Hptctl, digits_folder: Path) -> None:
    said = hptctl("datasets", "pack", str(digits_folder), "pack", "--shard-size", "64KiB").stdout
    assert "pack: 120 images, in 4 shards of" in said
    folder = json.loads(hptctl("datasets", "info", str(digits_folder), "--json").stdout)
    pack = json.loads(hptctl("datasets", "info", "pack", "--json").stdout)
    for key in ("images", "classes", "per_class", "fingerprint", "split_fingerprint", "mean", "std"):
        assert pack[key] == folder[key], key
    assert "nothing leaks" in hptctl("datasets", "check", "pack/", "--near", "1").stdout
    assert "8 train images of pack" in hptctl("datasets", "preview", "pack/", "--image-size", "32").stdout
    again = json.loads(hptctl("datasets", "pack", str(digits_folder), "pack", "--shard-size", "64KiB", "--json").stdout)
    assert (again["kept"], again["images"]) == (4, {"images": 120})


@pytest.mark.slow
def test_a_pack_is_pretrained_on_in_both_ways_and_evaluated(
    workplace: Path, hptctl: Hptctl, digits_folder: Path
) -> None:
    hptctl("datasets", "pack", str(digits_folder), "pack", "--shard-size", "64KiB")
    pretrain = ("pretrain", "-s", "target", "-d", "pack", *TINY, "--steps", "2")
    done = hptctl(*pretrain, "--set", "data.stream=true", "--name", "streamed")
    assert "images are streamed in pools of 128 MiB; mean and spread of 96 images; evaluations" in done.stderr
    hptctl(*pretrain, "--name", "cached")
    facts = [json.loads((Path("runs") / name / "status.json").read_text())["facts"] for name in ("streamed", "cached")]
    assert facts[0]["data_fingerprint"] == facts[1]["data_fingerprint"]
    assert "streamed" in facts[0]
    assert "streamed" not in facts[1]
    evaluated = json.loads(hptctl("evaluate", "knn", "streamed", "--json").stdout)
    config = json.loads((Path("runs") / evaluated["name"] / "run.json").read_text())["config"]
    assert config["data"]["stream"] is False
    leak = hptctl("evaluate", "knn", "streamed", "--set", "data.split_seed=1", code=2).stderr
    assert "run 'streamed' was pretrained on" in leak


def test_what_cannot_be_packed_is_one_line(place: Path, hptctl: Hptctl, digits_folder: Path) -> None:
    Path("full").mkdir()
    (Path("full") / "thesis.tex").write_text("years")
    assert "holds other files" in hptctl("datasets", "pack", str(digits_folder), "full", code=2).stderr
    done = hptctl("datasets", "pack", str(digits_folder), "out", "--shard-size", "1", code=2)
    assert "--shard-size '1' is not a size; write 256MiB or 1GiB" in done.stderr
    done = hptctl("datasets", "pack", str(digits_folder), "https://host/out", code=2)
    assert "https://host/out cannot be written to" in done.stderr
    secret = hptctl("datasets", "pack", str(digits_folder), "s3://me:hunter22@bucket/out", code=2)
    assert "hunter22" not in secret.stderr + secret.stdout
