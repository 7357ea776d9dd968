"""What the page says of runs whose figures are known: its verdicts, its first sentence, its caveats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hpt.statistics import NOT_SURE_BECAUSE
from hptctl.report import formats
from hptctl.report.answer import Answer, answer, lead
from hptctl.report.findings import Findings, gather
from hptctl.report.frame import tidy
from hptctl.runs.record import Facts, Tags
from hptctl.tracking import Record


def evaluated(
    strategy: str,
    figures: Sequence[float],
    *,
    val: float | None = None,
    kind: str = "linear",
    dataset: str = "d",
    images: int = 1000,
    metric: str = "top1",
    steps: int = 100,
) -> list[Record]:
    """Evaluations of a strategy, one for each seed, without predictions."""
    steps = 0 if strategy in {"base", "untrained"} else steps
    return [
        Record(
            f"{kind}-{strategy}-{steps}-{dataset}-{seed}",
            f"{kind}-{strategy}-{seed}",
            kind,
            "FINISHED",
            0.0,
            1.0,
            "e",
            "0",
            metrics={f"test/{metric}": figure, f"val/{metric}": figure if val is None else val}
            | ({f"test/{metric}_std": 0.002} if kind == "linear" else {}),
            params={"linear.reruns": "3"},
            tags=Tags(strategy=strategy, dataset=dataset, pretrain_dataset=dataset, steps=steps, pretrain_seed=seed),
            facts=Facts(metric=metric, test_images=images),
        )
        for seed, figure in enumerate(figures)
    ]


def found(*groups: list[Record]) -> Findings:
    return gather(tidy([record for group in groups for record in group]))


def only(findings: Findings) -> Answer:
    (target,) = findings.targets
    return answer(findings, target, "d")


BASE = evaluated("base", [0.70])
FLOOR = evaluated("untrained", [0.40, 0.41, 0.39])


def test_a_gain_takes_several_seeds_and_stands_above_the_floor() -> None:
    said = only(found(BASE, FLOOR, evaluated("hpt", [0.80, 0.81, 0.82])))
    assert said.verdict == "gain"
    assert said.caveats == ()
    assert lead([said]) == "Yes on d."


def test_one_seed_looks_better_and_is_told_how_many_to_run() -> None:
    said = only(found(BASE, FLOOR, evaluated("hpt", [0.90])))
    assert said.verdict == "ahead"
    assert said.caveats == ("To know, run more seeds: 2 of hpt.",)
    assert next(rival.aside for rival in said.rivals if rival.arm == "base").endswith("one seed cannot tell")
    assert lead([said]) == "It looks better on d, but one seed cannot tell."


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_evaluations_of_one_training_are_not_seeds_of_it(kind: str) -> None:
    reruns = [replace(r, source_id="the-same") for r in evaluated("hpt", [0.90, 0.905, 0.91], kind=kind)]
    reruns = [replace(r, tags=r.tags.model_copy(update={"pretrain_seed": 0, "seed": n})) for n, r in enumerate(reruns)]
    findings = found(evaluated("base", [0.70, 0.701, 0.699], kind=kind), reruns)
    (hpt,) = [result for result in findings.every if result.strategy == "hpt"]
    assert (len(hpt.run_ids), len(hpt.figures), hpt.std) == (3, 1, None)
    assert only(findings).verdict == "ahead"


def test_a_training_that_was_evaluated_twice_weighs_no_more_than_another() -> None:
    twice = [*evaluated("hpt", [0.9, 0.7]), *evaluated("hpt", [0.8])]
    twice[2] = replace(twice[2], run_id="again", tags=twice[2].tags.model_copy(update={"seed": 7}))
    findings = found(BASE, twice)
    (hpt,) = [result for result in findings.every if result.strategy == "hpt"]
    assert hpt.figures == (pytest.approx(0.85), 0.7)
    assert hpt.mean == pytest.approx(0.775)


def test_a_base_of_a_single_rerun_needs_more_of_them() -> None:
    single = [replace(each, params={"linear.reruns": "1"}) for each in BASE]
    said = only(found(single, evaluated("hpt", [0.80, 0.81, 0.82])))
    assert said.verdict == "ahead"
    assert said.caveats == ("To know, run more seeds: of the evaluation of base.",)


def test_nothing_is_a_gain_below_the_floor_and_a_base_below_it_is_said_first() -> None:
    said = only(found(BASE, evaluated("untrained", [0.90] * 3), evaluated("hpt", [0.80, 0.81, 0.82])))
    assert said.verdict == "below"
    assert lead([said]) == (
        "The base is worse than an untrained network on d: "
        "nothing can be said on d, where an untrained network does better."
    )
    assert "The base has 70.0\u00a0%, an untrained network 90.0\u00a0%" in said.caveats[0]
    between = only(found(BASE, evaluated("untrained", [0.70, 0.71, 0.72]), evaluated("hpt", [0.85, 0.85, 0.86])))
    assert (between.verdict, between.base_and_floor) == ("gain", "level")
    assert lead([between]) == "The base is no better than an untrained network on d: yes on d."


def test_a_tie_says_what_would_have_been_seen_and_a_loss_that_there_is_none() -> None:
    tie = only(found(BASE, FLOOR, evaluated("hpt", [0.701, 0.69, 0.712])))
    assert tie.verdict == "tie"
    (rival,) = [rival for rival in tie.rivals if rival.arm == "base"]
    assert rival.points == "not told apart from"
    assert "would have been seen" in rival.aside
    assert lead([tie]) == "No difference was found on d."
    assert only(found(BASE, FLOOR, evaluated("hpt", [0.50, 0.51, 0.49]))).verdict == "loss"
    assert only(found(BASE, FLOOR, evaluated("hpt", [0.50]))).verdict == "behind"


def test_val_chooses_the_strategy_and_test_has_no_say() -> None:
    lucky = evaluated("target", [0.95, 0.96, 0.94], val=0.60)
    said = only(found(BASE, FLOOR, lucky, evaluated("hpt", [0.80, 0.81, 0.82], val=0.85)))
    assert said.arm == "hpt"
    assert said.figure.text.startswith("81.0")


def test_knn_of_the_other_sign_is_said() -> None:
    near = [*evaluated("base", [0.8], kind="knn"), *evaluated("hpt", [0.7, 0.71, 0.72], kind="knn")]
    said = only(found(BASE, FLOOR, evaluated("hpt", [0.80, 0.81, 0.82]), near))
    assert said.verdict == "gain"
    assert said.caveats[0].startswith("kNN says otherwise: by it hpt is 9.0 points below base")
    same = [*evaluated("base", [0.6], kind="knn"), *evaluated("hpt", [0.7, 0.71, 0.72], kind="knn")]
    assert only(found(BASE, FLOOR, evaluated("hpt", [0.80, 0.81, 0.82]), same)).caveats == ()


def test_a_learning_rate_at_the_end_of_its_grid_is_said() -> None:
    hpt = [
        replace(each, facts=each.facts.model_copy(update={"lr_at_edge": "high"}))
        for each in evaluated("hpt", [0.80, 0.81, 0.82])
    ]
    (said,) = only(found(BASE, FLOOR, hpt)).caveats
    assert said == "The probe's best learning rate ends its grid for hpt: a wider grid may rank anew."


def test_a_metric_that_is_no_share_of_images_is_not_judged_without_predictions() -> None:
    base, hpt = evaluated("base", [0.7], metric="auroc"), evaluated("hpt", [0.9, 0.9, 0.91], metric="auroc")
    said = only(found(base, hpt))
    assert said.verdict == "unjudged"
    assert lead([said]) == "Not to be judged on d."
    assert said.caveats == (
        "Nothing tells how much of the difference is chance: the runs' predictions are not at hand.",
    )
    assert said.missing == ("target", "untrained")


def test_a_few_test_images_give_no_verdict() -> None:
    said = only(found(evaluated("base", [0.1], images=10), evaluated("hpt", [0.9, 0.9, 0.9], images=10)))
    assert said.verdict == "unjudged"
    assert said.caveats == ("10 test images tell nothing of a difference: a verdict takes 20.",)


def test_of_many_equal_comparisons_one_small_p_value_is_no_win() -> None:
    alone = only(found(BASE, evaluated("hpt", [0.745, 0.748, 0.75])))
    assert alone.verdict == "gain"
    others = [
        each
        for number in range(40)
        for strategy, figures in (("base", [0.70]), ("hpt", [0.70, 0.701, 0.699]))
        for each in evaluated(strategy, figures, dataset=f"other-{number:02d}")
    ]
    findings = found(BASE, evaluated("hpt", [0.745, 0.748, 0.75]), others)
    assert findings.verdict("d") == "not sure"
    assert findings.difference.judged == 41
    every = [answer(findings, target, target) for target in findings.targets]
    said = next(each for each in every if each.target == "d")
    assert said.rivals[0].points == "4.8 points above"
    assert said.rivals[0].aside.endswith(f"not sure: {NOT_SURE_BECAUSE}")
    (mine,) = (row for row in formats.rows(findings) if (row["dataset"], row["arm"]) == ("d", "hpt"))
    assert (mine["less_base_verdict"], mine["less_base_reason"]) == ("not sure", NOT_SURE_BECAUSE)
    assert mine["less_base_tie"] is False
    assert "not sure on d, where a difference does not hold" in lead(every)


def test_lengths_that_val_chose_among_count_as_tries() -> None:
    one = found(BASE, evaluated("hpt", [0.745, 0.748, 0.75], val=0.8))
    several = found(
        BASE,
        evaluated("hpt", [0.745, 0.748, 0.75], val=0.8),
        *(evaluated("hpt", [0.7, 0.701, 0.699], val=0.6, steps=steps) for steps in (200, 300, 400, 500, 600)),
    )
    assert (one.verdict("d"), several.verdict("d")) == ("gain", "not sure")


def test_a_backbone_of_an_undecayed_run_makes_no_speed_up() -> None:
    kept = [
        replace(r, run_id=f"kept-{r.run_id}", tags=r.tags.model_copy(update={"of_steps": 1000}))
        for r in evaluated("hpt", [0.8, 0.81, 0.82], steps=50)
    ]
    targets = [*evaluated("target", [0.6], steps=100), *evaluated("target", [0.9], steps=10_000)]
    findings = found(BASE, kept, targets, evaluated("hpt", [0.8, 0.81, 0.82], steps=1000))
    assert {each.result.steps for each in findings.faster("d")} == {1000}
    assert "hpt on the way to 1,000" in {result.arm for result in findings.every}
    assert "hpt on the way to 1,000" not in {result.arm for result in findings.shown}


def test_a_base_of_drawn_shapes_is_called_a_toy() -> None:
    def pretrained(id: str, strategy: str, dataset: str, source: str) -> Record:
        tags = Tags(strategy=strategy, dataset=dataset, steps=100, seed=0)
        return Record(id, id, "pretrain", "FINISHED", 0.0, 1.0, "e", "0", tags=tags, source_id=source)

    hpt = [replace(each, source_id="hpt") for each in evaluated("hpt", [0.8])]
    for base, toy in (("shapes", True), ("shapes@6000", True), ("shapes-of-leaves", False)):
        findings = found(BASE, hpt, [pretrained("hpt", "hpt", "d", "own"), pretrained("own", "target", base, "")])
        assert findings.toy("d") == only(findings).toy == toy
    alone = found([replace(each, source_id="own") for each in evaluated("target", [0.8])])
    assert not alone.toy("d")


@pytest.mark.parametrize("seeds", [2, 3])
def test_several_seeds_of_equal_strategies_are_not_told_apart(seeds: int) -> None:
    assert only(found(BASE, FLOOR, evaluated("hpt", [0.70, 0.705, 0.695][:seeds]))).verdict == "tie"
