"""What a GPU computes is what a CPU does, as far as rounding allows. CI has none, so that these skip there.

Nothing here imports more than the library needs, since a GPU machine may have little else.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import SETTINGS
from torch import Tensor

from hpt import augment, encoder
from hpt.callbacks import Callbacks
from hpt.config import DataConfig, EvaluateConfig, PretrainConfig
from hpt.data.dataset import Dataset, load
from hpt.data.loader import raw_batch
from hpt.errors import TIME_IS_UP, Interrupted
from hpt.evaluate import evaluate
from hpt.pretrain import Outcome, pretrain
from hpt.processes import Compute, Processes, choose_device
from hpt.randomness import generator
from hpt.timing import image_seconds

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.device("cuda", 0)


@pytest.fixture(scope="module")
def dataset(gpu: torch.device) -> Dataset:
    return load("shapes@240", DataConfig(), side=DataConfig().side(32))


def config(device: torch.device, strategy: str = "target", **changes: object) -> PretrainConfig:
    values = SETTINGS | {"strategy": strategy, "weights": None if strategy == "target" else "own", "precision": "fp32"}
    return PretrainConfig.model_validate(values | {"device": str(device)} | changes)


def train(
    settings: PretrainConfig,
    dataset: Dataset,
    folder: Path,
    start: dict[str, Tensor] | None = None,
    **callbacks: object,
) -> tuple[Outcome, list[dict[str, float]]]:
    folder.mkdir(exist_ok=True)
    logged: list[dict[str, float]] = []
    told = Callbacks(log=lambda metrics, step: logged.append(metrics), **callbacks)  # type: ignore[arg-type]
    processes = Processes(1, settings.device)
    return pretrain(settings, dataset.pretraining_images(), start, folder, processes=processes, callbacks=told), logged


def test_views_are_those_of_a_cpu(gpu: torch.device, dataset: Dataset) -> None:
    images = dataset.pretraining_images()
    uniform, rows = augment.draw(48, generator(0, "view")), torch.arange(48)
    policy = config(CPU).augment

    def made(device: torch.device) -> Tensor:
        raw = raw_batch(images, rows, device)
        return augment.train_view(raw, augment.parameters(uniform, raw.sizes, policy), 32, images.mean, images.std)

    views = made(gpu)
    assert views.device.type == gpu.type
    difference = (views.cpu() - made(CPU)).abs()
    assert difference.mean() < 1e-4
    assert difference.quantile(0.999) < 0.05  # a pixel at the edge between two hues may fall to either side


@pytest.mark.parametrize("strategy", ["target", "hpt", "hpt-bn"])
def test_the_first_steps_in_fp32_are_those_of_a_cpu(
    strategy: str, gpu: torch.device, dataset: Dataset, tmp_path: Path
) -> None:
    start = encoder.build("resnet18", seed=1).state_dict() if strategy != "target" else None
    gentle = {"steps": 3, "optimizer": {"lr": 0.003}}
    losses, weights = [], []
    for device in (CPU, gpu):
        settings = config(device, strategy, **gentle)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outcome, logged = train(settings, dataset, tmp_path / device.type, start)
        losses.append([line["loss"] for line in logged])
        weights.append(load_file(outcome.backbone))
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)
    for name, value in weights[0].items():
        if value.is_floating_point():
            assert (value - weights[1][name]).abs().max() < 1e-2 * value.abs().max() + 1e-5, name


def test_bf16_is_what_a_gpu_computes_in_by_itself_and_learns_as_fp32_does(
    gpu: torch.device, dataset: Dataset, tmp_path: Path
) -> None:
    losses = {}
    for precision in ("fp32", "auto"):
        settings = config(gpu, precision=precision, steps=30, log_every=30)
        losses[precision] = train(settings, dataset, tmp_path / precision)[1][-1]["loss"]
    assert Compute.of(config(gpu, precision="auto")).bf16
    assert losses["auto"] == pytest.approx(losses["fp32"], rel=0.1)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint_on_a_cpu_too(
    gpu: torch.device, dataset: Dataset, tmp_path: Path
) -> None:
    whole = [line["loss"] for line in train(config(gpu, steps=6), dataset, tmp_path / "whole")[1]]
    for device in (gpu, CPU):
        folder = tmp_path / f"cut-{device.type}"
        calls = iter([0, 0, TIME_IS_UP])
        with pytest.raises(Interrupted, match="stopped at step 3 of 6"):
            train(config(gpu, steps=6), dataset, folder, stop=lambda seconds, calls=calls: next(calls))
        after = [line["loss"] for line in train(config(device, steps=6), dataset, folder)[1]]
        assert after == pytest.approx(whole[3:], abs=0.05)


def test_a_loop_on_a_gpu_knows_its_pace(gpu: torch.device, dataset: Dataset, tmp_path: Path) -> None:
    """Steps are queued on a GPU, and a loop that did not know of that would ask to stop too late."""
    end = time.monotonic() + 12
    settings = config(gpu, steps=10**6, log_every=20, checkpoint_every=200)
    with pytest.raises(Interrupted) as stopped:
        train(
            settings,
            dataset,
            tmp_path / "long",
            stop=lambda seconds: TIME_IS_UP if time.monotonic() + seconds > end else 0,
        )
    assert stopped.value.exit_code == 75
    assert time.monotonic() < end + 1


@pytest.mark.parametrize("kind", ["linear", "knn", "finetune"])
def test_an_evaluation_finds_what_a_cpus_does(kind: str, gpu: torch.device, dataset: Dataset, tmp_path: Path) -> None:
    state = encoder.build("resnet18", seed=1).state_dict()
    figures = []
    for device in (CPU, gpu):
        settings = EvaluateConfig.model_validate(
            {"kind": kind, "weights": "own", "dataset": "shapes", "backbone": "resnet18", "image_size": 32}
            | {"device": str(device), "precision": "fp32"}
            | {"linear": {"steps": 60, "batch_size": 64, "eval_every": 20, "views": 2, "lrs": [0.03, 0.3]}}
            | {"finetune": {"schedule": "8-steps", "batch_size": 32, "micro_batch": 32, "eval_every": 4}}
        )
        folder = tmp_path / device.type
        folder.mkdir()
        figures.append(evaluate(settings, dataset, state, folder, Callbacks()).metrics["val/top1"])
    assert figures[1] == pytest.approx(figures[0], abs=0.1)  # two of the 24 images of val


def test_a_plan_measures_a_gpu_with_as_many_images_as_it_takes_at_once(gpu: torch.device) -> None:
    training, forward = image_seconds(config(gpu, precision="auto"))
    assert 0 < forward < training < 1
    assert choose_device("auto").type == "cuda"
