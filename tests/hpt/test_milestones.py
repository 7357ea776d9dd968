"""What a pretraining looks at and keeps on its way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import config as small
from small_pretraining import run
from torch import Tensor, nn

from hpt import checkpoint, encoder, kept_backbones
from hpt.data.dataset import Dataset
from hpt.data.images import Images
from hpt.errors import ConfigError, Interrupted
from hpt.evaluate.online import OnlineProbe
from hpt.pretrain import Outcome
from hpt.processes import Compute

CPU = torch.device("cpu")
config = partial(small, image_size=16)  # which bits there are, not what they mean


class Scripted:
    """A watch whose figures are known beforehand."""

    favours = "figure"

    def __init__(self, *values: float) -> None:
        self.values: Iterator[float] = iter(values)
        self.seen: list[Tensor] = []

    def __call__(self, backbone: nn.Module) -> dict[str, float]:
        self.seen.append(backbone.state_dict()["conv1.weight"].clone())
        return {"figure": next(self.values)}


@pytest.mark.slow
def test_looks_and_kept_backbones_change_no_bit_of_a_run(dataset: Dataset, images: Images, tmp_path: Path) -> None:
    run(config(steps=4), images, tmp_path / "plain")
    watched = config(steps=4, probe_every=2, save_at=(1, 3))
    outcome, logged = run(
        watched, images, tmp_path / "watched", watch=OnlineProbe(watched, dataset, Compute.of(watched, CPU))
    )
    plain, looked = (tmp_path / name / "backbone.safetensors" for name in ("plain", "watched"))
    assert plain.read_bytes() == looked.read_bytes()
    probes = [line for line in logged if "probe/knn_top1" in line]
    assert [line["step"] for line in probes] == [0, 2, 4]
    assert {"probe/alignment", "probe/uniformity", "probe/effective_rank"} < set(probes[0])
    assert len({line["probe/effective_rank"] for line in probes}) == 3
    assert outcome.results["probe/knn_top1"] == probes[-1]["probe/knn_top1"]
    assert kept_backbones.steps_of(tmp_path / "watched") == [1, 3]


def test_a_kept_backbone_is_the_one_of_that_step(images: Images, tmp_path: Path) -> None:
    run(config(steps=4, checkpoint_every=2, save_at=(2,)), images, tmp_path)
    kept = load_file(kept_backbones.path_of(tmp_path, 2))
    (saved,) = [
        torch.load(path, weights_only=True)["moco"]
        for path in (tmp_path / "checkpoints").glob("*2.pt")
        if checkpoint.steps(path.parent) == [2, 4]
    ]
    assert all(torch.equal(value, saved[f"query.backbone.{name}"]) for name, value in kept.items())


@pytest.mark.parametrize(
    ("figures", "best"), [((0.1, 0.9, 0.9, 0.3), 1), pytest.param((0.1, 0.2, 0.3, 0.4), 3, marks=pytest.mark.slow)]
)
def test_the_backbone_that_a_look_favours_is_kept(
    figures: tuple[float, ...], best: int, images: Images, tmp_path: Path
) -> None:
    watch = Scripted(*figures)
    outcome, _ = run(config(steps=3, probe_every=1, keep_best=True), images, tmp_path, watch=watch)
    assert torch.equal(load_file(outcome.backbone)["conv1.weight"], watch.seen[best])
    assert outcome.facts["best_step"] == outcome.facts["kept_step"] == str(best)


def test_where_no_step_helps_the_base_itself_is_kept(images: Images, tmp_path: Path) -> None:
    base = encoder.build("resnet18", seed=9).state_dict()
    base = {name: value.clone() for name, value in base.items()}
    settings = config("hpt", steps=2, probe_every=1, keep_best=True)
    outcome, _ = run(settings, images, tmp_path, watch=Scripted(0.5, 0.4, 0.3), start=base)
    kept = load_file(outcome.backbone)
    assert all(torch.equal(value, base[name]) for name, value in kept.items())
    assert outcome.facts["kept_step"] == "0"


KEEPING = {"steps": 5, "probe_every": 1, "keep_best": True}
FIGURES = (0.1, 0.2, 0.9, 0.3, 0.4, 0.5)


@pytest.fixture(scope="module")
def whole(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Of a run that nobody stopped."""
    return run(config(**KEEPING), images, tmp_path_factory.mktemp("whole"), watch=Scripted(*FIGURES))[0]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_run_keeps_the_same_best(stop_after: int, whole: Outcome, images: Images, tmp_path: Path) -> None:
    settings = config(**KEEPING, checkpoint_every=2)
    with pytest.raises(Interrupted):
        run(settings, images, tmp_path, watch=Scripted(*FIGURES), stop_after=stop_after)
    at = checkpoint.steps(tmp_path / "checkpoints")[-1]
    resumed, logged = run(settings, images, tmp_path, watch=Scripted(*FIGURES[at + 1 :]))
    assert logged[0]["step"] == at + 1
    assert resumed.facts == whole.facts
    assert resumed.backbone.read_bytes() == whole.backbone.read_bytes()
    assert kept_backbones.steps_of(tmp_path) == [2]


def test_keeping_the_best_needs_somebody_who_looks(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep_best needs"):
        run(config(steps=2, keep_best=True), images, tmp_path)


class Noisy(Scripted):
    """One that says how sure it is."""

    noise = 0.1


@pytest.mark.parametrize(
    ("figures", "worse_at", "kept"),
    [
        ((0.5, 0.45, 0.39, 0.9), 2, 0),  # 0.45 is within the noise, 0.39 is not, and nobody looks after it
        pytest.param((0.5, 0.6, 0.45, 0.41), None, 1, marks=pytest.mark.slow),
        ((0.5, 0.55, 0.2), 2, 1),
    ],
)
def test_a_run_stops_when_it_is_worse_than_its_base_by_more_than_the_noise(
    figures: tuple[float, ...], worse_at: int | None, kept: int, images: Images, tmp_path: Path
) -> None:
    watch = Noisy(*figures)
    settings = config(steps=3, probe_every=1, stop_when_worse=True)
    outcome, logged = run(settings, images, tmp_path, watch=watch)
    assert torch.equal(load_file(outcome.backbone)["conv1.weight"], watch.seen[kept])
    assert outcome.facts["kept_step"] == str(kept)
    assert outcome.facts.get("worse_at") == (str(worse_at) if worse_at else None)
    assert max(line["step"] for line in logged) == (worse_at or 3)
    if worse_at:
        assert (outcome.facts["base_figure"], outcome.facts["base_noise"]) == ("0.5", "0.1")
        again, _ = run(settings, images, tmp_path, watch=Noisy())  # gone on with: it stays ended
        assert again.facts == outcome.facts
        assert again.backbone.read_bytes() == outcome.backbone.read_bytes()


def test_the_noise_of_a_look_is_half_of_an_interval_over_val(dataset: Dataset, images: Images) -> None:
    settings = config(stop_when_worse=True, probe_images=40)
    watch = OnlineProbe(settings, dataset, Compute.of(settings, CPU))
    found = watch(encoder.build("resnet18", seed=0))
    share, count = found["probe/knn_top1"], len(watch.val[1])
    assert watch.noise == pytest.approx(1.96 * (share * (1 - share) / count) ** 0.5, abs=0.06)
    assert settings.probe_interval == settings.steps // 10
