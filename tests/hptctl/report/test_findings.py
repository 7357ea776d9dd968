"""What the report makes of runs: intervals, scores, speed-ups, costs, variants and chains, recomputed."""

from __future__ import annotations

import math
import shutil
import statistics
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from scipy.stats import t
from tracked_store import Store, result

from hpt.errors import DataError, RunError
from hpt.predictions import path_of
from hptctl import runs, tracking
from hptctl.format import percent, times, unbroken
from hptctl.report import page, selection
from hptctl.report.findings import Findings, Score
from hptctl.report.selection import Selection

TEST = Selection(experiment="test")
pytestmark = pytest.mark.usefixtures("folder")


def test_without_predictions_the_binomial_law_and_the_seeds_decide(findings: Findings) -> None:
    hpt, base = result(findings, "hpt", 5000, "flowers"), result(findings, "base", 0, "flowers")
    found = findings.difference(hpt, base)
    assert not found.measured
    assert found.verdict == "win"
    images = sum(each.mean * (1 - each.mean) / 1000 for each in (hpt, base))
    seeds = [statistics.variance([0.842, 0.851, 0.846]) / 3, 0.002**2 / 3]  # base has its probe's reruns
    of_seeds = t.ppf(0.975, sum(seeds) ** 2 / sum(each**2 / 2 for each in seeds)) * math.sqrt(sum(seeds))
    assert found.high - found.points == pytest.approx(math.hypot(1.959964 * math.sqrt(images), of_seeds))


def test_predictions_that_are_gone_or_of_another_run_give_no_interval(copied: Path) -> None:
    shutil.copytree(runs.get(str(Path(selection.read(TEST).frame["folder"].iloc[0]))).path.parent, copied / "runs")
    client = MlflowClient(f"sqlite:///{copied / 'mlflow.db'}")
    for record in tracking.read_runs("test"):
        client.set_tag(record.run_id, "folder", str(copied / "runs" / record.name))
    before = selection.read(TEST)
    hpt, base = (result(before, arm, steps) for arm, steps in (("hpt-bn", 5000), ("base", 0)))
    assert before.difference(hpt, base).measured
    name = str(before.frame.loc[base.run_ids[0], "name"])
    (copied / "runs" / name / "tracking.json").unlink()
    assert not selection.read(TEST).difference(hpt, base).measured
    shutil.copy(Path(str(before.frame.loc[hpt.run_ids[0], "folder"])) / "tracking.json", copied / "runs" / name)
    assert not selection.read(TEST).difference(hpt, base).measured  # another run has come into its place
    other = str(before.frame.loc[hpt.run_ids[0], "name"])
    path_of(copied / "runs" / other, "test").unlink()
    target = result(before, "target", 100_000)
    after = selection.read(TEST)
    assert not after.difference(hpt, target).measured
    assert after.difference(result(after, "hpt from moco-v2-800ep", 5000), target).measured


def test_wins_ties_and_losses_are_counted_over_datasets(findings: Findings) -> None:
    scores = findings.scores("linear probe")
    counted = {
        c.target: findings.difference(c, result(findings, "base", 0, c.target))
        for c in findings.shown
        if c.arm == "target" and c.evaluation == "linear probe"
    }
    wins = sum(d.verdict == "win" for d in counted.values())
    losses = sum(d.verdict == "loss" for d in counted.values())
    assert scores["target", "base"] == Score(wins, len(counted) - wins - losses, losses)
    assert scores["base", "target"] == Score(losses, len(counted) - wins - losses, wins)
    assert (wins, losses) == (0, 0)  # of single seeds
    assert {d.verdict for d in counted.values()} <= {"ahead", "behind", "tie"}
    assert findings.scores("linear probe")["hpt", "base"].wins == 1


def test_the_speed_up_is_read_off_the_curve_of_target(findings: Findings) -> None:
    found = {f.result.arm: f for f in findings.faster("aerial")}
    # target has 280 of 400 right after 50,000 steps and 310 after 100,000; hpt has 304 after 5,000.
    steps = 50_000 * 2 ** ((304 - 280) / (310 - 280))
    assert found["hpt from moco-v2-800ep"].speed_up.factor == pytest.approx(steps / 5000)
    assert found["hpt from moco-v2-800ep"].speed_up.bound == ""
    over = found["hpt from hpt-flowers-5000-0"].speed_up
    assert (over.factor, over.bound) == (20, "more than")
    assert times(over.factor, over.bound) == "more than 20 ×"


