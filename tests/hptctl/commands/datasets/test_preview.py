"""`hptctl datasets`: the contact sheet and the cache, on real folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program import Hptctl

from hpt import augment, preview
from hpt.config import AugmentConfig, DataConfig
from hpt.data.dataset import Dataset, load
from hpt.data.embedded import OUTLINE_NAMES, draw_shape
from hpt.data.listing import class_names
from hpt.errors import UserError
from hpt.randomness import generator
from hptctl.charts import contact_sheet
from hptctl.commands.datasets.preview import preview as show


@pytest.fixture
def folder(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of drawn shapes, 8 of each, two sizes; entered, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    for number in range(64):
        name = OUTLINE_NAMES[number % len(OUTLINE_NAMES)]
        if name in ("circle", "cross", "star"):
            path = tmp_path / "my forms" / name / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_shape(number)[: 40 + number % 2 * 20]).save(path)
    return tmp_path / "my forms"


def shown(path: Path, place: contact_sheet.SheetLayout, row: int, column: int) -> np.ndarray:
    """A tile of a sheet, at the size of its view."""
    left, top = place.at(row, column)
    with Image.open(path) as picture:
        tile = np.asarray(picture.crop((left, top, left + place.side, top + place.side)))
    assert (tile == tile[:: place.scale, :: place.scale].repeat(place.scale, 0).repeat(place.scale, 1)).all()
    return tile[:: place.scale, :: place.scale]


def eight_bits(views: torch.Tensor, dataset: Dataset) -> np.ndarray:
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (dataset.images.mean, dataset.images.std))
    return ((views * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def test_the_sheet_shows_the_views_that_augmentation_draws_for_the_seed(folder: Path, hptctl: Hptctl) -> None:
    (folder.parent / "sheet.png").write_text("what was there before")
    size = ("--image-size", "32", "--images", "5", "--views", "3", "--seed", "7", "--policy", "no-color")
    done = hptctl("datasets", "preview", str(folder), *size, "--out", "sheet.png", "--json")
    facts = json.loads(done.stdout)
    assert facts["augment"] == AugmentConfig(policy="no-color").model_dump(mode="json")
    assert facts["classes"] == ["circle", "circle", "cross", "cross", "star"]  # each before any a second time

    dataset = load(str(folder), DataConfig(), side=DataConfig().side(32))
    index = {name: i for i, name in enumerate(dataset.images.names)}
    rows = [index[name] for name in facts["images"]]
    assert set(rows) <= set(dataset.splits["train"].tolist())
    raw = dataset.images.batch(rows)

    title = (
        "my forms, train, views of 32 px, seed 7. Policy no-color: crop of 20-100 % of the area; grayscale (p=0.2); "
        "blur of sigma 0.1-2 px (p=0.5); flip (p=0.5)"
    )
    place = contact_sheet.layout(title, 5, 5, 32)
    path = Path(facts["path"])
    with Image.open(path) as picture:
        assert picture.size == place.size == (2 * 16 + 5 * 128 + 4 * 8, place.head + 5 * (128 + 36 + 8) - 8 + 16)
    norm = {"mean": dataset.images.mean, "std": dataset.images.std}
    centre = eight_bits(augment.centre_view(raw, 32, **norm), dataset)
    for number in range(3):
        uniform = augment.draw(5, generator(7, "preview", number))
        view = augment.parameters(uniform, raw.sizes, AugmentConfig(policy="no-color"))
        views = eight_bits(augment.train_view(raw, view, 32, **norm), dataset)
        for row in range(5):
            assert np.array_equal(shown(path, place, row, 2 + number), views[row])
            assert np.array_equal(shown(path, place, row, 1), centre[row])
    left, top = place.at(0, 0)  # as cached: enlarged by whole pixels in the middle of its tile
    height, width = raw.sizes[0].tolist()
    scale = 128 // max(height, width)
    top, left = top + (128 - scale * height) // 2, left + (128 - scale * width) // 2
    with Image.open(path) as picture:
        cached = np.asarray(picture)[top : top + scale * height : scale, left : left + scale * width : scale]
    assert np.array_equal(cached, raw.pixels[0, :, :height, :width].permute(1, 2, 0).numpy())


def test_the_sheet_of_multi_label_and_of_unlabelled_images_says_what_is_known(folder: Path) -> None:
    images = sorted(folder.glob("*/*.png"))
    lines = [f"my forms/{path.parent.name}/{path.name},{i % 2},{i % 3 // 2}" for i, path in enumerate(images)]
    (folder.parent / "forms.csv").write_text("path,even,third\n" + "\n".join(lines) + "\n")
    dataset = load("forms.csv", DataConfig(), side=72)
    names = [class_names(dataset, i) for i in range(4)]
    assert names == ["no class", "even", "third", "even"]
    assert len(preview.choose(dataset, "test", 99, seed=0)) == len(dataset.splits["test"])
    flat = folder / "circle"
    dataset = load(str(flat), DataConfig(), side=72)
    assert {class_names(dataset, int(i)) for i in preview.choose(dataset, "train", 4, seed=0)} == {""}
    with pytest.raises(UserError, match="circle has no test images; choose one of train"):
        preview.choose(dataset, "test", 4, seed=0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"images": 0}, "--images 0 leaves nothing to show"),
    "a negative number of views": ({"views": -1}, "--views -1 leaves nothing to show"),
    "a policy that does not exist": ({"policy": "no-colour"}, "did you mean 'no-color'?"),
    "a split that does not exist": ({"split": "vla"}, "unknown split 'vla' (did you mean 'val'?)"),
    "a view too small": ({"image_size": 2}, "image_size = 2"),
    "a folder to write to that does not exist": ({"out": Path("nowhere/x.png")}, "cannot be written to nowhere/x.png"),
    "more than a picture can hold": ({"views": 30_000}, "lower --images, --views or --image-size"),
    "a folder without images": ({"dataset": "cache"}, "no images"),
}


@pytest.mark.parametrize(("given", "expected"), BAD.values(), ids=BAD.keys())
def test_bad_input_to_preview_is_one_line_and_leaves_nothing(
    folder: Path, given: dict[str, Any], expected: str
) -> None:
    (folder.parent / "cache").mkdir()
    with pytest.raises(UserError) as caught:
        show(**({"dataset": str(folder), "image_size": 32} | given))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert list(folder.parent.rglob("*preview.png*")) == []
