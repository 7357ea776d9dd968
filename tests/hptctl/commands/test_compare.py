"""`hptctl compare` on evaluations whose outcome is known."""

from __future__ import annotations

import json
from subprocess import CompletedProcess

import numpy as np
import pytest
from known_evaluations import IMAGES, evaluation, scores
from program import Hptctl

from hpt.statistics import NOT_SURE_BECAUSE
from hptctl import runs


def document(done: CompletedProcess[str]) -> dict:
    return json.loads(done.stdout)


def test_a_model_that_is_right_on_more_images_wins_and_swapping_mirrors_the_interval(hptctl: Hptctl) -> None:
    evaluation("good", scores(40))
    evaluation("bad", scores(100, seed=1))
    said = hptctl("compare", "good", "bad")
    assert "good is better than bad on 400 test images" in said.stdout
    assert "15.0 points of top1" in said.stdout
    there, back = (
        document(hptctl("compare", *pair, "--json"))["pairs"][0] for pair in (("good", "bad"), ("bad", "good"))
    )
    assert there["verdict"] == "win"
    assert back["verdict"] == "loss"
    assert (there["low"], there["high"]) == (-back["high"], -back["low"])
    assert there["difference"] == pytest.approx(0.15)
    assert 0 < there["low"] < 0.15 < there["high"]
    assert (there["mcnemar"]["only_a"], there["mcnemar"]["only_b"]) == (60, 0)
    assert there["mcnemar"]["p_value"] == pytest.approx(2 * 0.5**60)


def test_equal_predictions_tie_at_zero_and_several_runs_make_every_pair(hptctl: Hptctl) -> None:
    for name, wrong in (("one", 40), ("same", 40), ("other", 150)):
        evaluation(name, scores(wrong))
    found = document(hptctl("compare", "one", "same", "other", "--json"))
    verdicts = {(pair["a"], pair["b"]): pair["verdict"] for pair in found["pairs"]}
    assert verdicts == {("one", "same"): "tie", ("one", "other"): "win", ("same", "other"): "win"}
    first = found["pairs"][0]
    assert (first["difference"], first["low"], first["high"], first["mcnemar"]["p_value"]) == (0, 0, 0, 1)
    said = hptctl("compare", "one", "same", "other").stdout
    assert "1/1/0" in said
    assert "0/0/2" in said
    assert max(map(len, said.splitlines())) <= 80


def test_seeds_are_pooled_as_one_model(hptctl: Hptctl) -> None:
    for seed in range(3):
        evaluation(f"a{seed}", scores(40 + seed, seed))
        evaluation(f"b{seed}", scores(100 + seed, seed))
    found = document(hptctl("compare", "a0,a1,a2", "b0,b1,b2", "--json"))
    assert [arm["runs"] for arm in found["arms"]] == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]
    assert found["arms"][0]["figures"] == pytest.approx([0.9, 0.8975, 0.895])
    assert found["pairs"][0]["difference"] == pytest.approx(0.15)


def test_of_several_pairs_the_verdicts_hold_together_and_single_seeds_are_said(hptctl: Hptctl) -> None:
    for name, wrong in (("one", 40), ("near", 49), *((f"same{n}", 40) for n in range(8))):
        evaluation(name, scores(wrong))
    alone = hptctl("compare", "one", "near")
    assert "one is better than near on 400 test images" in alone.stdout
    assert "one, near: one seed each, so this holds for these very trainings" in " ".join(alone.stderr.split())
    names = ["one", "near", *(f"same{n}" for n in range(8))]
    together = document(hptctl("compare", *names, "--json"))["pairs"]
    first = together[0]
    assert (first["verdict"], first["controlled"]) == ("not sure", False)
    assert first["reason"] == NOT_SURE_BECAUSE
    assert first["p_value"] < 0.05 < first["holm"] == pytest.approx(min(1.0, first["p_value"] * 45), abs=0.2)
    assert first["low"] > 0  # of itself alone
    said = hptctl("compare", *names)
    assert "by Holm's method, over 45 pairs" in said.stdout
    assert f"not sure: {NOT_SURE_BECAUSE}" in " ".join(said.stderr.split())


def test_few_images_and_a_single_class_are_said(hptctl: Hptctl) -> None:
    labels = np.zeros(10, dtype=np.int64)
    for name, right in (("good", 10), ("bad", 4)):
        logits = np.eye(4, dtype=np.float32)[np.where(np.arange(10) < right, 0, 1)]
        evaluation(name, logits[None], labels)
    done = hptctl("compare", "good", "bad")
    assert "Not sure whether good and bad differ on 10 test images" in done.stdout
    said = " ".join(done.stderr.split())
    assert "10 test images tell little: a verdict takes 20" in said
    assert "all test images are of one class" in said


def test_a_multi_label_set_is_compared_by_auroc_without_mcnemar(hptctl: Hptctl) -> None:
    random = np.random.default_rng(0)
    labels = (random.random((IMAGES, 4)) < 0.3).astype(np.float32)
    for name, signal in (("good", 2.0), ("weak", 0.5)):
        logits = signal * labels + random.normal(size=labels.shape)
        logits[:3, 0] = -np.inf  # a nearest-neighbour vote of none
        evaluation(name, logits.astype(np.float32)[None], labels, metric="auroc")
    (pair,) = document(hptctl("compare", "good", "weak", "--json"))["pairs"]
    assert pair["verdict"] == "win"
    assert pair["mcnemar"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one",), "one run alone"),
        (("one", "one"), "run 'one' is given twice"),
        (("one", "onf"), "there is no run 'onf' (did you mean 'one'?)"),
        (("one", "resplit"), "different splits (split seeds 0 and 1)"),
        (("one", "elsewhere"), "different images or labels"),
        (("one", "by-auroc"), "chosen by different metrics (auroc, top1)"),
        (("one", "empty"), "has no predictions on test"),
        (("one", "damaged"), "is damaged"),
        (("one", "started"), "run 'started' is not finished"),
        (("one", "same", "--metric", "balanced"), "did you mean 'balanced_accuracy'"),
        (("one", "same", "--split", "tset"), "did you mean 'test'"),
        (("one", "same", "--kind", "lineal"), "did you mean 'linear'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(
    arguments: tuple[str, ...], message: str, hptctl: Hptctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "same", "empty", "damaged"):
        evaluation(name, scores(40))
    (runs.RUNS / "empty" / "artifacts" / "predictions-test.npz").unlink()
    (runs.RUNS / "damaged" / "artifacts" / "predictions-test.npz").write_bytes(b"PK\x03\x04 cut short")
    evaluation("resplit", scores(40), split_seed=1)
    evaluation("elsewhere", scores(40), data_fingerprint="y")
    evaluation("by-auroc", scores(40), metric="auroc")
    evaluation("started", scores(40)).write_status(state="interrupted")
    monkeypatch.setenv("COLUMNS", "300")
    said = " ".join(hptctl("compare", *arguments, code=2).stderr.split())
    assert message in said
