"""One pretraining, several backbones: kept on the way, evaluated alike, drawn as a curve."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hptctl import runs, tracking
from hptctl.report.frame import tidy
from hptctl.report.results import results

TINY = ("--preset", "tiny", "--batch-size", "32", "--device", "cpu")


def test_a_pretraining_says_which_backbone_was_best_and_what_to_do_with_those_it_kept(own: str) -> None:
    assert "kNN top1 on val was best" in own
    assert "hptctl evaluate linear own --all-checkpoints" in own


@pytest.mark.slow
def test_every_kept_backbone_is_evaluated_once_and_drawn(hptctl, own: str) -> None:
    found = json.loads(hptctl("evaluate", "knn", "own", "--all-checkpoints", "--json").stdout)
    assert [point["step"] for point in found["points"]] == [1, 2, 4]
    assert [point["name"] for point in found["points"]] == ["knn-own-step-1", "knn-own-step-2", "knn-own"]
    assert len({point["facts"]["weights_sha256"] for point in found["points"]}) == 3
    svg = ElementTree.parse(found["figure"]).getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in Path(found["figure"]).read_text()
    assert "on its way" in Path(found["figure"]).read_text()  # a line of its own

    alone = json.loads(hptctl("evaluate", "knn", "own@2", "--name", "alone", "--json").stdout)
    assert alone["results"] == found["points"][1]["results"]

    before = {run.name for run in runs.all_runs()}
    again = hptctl("evaluate", "knn", "own", "--all-checkpoints")
    assert {run.name for run in runs.all_runs()} == before
    assert "val is best after" in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 80

    drawn = {cell.steps: cell for cell in results(tidy(tracking.read_runs()))}
    # The report draws those from the way as one line, and the last, whose learning rate decayed, apart.
    assert {steps: cell.arm for steps, cell in drawn.items()} == {
        **dict.fromkeys((1, 2), "target on the way to 4"),
        4: "target",
    }
    assert [cell.published for _, cell in sorted(drawn.items())] == [False, False, True]
    assert drawn[2].mean == pytest.approx(found["points"][1]["results"]["test/top1"])


@pytest.mark.slow
def test_a_backbone_kept_on_the_way_is_guarded_as_its_run_is(hptctl, own: str, digits_folder: Path) -> None:
    for weights in ("own@1", "runs/own/backbones/step-1.safetensors"):
        refused = hptctl(
            "evaluate", "knn", weights, "--set", "data.split_seed=1", "-d", str(digits_folder), code=2
        ).stderr
        assert "run 'own' was pretrained on" in refused
    hptctl(
        "pretrain", "-s", "hpt", "-d", str(digits_folder), *TINY, "--steps", "1", "--weights", "own@1", "--name", "on"
    )
    assert runs.get("on").spec().source == "own"
    refused = hptctl("evaluate", "knn", "own@3", code=2).stderr
    assert "run 'own' kept no backbone after 3 steps; it has those after 1, 2" in refused
    assert "kept no backbones on its way" in hptctl("evaluate", "knn", "on", "--all-checkpoints", code=2).stderr
    assert "drop one" in hptctl("evaluate", "knn", "own", "--all-checkpoints", "--name", "x", code=2).stderr
