"""Boxes and masks move with the pixels, as torchvision moves them."""

from __future__ import annotations

import numpy as np
import torch
from small_dense import scene
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from hpt.config import DetectionConfig, SegmentationConfig
from hpt.dense import views
from hpt.dense.targets import IGNORED, Boxes
from hpt.dense.views import Normalisation

PLAIN = Normalisation((0.0,) * 3, (1.0,) * 3)


def image_of(number: int) -> tuple[torch.Tensor, Boxes, np.ndarray]:
    pixels, boxes, mask = scene(number)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, boxes, mask


def test_a_detection_view_is_resized_and_flipped_with_its_boxes() -> None:
    image, boxes, _ = image_of(3)
    config = DetectionConfig(sides=(48, 80), longest=1000)
    assert views.sides_of(config) == [48, 80]
    for number, side in ((0.1, 48), (0.9, 80)):
        for flip in (0.2, 0.9):
            view, target = views.detection_view(image, boxes, (number, flip, 0, 0), config, PLAIN)
            size = [side, round(side * 128 / 96)]
            theirs = tv.resize(image, size, antialias=True)
            of = tv_tensors.BoundingBoxes(torch.from_numpy(boxes.boxes), format="XYXY", canvas_size=(96, 128))
            of = tv.resize(of, size)
            if flip < 0.5:
                theirs, of = tv.horizontal_flip(theirs), tv.horizontal_flip(of)
            torch.testing.assert_close(view, theirs)
            torch.testing.assert_close(target["boxes"], of.as_subclass(torch.Tensor), atol=1e-3, rtol=1e-3)
            assert target["labels"].tolist() == (boxes.labels + 1).tolist()


def test_the_longer_side_is_bounded_and_difficult_objects_do_not_train() -> None:
    assert views.fitted(480, 640, 800, 1333) == (800, 1067)
    assert views.fitted(400, 2000, 800, 1333) == (267, 1333)
    image, boxes, _ = image_of(3)
    hard = Boxes(boxes.boxes, boxes.labels, np.arange(len(boxes)) == 0)
    _, target = views.detection_view(image, hard, (0, 0.9, 0, 0), DetectionConfig(), PLAIN)
    assert len(target["boxes"]) == len(boxes) - 1


def test_a_segmentation_view_keeps_each_pixel_with_its_class() -> None:
    image, _, mask = image_of(5)
    config = SegmentationConfig(crop=64, scale=(1.0, 1.0))
    view, classes = views.segmentation_view(image, mask, (0.5, 0.9, 0.5, 0.25), config, PLAIN)
    top, left = 16, 16
    torch.testing.assert_close(view, image[:, top : top + 64, left : left + 64])
    assert np.array_equal(classes.numpy(), mask[top : top + 64, left : left + 64])
    flipped, turned = views.segmentation_view(image, mask, (0.5, 0.1, 0.5, 0.25), config, PLAIN)
    torch.testing.assert_close(flipped, image.flip(2)[:, top : top + 64, left : left + 64])
    assert np.array_equal(turned.numpy(), mask[:, ::-1][top : top + 64, left : left + 64])


def test_beside_a_small_image_lie_its_mean_and_ignored_pixels() -> None:
    image, _, mask = image_of(5)
    config = SegmentationConfig(crop=200, scale=(0.5, 0.5))
    norm = Normalisation((0.2, 0.3, 0.4), (0.5, 0.5, 0.5))
    view, classes = views.segmentation_view(image, mask, (0.5, 0.9, 0.9, 0.9), config, norm)
    assert view.shape == (3, 200, 200)
    assert (view[:, 48:] == 0).all() and (view[:, :, 64:] == 0).all()
    assert (classes[48:] == IGNORED).all() and (classes[:, 64:] == IGNORED).all()
    half = tv.resize(torch.from_numpy(mask)[None], [48, 64], interpolation=tv.InterpolationMode.NEAREST_EXACT)[0]
    assert np.array_equal(classes[:48, :64].numpy(), half.numpy())
