"""What `hptctl compare` sets against one another."""

from __future__ import annotations

from pathlib import Path

from known_evaluations import evaluation, scores

from hptctl import runs
from hptctl.compare import arms


def test_a_pretraining_stands_for_its_newest_evaluation_and_a_sweep_for_its_winner(workplace: Path) -> None:
    made = {}
    for name, wrong in (("hpt", 40), ("base", 60)):
        source = runs.create("pretrain", name, name, experiment="e", command="", config={}, tags={})
        source.write_status(state="finished")
        for kind in ("linear", "knn"):
            made[name, kind] = evaluation(f"{kind}-{name}", scores(wrong), kind=kind, source=source)
        evaluation(f"again-{name}", scores(wrong), kind="linear", source=source)
    sweep = runs.create("sweep", "sweep", "sweep", experiment="e", command="", config={}, tags={})
    sweep.write_status(state="finished", facts={"winner": "linear-hpt"})
    assert [arm.runs[0].name for arm in arms.arms(["hpt", "base"], "test")] == ["again-hpt", "again-base"]
    assert [arm.runs[0].name for arm in arms.arms(["hpt", "base"], "test", "knn")] == ["knn-hpt", "knn-base"]
    assert [arm.runs[0].name for arm in arms.arms(["sweep", "knn-base"], "test")] == ["linear-hpt", "knn-base"]