@pytest.mark.slow
def test_a_deleted_evaluation_leaves_a_gap_and_a_deleted_pretraining_is_said(copied: Path) -> None:
    records = {r.name: r for r in tracking.read_runs("test")}
    client = MlflowClient(f"sqlite:///{copied / 'mlflow.db'}")
    gone = next(r for r in records.values() if r.kind == "linear" and r.source == "hpt-bn-aerial-5000-0")
    client.delete_run(gone.run_id)
    client.delete_run(records["target-aerial-100000-0"].run_id)
    out = copied / "report.html"
    page.write(out, TEST)
    findings = selection.read(TEST)
    table = next(t for t in page.build(findings).tables if t.evaluation == "linear probe")
    column = [target for target, _ in table.columns].index("aerial")
    assert next(row for row in table.rows if row.arm == "hpt-bn").figures[column] is None
    assert any("its pretraining is deleted" in c.arm for c in findings.every if c.target == "aerial")
    text = out.read_text(encoding="utf-8")
    assert gone.run_id not in text
    assert '<td class="missing">missing</td>' in text


def test_figures_on_the_page_are_those_of_the_store(findings: Findings) -> None:
    records = {r.run_id: r for r in tracking.read_runs("test")}
    for each in findings.every:
        figures = [records[id].metrics[f"test/{each.metric}"] for id in each.run_ids]
        assert each.mean == pytest.approx(statistics.fmean(figures))
        if len(figures) > 1:
            assert each.std == pytest.approx(statistics.stdev(figures))
    text = (Path("report.html")).read_text(encoding="utf-8")
    for each in findings.every:
        assert f'<a class="value" href="#run-{each.run_ids[0]}">{unbroken(percent(each.mean))}</a>' in text


def test_a_selection_brings_what_its_runs_rest_on() -> None:
    name = "hpt-aerial-5000-0"
    found = selection.read(Selection(names=(name,)))
    assert {c.target for c in found.every} == {"aerial"}
    assert set(found.frame["name"]) >= {name, f"linear-all-{name}"}
    assert "target-aerial-5000-0" not in set(found.frame["name"])

    chain = selection.read(Selection(names=("linear-all-hpt-aerial-5000-0-from-hpt-flowers-5000-0",)))
    assert "hpt-flowers-5000-0" in set(chain.frame["name"])
    assert {c.chain for c in chain.every} == {("flowers", "aerial")}

    sweep = selection.read(Selection(names=("sweep-hpt-flowers-5000-0",)))
    assert sorted(set(sweep.frame["kind"])) == ["finetune", "pretrain", "sweep"]

    only = [id for c in selection.read(Selection(datasets=("flowers",))).every for id in c.run_ids][:2]
    assert {id for c in selection.read(Selection(only=set(only))).every for id in c.run_ids} == set(only)


def test_an_unknown_run_dataset_or_experiment_is_named_with_the_nearest() -> None:
    with pytest.raises(RunError, match=r"no run 'hpt-aerial-5000-O' \(did you mean 'hpt-aerial-5000-"):
        selection.read(Selection(names=("hpt-aerial-5000-O",)))
    with pytest.raises(DataError, match=r"of a dataset 'flower' \(did you mean 'flowers'\?\)"):
        selection.read(Selection(datasets=("flower",)))
    with pytest.raises(RunError, match=r"experiment 'tests' \(did you mean 'test'\?\)"):
        selection.read(Selection(experiment="tests"))
    with pytest.raises(RunError, match=r"no finished evaluation runs in .* among the runs chosen"):
        selection.read(Selection(names=("gave-up",)))


def test_a_store_of_its_own_needs_no_folder(workplace: Path) -> None:
    store = Store()
    source = store.pretrain("base", "flowers", 0)
    store.evaluate("linear", source, "flowers", None, right=(100,))
    shutil.rmtree("runs")
    found = selection.read(Selection())
    assert [c.mean for c in found.every] == [0.25]
    assert math.isnan(found.costs[found.every[0].place].hours) or found.costs[found.every[0].place].hours >= 0
    assert page.build(found).sections[0].confusion is None
