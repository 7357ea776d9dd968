"""The rows of the robustness study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hpt import augment
from hpt.config import POLICIES, AugmentConfig, Policy, PretrainConfig, resolve
from hpt.data.cache import RawBatch
from hpt.data.embedded import draw_shape
from hpt.errors import ConfigError
from hpt.randomness import generator
from hptctl.commands.pretrain import pretrain

NORM = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
#                jitter, grayscale, blur, flip
PROBABILITIES = {
    "baseline": (0.8, 0.2, 0.5, 0.5),
    "no-grayscale": (0.8, 0.0, 0.5, 0.5),
    "no-color": (0.0, 0.2, 0.5, 0.5),
    "crop-blur": (0.0, 0.0, 0.5, 0.0),
    "crop-only": (0.0, 0.0, 0.0, 0.0),
}


def resolved(*sets: str, file: Path | None = None, **flags: Any) -> PretrainConfig:
    return resolve(PretrainConfig, file=file, sets=sets, flags={"strategy": "target", "dataset": "digits"} | flags)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_resolved_to_its_numbers_and_leaves_the_others_alone(policy: Policy) -> None:
    config = resolved(augment={"policy": policy})
    found = config.augment
    assert (found.jitter_p, found.grayscale_p, found.blur_p, found.flip_p) == PROBABILITIES[policy]
    probabilities = {"policy", "jitter_p", "grayscale_p", "blur_p", "flip_p"}
    assert found.model_dump(exclude=probabilities) == AugmentConfig().model_dump(exclude=probabilities)
    assert AugmentConfig(policy=policy) == found == resolved(f"augment.policy={policy}").augment
    assert PretrainConfig.model_validate(config.model_dump(mode="json")) == config  # as run.json holds it


def test_a_field_that_is_set_wins_over_the_policy_in_any_layer(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[augment]\npolicy = "crop-blur"\nflip_p = 0.25\n')
    file = resolved(file=tmp_path / "my.toml").augment
    assert (file.policy, file.flip_p, file.jitter_p) == ("crop-blur", 0.25, 0.0)
    both = resolved("augment.grayscale_p=0.1", file=tmp_path / "my.toml", augment={"policy": "crop-only"}).augment
    assert (both.policy, both.flip_p, both.grayscale_p, both.blur_p) == ("crop-only", 0.25, 0.1, 0.0)
    assert both.in_words() == "crop of 20-100 % of the area; grayscale (p=0.1); flip (p=0.25)"


def test_an_unknown_policy_gets_a_suggestion_and_a_resumed_run_takes_none() -> None:
    with pytest.raises(ConfigError, match=r"unknown augment.policy 'croponly' \(did you mean 'crop-only'\?\)"):
        resolved(augment={"policy": "croponly"})
    with pytest.raises(ConfigError, match="--policy was given; drop --policy"):
        pretrain(resume="my-base", policy="crop-only")


def shapes(n: int) -> RawBatch:
    return RawBatch(
        torch.stack([torch.from_numpy(draw_shape(i)).permute(2, 0, 1) for i in range(n)]), torch.tensor([[64, 64]] * n)
    )


def views(policy: Policy, raw: RawBatch) -> tuple[augment.View, torch.Tensor]:
    view = augment.parameters(
        augment.draw(len(raw.sizes), generator(5, "test")), raw.sizes, AugmentConfig(policy=policy)
    )
    return view, augment.train_view(raw, view, 24, **NORM)


def test_crop_only_crops_and_does_nothing_else_with_the_boxes_of_the_baseline() -> None:
    raw = shapes(32)
    view, shown = views("crop-only", raw)
    assert torch.equal(view.box, views("baseline", raw)[0].box)
    mean, std = (torch.tensor(NORM[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(shown, (augment.crop(raw, view.box, None, 24) - mean) / std)


def test_the_other_policies_differ_from_it_in_exactly_what_they_keep() -> None:
    raw = shapes(200)
    kept = {
        policy: [bool(rows.any()) for rows in (view.jitter, view.grayscale, view.sigma > 0, view.flip)]
        for policy, view in ((policy, views(policy, raw)[0]) for policy in POLICIES)
    }
    assert kept == {policy: [p > 0 for p in row] for policy, row in PROBABILITIES.items()}
    blurred, shown = views("crop-blur", raw)
    sharp = blurred.sigma == 0
    torch.testing.assert_close(shown[sharp], views("crop-only", raw)[1][sharp])
