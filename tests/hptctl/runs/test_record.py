"""What a run records: declared keys, stored as text, and those of other versions of the program."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from program import Hptctl

from hpt.config import EvaluateConfig, PretrainConfig
from hpt.errors import Interrupted, RunError
from hptctl import cli, runs, tracking
from hptctl.runs.record import Facts, Status, Tags, merged, recorded
from hptctl.sweep.plan import protocol

FACTS = Facts(
    metric="top1", mean=(0.48, 0.5, 0.25), test_images=360, best_figure=0.9166667, backbone_sha256_at={50: "a"}
)
TEXT = {
    "mean": "0.4800 0.5000 0.2500",
    "backbone_sha256_at_50": "a",
    "best_figure": "0.916667",
    "metric": "top1",
    "test_images": "360",
}


def evaluation(**facts: str) -> runs.Run:
    made = runs.create(
        "knn", "mine", "", experiment="e", command="hptctl evaluate knn", config={}, tags={"dataset": "d", "seed": "3"}
    )
    made.write_status(state="finished", ended=1.0, facts=facts)
    return made


def test_facts_are_typed_in_the_program_and_text_in_the_file() -> None:
    assert FACTS.text() == TEXT
    stored = Status(facts=FACTS).model_dump_json()
    assert json.loads(stored)["facts"] == TEXT
    read = Status.model_validate_json(stored).facts
    assert (read.mean, read.test_images, read.backbone_sha256_at) == ((0.48, 0.5, 0.25), 360, {50: "a"})
    assert read.text() == TEXT


def test_the_documents_are_as_pydantic_writes_them(workplace: Path) -> None:
    made = evaluation(metric="top1", test_images="12")
    made.write_status(results={"test/top1": 0.5, "test/auroc": 1e-7})
    for file, found in (("run.json", made.spec()), ("status.json", made.status())):
        assert (made.path / file).read_text() == found.model_dump_json(indent=1)


def test_a_signal_while_a_status_is_written_is_that_signal(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = evaluation(metric="top1")

    def signalled(self: Facts) -> dict[str, str]:
        raise Interrupted(15, "stopped by SIGTERM")

    monkeypatch.setattr(Facts, "text", signalled)
    with pytest.raises(Interrupted):
        made.write_status(reason="under way")


def test_a_later_record_wins_and_what_it_lacks_stays() -> None:
    found = merged(FACTS, Facts(test_images=7, backbone_sha256_at={500: "b"}))
    assert (found.metric, found.test_images, found.backbone_sha256_at) == ("top1", 7, {50: "a", 500: "b"})


def test_a_key_that_is_not_declared_is_not_recorded() -> None:
    with pytest.raises(KeyError, match="metrik"):
        Facts.of({"metrik": "top1"})
    assert Tags.among({"dataset": "d", "mlflow.user": "me"}) == Tags(dataset="d")


def test_what_a_run_lacks_is_said_and_is_no_empty_text() -> None:
    assert recorded(FACTS.metric, "its metric") == "top1"
    with pytest.raises(RunError, match="the run has not recorded its winner"):
        recorded(FACTS.winner, "its winner")


def test_fields_of_another_version_are_kept_and_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = evaluation(metric="top1", calibration="0.02")
    for name, more in (("run.json", {"cluster": {"partition": "gpu"}}), ("status.json", {"node": "n7"})):
        file = made.path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | more))
    made.write_status(reason="touched")
    assert json.loads((made.path / "status.json").read_text())["node"] == "n7"
    assert made.status().facts.text() == {"metric": "top1", "calibration": "0.02"}
    with pytest.raises(SystemExit):
        cli.app(["runs", "show", "mine"])
    shown = capsys.readouterr().out
    assert "of another version of hptctl  cluster, node, calibration" in shown
    assert "0.02" in shown
    with pytest.raises(SystemExit):
        cli.app(["runs", "show", "mine", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["cluster"], document["node"]) == ({"partition": "gpu"}, "n7")


def test_a_kind_of_another_version_is_called_that_and_not_damage(
    workplace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = evaluation()
    file = made.path / "run.json"
    file.write_text(file.read_text().replace('"knn"', '"depth"', 1))
    with pytest.raises(RunError, match="was written by another version of hptctl: kind is 'depth'; use that version"):
        made.spec()
    file.write_text("{")
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        made.spec()
    monkeypatch.setattr(logging.getLogger("hptctl"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert runs.all_runs() == []
    assert "is damaged" in caplog.text


def test_a_configuration_that_this_version_cannot_read_is_said_field_by_field(workplace: Path, hptctl: Hptctl) -> None:
    config = {"strategy": "target", "weights": None, "dataset": "digits", "preset": "tiny"}
    made = runs.create("pretrain", "mine", "", experiment="e", command="", config=config)
    assert made.config(PretrainConfig).dataset == "digits"
    file = made.path / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config | {"image_size": 0, "colour": 1}}))
    made = runs.Run(made.path)
    with pytest.raises(RunError, match=r"run\.json is not one of this version of hptctl: image_size = 0: .*colour"):
        made.config(PretrainConfig)
    assert "image_size = 0" in " ".join(hptctl("pretrain", "--resume", "mine", code=2).stderr.split())


def test_a_sweep_of_another_version_is_named_and_the_others_listed(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = protocol(EvaluateConfig(weights="none", dataset="digits", kind="finetune", preset="tiny"))
    for name, config in (("old", {"target": "sideways"}), ("new", plan.model_dump(mode="json"))):
        runs.create("sweep", name, "", experiment="e", command="", config=config)
    with pytest.raises(SystemExit):
        cli.app(["sweep", "list", "--json"])
    said = capsys.readouterr()
    assert [sweep["name"] for sweep in json.loads(said.out)] == ["new"]
    assert "runs/old/run.json is not one of this version" in " ".join(said.err.split())


def test_a_tag_that_somebody_edited_costs_the_report_one_run(
    workplace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = evaluation(metric="top1", test_images="12")
    tracking.sync(made)
    (record,) = tracking.read_runs("e")
    assert (record.tags, record.facts) == (Tags(dataset="d", seed=3), Facts(metric="top1", test_images=12))
    MlflowClient(tracking.uri()).set_tag(record.run_id, "test_images", "a dozen")
    monkeypatch.setattr(logging.getLogger("hptctl"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        assert tracking.read_runs("e") == []
    assert "run mine of the store is left out: its tag test_images is 'a dozen'" in caplog.text
