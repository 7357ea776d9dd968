"""Which runs are one arm, and which of them count."""

from __future__ import annotations

from pathlib import Path

import pytest
from tracked_store import T0

from hptctl import tracking
from hptctl.report.frame import tidy
from hptctl.report.results import at_best_length, published, results
from hptctl.runs.record import Facts, Tags


def test_backbones_that_were_kept_on_the_way_of_a_longer_run_are_an_arm_of_their_own() -> None:
    def record(id: str, steps: int, of: int | None) -> tracking.Record:
        tags = Tags(strategy="hpt", dataset="d", steps=steps, of_steps=of)
        metrics = {"test/top1": 0.5, "val/top1": 0.5}
        return tracking.Record(
            id, id, "linear", "FINISHED", 0.0, 1.0, "e", "0", metrics=metrics, tags=tags, facts=Facts(metric="top1")
        )

    short, cut, whole = record("a", 50, None), record("b", 50, 5000), record("c", 5000, None)
    found = {cell.run_ids[0]: cell for cell in results(tidy([short, cut, whole]))}
    assert {id: (cell.arm, cell.published) for id, cell in found.items()} == {
        "a": ("hpt", True),
        "b": ("hpt on the way to 5,000", False),
        "c": ("hpt", True),
    }
    (at_the_end,) = results(tidy([record("d", 5000, 5000)]))
    assert (at_the_end.arm, at_the_end.published) == ("hpt", True)
    assert {cell.arm for cell in published(list(found.values()))} == {"hpt"}
    assert {cell.arm for cell in published([found["b"]])} == {"hpt on the way to 5,000"}  # marked, where it is all


def test_the_length_of_pretraining_is_chosen_on_val_not_on_test(folder: Path) -> None:
    found = results(tidy(tracking.read_runs("test")))
    hpt = [c for c in found if (c.target, c.evaluation, c.arm) == ("flowers", "linear probe", "hpt")]
    assert max(hpt, key=lambda c: c.mean).steps == 50000
    assert [c.steps for c in at_best_length(hpt)] == [5000]


def test_a_backbone_of_another_dataset_never_counts_as_the_strategy_target(folder: Path) -> None:
    found = {c.arm: c for c in results(tidy(tracking.read_runs("test"))) if c.target == "flowers"}
    assert found["target on tiny_imagenet"].mean == pytest.approx(0.655)
    assert not found["target on tiny_imagenet"].own


def test_two_folders_of_one_name_are_two_datasets() -> None:
    def record(id: str, strategy: str, test: float, images: str) -> tracking.Record:
        return tracking.Record(
            id, id, "linear", "FINISHED", T0, T0 + 1, "e", "0", metrics={"test/top1": test, "val/top1": test},
            tags=Tags(strategy=strategy, dataset="images"), facts=Facts(metric="top1", data_fingerprint=images),
        )  # fmt: skip

    clinics = [record("a", "hpt", 0.9, "aaaaaa"), record("b", "hpt", 0.5, "bbbbbb"), record("c", "base", 0.4, "bbbbbb")]
    found = {(c.target, c.arm): c.mean for c in results(tidy(clinics))}
    assert found == {("images #aaa", "hpt"): 0.9, ("images #bbb", "hpt"): 0.5, ("images #bbb", "base"): 0.4}


def test_runs_of_other_image_sizes_or_other_base_weights_do_not_share_a_figure() -> None:
    def record(id: str, kind: str, size: int = 64, source_id: str = "", weights: str | None = None) -> tracking.Record:
        return tracking.Record(
            id, id, kind, "FINISHED", T0, T0 + 1, "e", "0",
            params={"backbone": "resnet18", "image_size": str(size)},
            metrics={"test/top1": 0.5, "val/top1": 0.5}, source_id=source_id, facts=Facts(metric="top1"),
            tags=Tags(strategy="hpt", dataset="d", pretrain_dataset="d", weights=weights),
        )  # fmt: skip

    # No file of the store is involved: records are what tracking hands over.
    one, other = (record(w, "pretrain", weights=w) for w in ("moco-v2-800ep", "imagenet-supervised"))
    found = results(
        tidy(
            [
                one,
                other,
                record("a", "linear", source_id=one.run_id),
                record("b", "linear", source_id=other.run_id),
                record("c", "linear", size=224, source_id=one.run_id),
            ]
        )
    )
    assert {(c.target, c.arm) for c in found} == {
        ("d · resnet18, 64 px", "hpt from moco-v2-800ep"),
        ("d · resnet18, 64 px", "hpt from imagenet-supervised"),
        ("d · resnet18, 224 px", "hpt"),
    }


def test_a_policy_of_the_robustness_study_is_an_arm_of_its_own() -> None:
    def record(id: str, kind: str, top1: float, params: dict[str, str], source_id: str = "") -> tracking.Record:
        return tracking.Record(
            id, id, kind, "FINISHED", T0, T0 + 1, "e", "0",
            params={"backbone": "resnet18", "image_size": "64"} | params,
            metrics={"test/top1": top1, "val/top1": top1}, source_id=source_id, facts=Facts(metric="top1"),
            tags=Tags(strategy="hpt", dataset="d", pretrain_dataset="d"),
        )  # fmt: skip

    policies = {"baseline": 0.7, "crop-only": 0.4}
    pretrained = [record(name, "pretrain", 0, {"augment.policy": name}) for name in policies]
    probes = [record(f"probe {name}", "linear", top1, {}, source_id=name) for name, top1 in policies.items()]
    found = {c.arm: c.mean for c in results(tidy([*pretrained, *probes]))}
    assert found == {"hpt": 0.7, "hpt crop-only": 0.4}


def test_weights_as_they_are_stand_beside_what_was_pretrained_and_say_what_differs() -> None:
    def record(id: str, strategy: str, backbone: str, size: int, weights: str = "w") -> tracking.Record:
        return tracking.Record(
            id, id, "knn", "FINISHED", T0, T0 + 1, "e", "0",
            tags=Tags(strategy=strategy, dataset="d", pretrain_dataset="d"),
            facts=Facts(metric="top1"),
            metrics={"test/top1": 0.5, "val/top1": 0.5},
            params={"weights": weights, "backbone": backbone, "image_size": str(size)},
        )  # fmt: skip

    hpt = record("hpt", "hpt", "resnet18", 32)
    same = record("same", "weights", "resnet18", 32, "/there/supervised.pth")
    vit = record("vit", "weights", "vit_tiny_patch16_224", 32, "hub/own/model.safetensors")
    large = record("large", "weights", "resnet26d", 224, "timm:resnet26d.bt_in1k")
    rows = tidy([hpt, same, vit, large]).set_index("run_id")
    assert set(rows["target"]) == {"d"}
    near = tidy([record("host", "hpt", "resnet18", 132), same]).set_index("run_id")
    assert near["arm"]["same"] == "weights supervised.pth, 32 px"
    assert rows["arm"].to_dict() == {
        "hpt": "hpt",
        "same": "weights supervised.pth",
        "vit": "weights own, vit_tiny_patch16_224",
        "large": "weights timm:resnet26d.bt_in1k, 224 px",
    }
    rows = tidy([hpt, record("other", "hpt", "resnet50", 224), same, vit]).set_index("run_id")
    assert rows["target"].to_dict() == {
        "hpt": "d · resnet18, 32 px",
        "other": "d · resnet50, 224 px",
        "same": "d · resnet18, 32 px",
        "vit": "d · vit_tiny_patch16_224, 32 px",
    }
