"""What a pretraining looks at and keeps on its way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_moco import config
from torch import Tensor, nn

from hpt import checkpoint, encoder, milestones
from hpt.config import EvaluateConfig, PretrainConfig
from hpt.data.dataset import Dataset, load
from hpt.errors import ConfigError, Interrupted
from hpt.evaluate import evaluate
from hpt.evaluate.online import OnlineProbe
from hpt.pretrain import Outcome, pretrain
from hpt.processes import Processes

CPU = torch.device("cpu")


class Scripted:
    """A watch whose figures are known beforehand."""

    favours = "figure"

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)
        self.seen: list[Tensor] = []

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        self.seen.append(backbone.state_dict()["conv1.weight"].clone())
        return {"figure": next(self.values)}


@pytest.fixture(scope="module")
def dataset(digits_folder: Path) -> Dataset:
    settings = config()
    return load(str(digits_folder), settings.data, side=settings.data.side(32))


def run(
    settings: PretrainConfig,
    dataset: Dataset,
    folder: Path,
    watch: object = None,
    start: dict[str, Tensor] | None = None,
    stop_after: int | None = None,
) -> tuple[Outcome, list[dict[str, float]]]:
    folder.mkdir(exist_ok=True)
    logged: list[dict[str, float]] = []
    done: list[int] = []
    outcome = pretrain(
        settings,
        dataset.pretraining_images(),
        start,
        folder,
        processes=Processes(1, "cpu"),
        log=lambda metrics, step: logged.append(metrics | {"step": step}),
        progress=lambda at, *_: done.append(at),
        stop=lambda: 15 if done and stop_after is not None and done[-1] >= stop_after else 0,
        watch=watch,  # type: ignore[arg-type]
    )
    return outcome, logged


def test_looks_and_kept_backbones_change_no_bit_of_a_run(dataset: Dataset, tmp_path: Path) -> None:
    run(config(steps=4), dataset, tmp_path / "plain")
    watched = config(steps=4, probe_every=2, save_at=(1, 3))
    outcome, logged = run(watched, dataset, tmp_path / "watched", OnlineProbe(watched, dataset, CPU))
    plain, looked = (tmp_path / name / "backbone.safetensors" for name in ("plain", "watched"))
    assert plain.read_bytes() == looked.read_bytes()
    probes = [line for line in logged if "probe/knn_top1" in line]
    assert [line["step"] for line in probes] == [0, 2, 4]
    assert {"probe/alignment", "probe/uniformity", "probe/effective_rank"} < set(probes[0])
    assert len({line["probe/effective_rank"] for line in probes}) == 3
    assert outcome.results["probe/knn_top1"] == probes[-1]["probe/knn_top1"]
    assert milestones.steps_of(tmp_path / "watched") == [1, 3]


def test_a_look_finds_what_an_evaluation_of_the_backbone_finds(dataset: Dataset, tmp_path: Path) -> None:
    watched = config(steps=2, probe_every=2)
    outcome, _ = run(watched, dataset, tmp_path, OnlineProbe(watched, dataset, CPU))
    asked = EvaluateConfig(kind="knn", weights="-", dataset="-", backbone="resnet18", image_size=32, test=False)
    found = evaluate(
        asked, dataset, load_file(outcome.backbone), tmp_path, log=lambda *_: None, progress=lambda *_: None
    )
    assert outcome.results["probe/knn_top1"] == pytest.approx(found.metrics["val/top1"])


def test_a_kept_backbone_is_the_one_of_that_step(dataset: Dataset, tmp_path: Path) -> None:
    run(config(steps=4, checkpoint_every=2, save_at=(2,)), dataset, tmp_path)
    kept = load_file(milestones.path_of(tmp_path, 2))
    (saved,) = [
        torch.load(path, weights_only=True)["moco"]
        for path in (tmp_path / "checkpoints").glob("*2.pt")
        if checkpoint.steps(path.parent) == [2, 4]
    ]
    assert all(torch.equal(value, saved[f"query.backbone.{name}"]) for name, value in kept.items())


@pytest.mark.parametrize(("figures", "best"), [((0.1, 0.9, 0.9, 0.3), 1), ((0.1, 0.2, 0.3, 0.4), 3)])
def test_the_backbone_that_a_look_favours_is_kept(
    figures: tuple[float, ...], best: int, dataset: Dataset, tmp_path: Path
) -> None:
    watch = Scripted(*figures)
    outcome, _ = run(config(steps=3, probe_every=1, keep_best=True), dataset, tmp_path, watch)
    assert torch.equal(load_file(outcome.backbone)["conv1.weight"], watch.seen[best])
    assert outcome.facts["best_step"] == outcome.facts["kept_step"] == str(best)


def test_where_no_step_helps_the_base_itself_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    base = encoder.build("resnet18", seed=9).state_dict()
    base = {name: value.clone() for name, value in base.items()}
    settings = config("hpt", steps=2, probe_every=1, keep_best=True)
    outcome, _ = run(settings, dataset, tmp_path, Scripted(0.5, 0.4, 0.3), start=base)
    kept = load_file(outcome.backbone)
    assert all(torch.equal(value, base[name]) for name, value in kept.items())
    assert outcome.facts["kept_step"] == "0"


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_run_keeps_the_same_best(stop_after: int, dataset: Dataset, tmp_path: Path) -> None:
    settings = config(steps=5, probe_every=1, keep_best=True, checkpoint_every=2)
    figures = (0.1, 0.2, 0.9, 0.3, 0.4, 0.5)
    whole, _ = run(settings, dataset, tmp_path / "whole", Scripted(*figures))
    with pytest.raises(Interrupted):
        run(settings, dataset, tmp_path / "broken", Scripted(*figures), stop_after=stop_after)
    at = checkpoint.steps(tmp_path / "broken" / "checkpoints")[-1]
    resumed, logged = run(settings, dataset, tmp_path / "broken", Scripted(*figures[at + 1 :]))
    assert logged[0]["step"] == at + 1
    assert resumed.facts == whole.facts
    assert resumed.backbone.read_bytes() == whole.backbone.read_bytes()
    assert milestones.steps_of(tmp_path / "broken") == [2]


def test_without_labels_the_effective_rank_favours(
    digits_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(digits_folder.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    settings = config(steps=2, keep_best=True)
    dataset = load(str(flat), settings.data, side=settings.data.side(32))
    logging.getLogger("hpt").propagate = True
    caplog.set_level(logging.INFO, "hpt")
    watch = OnlineProbe(settings, dataset, CPU)
    assert "no kNN: flat has no labels" in caplog.text
    outcome, logged = run(settings, dataset, tmp_path / "run", watch)
    assert outcome.facts["best_by"] == "probe/effective_rank"
    looks = {line["step"]: line["probe/effective_rank"] for line in logged if "probe/effective_rank" in line}
    assert outcome.facts["best_step"] == str(max(looks, key=lambda step: looks[step]))
    assert not any("knn" in key for line in logged for key in line)


def test_steps_to_keep_are_sorted_and_lie_within_the_run() -> None:
    assert PretrainConfig.model_validate({"strategy": "hpt", "dataset": "d", "save_at": "500, 50,500"}).save_at == (
        50,
        500,
    )
    with pytest.raises(ValueError, match="save_at 9 lies beyond the run's 8 steps"):
        config(steps=8, save_at=(9,))


def test_keeping_the_best_needs_somebody_who_looks(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep_best needs"):
        run(config(steps=2, keep_best=True), dataset, tmp_path)
