"""The loop of a pretraining: what a step and a strategy change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pretraining import SETTINGS, B, config, run, views
from torch import Tensor

from hpt import augment, encoder
from hpt.data.images import Images
from hpt.data.loader import Order
from hpt.moco import MoCo
from hpt.processes import Processes
from hpt.step import Step
from hpt.views import Views


def test_groups_that_go_through_the_encoder_together_give_the_step_of_groups_one_by_one(images: Images) -> None:
    gradients, statistics, losses = [], [], []
    for micro_batch in (4, 8, 16):
        settings = config(moco=SETTINGS["moco"] | {"bn_group": 4, "micro_batch": micro_batch})
        moco = MoCo(encoder.build("resnet18", seed=0), 512, settings.moco, seed=0)
        step = Step(settings, moco, Processes(1, "cpu"))
        with Views(settings, images, [0], Processes(1, "cpu")) as views_of:
            drawn = views_of(0)
            key_views = list(drawn.key)
            assert [len(view) for view in key_views] == [micro_batch] * (B // micro_batch)
            before = [parameter.detach().clone() for parameter in step.trained]
            losses.append(step(drawn._replace(key=key_views), 0.1)[0])
        gradients.append([b - a.detach() for a, b in zip(step.trained, before, strict=True)])
        statistics.append([buffer.clone() for buffer in moco.buffers()])
    for other in (1, 2):
        torch.testing.assert_close(losses[other], losses[0])
        torch.testing.assert_close(gradients[other], gradients[0], atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(statistics[other], statistics[0], atol=1e-5, rtol=1e-4)


def test_views_are_made_in_full_precision_whatever_the_model_computes_in(images: Images) -> None:
    settings = config(precision="bf16")
    moco = MoCo(encoder.build("resnet18", seed=0), 512, settings.moco, seed=0)
    step = Step(settings, moco, Processes(1, "cpu"))
    draw = Order(len(images), B, 0).draw(0)
    expected = views(settings, images, draw.images[draw.shuffle], draw.key)
    with Views(settings, images, [0], Processes(1, "cpu")) as views_of:
        drawn = views_of(0)
        with step.compute.autocast():
            key_views = list(drawn.key)
        torch.testing.assert_close(torch.cat(key_views), expected, atol=1e-5, rtol=0)
        loss, _ = step(drawn._replace(key=key_views), 0.1)
    assert loss.isfinite()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("strategy", ["base", "target", "hpt", "hpt-bn"])
def test_a_strategy_changes_what_its_row_says_and_nothing_else(strategy: str, images: Images, tmp_path: Path) -> None:
    start = encoder.build("resnet18", seed=0 if strategy == "target" else 9).state_dict()
    start = {name: value.clone() for name, value in start.items()}
    run(config(strategy, steps=2), images, tmp_path, None if strategy == "target" else start)
    after = load_file(tmp_path / "backbone.safetensors")
    assert set(after) == set(start)
    norms = {name.rpartition(".")[0] for name in start if name.endswith("running_mean")}
    statistics = {f"{norm}.{buffer}" for norm in norms for buffer in BUFFERS}
    affine = {f"{norm}.{part}" for norm in norms for part in ("weight", "bias")}
    expected = {"base": statistics, "hpt-bn": statistics | affine, "hpt": set(start), "target": set(start)}[strategy]
    assert changed(start, after) == expected


def test_base_estimates_the_statistics_of_the_target_images(images: Images, tmp_path: Path) -> None:
    start = encoder.build("resnet18", seed=9).state_dict()
    run(config("base"), images, tmp_path, start)
    after = load_file(tmp_path / "backbone.safetensors")
    raw = images.batch(range(len(images)))
    model = encoder.build("resnet18", seed=9)
    stem = model.conv1(augment.centre_view(raw, 32, images.mean, images.std)).mean(dim=(0, 2, 3)).detach()
    torch.testing.assert_close(after["bn1.running_mean"], stem, atol=0.02, rtol=0.02)
