from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from torchvision.transforms import v2

from hpt import augment
from hpt.config import POLICIES, AugmentConfig, Policy
from hpt.data import images as image_batches
from hpt.data.embedded import draw_shape
from hpt.data.images import PackedPixels, RawBatch
from hpt.data.raw import Colours
from hpt.randomness import generator
from hpt.resample import resample

NORM = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def raw_images(n: int, height: int, width: int, seed: int = 0) -> RawBatch:
    """Noise and gradients, so that every frequency is there."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (n, 3, height, width), generator=random)
    ramp = torch.linspace(0, 255, width).expand(n, 3, height, width)
    pixels = ((noise + ramp) / 2).to(torch.uint8)
    return RawBatch(pixels, torch.tensor([[height, width]] * n))


@pytest.fixture
def images() -> torch.Tensor:
    return raw_images(6, 24, 24).pixels.float() / 255


FACTORS = torch.tensor([0.6, 0.8, 1.0, 1.2, 1.4, 0.0])


@pytest.mark.parametrize("operation", range(3))
def test_a_colour_change_equals_torchvisions(operation: int, images: torch.Tensor) -> None:
    theirs = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)[operation]
    expected = torch.stack([theirs(i, f.item()) for i, f in zip(images, FACTORS, strict=True)])
    factors = torch.full((6, 4), 9.0)  # the other columns are not to be looked at
    factors[:, operation] = FACTORS
    augment.adjust(images, torch.full((6,), operation), factors)
    torch.testing.assert_close(images, expected, atol=2e-6, rtol=0)


def test_an_image_without_an_operation_stays_as_it_was(images: torch.Tensor) -> None:
    before, operations = images.clone(), torch.arange(6).clamp(max=augment.NOTHING)
    augment.adjust(images, operations, torch.full((6, 4), 0.3))
    assert torch.equal(images[4:], before[4:])
    for changed, original in zip(images[:4], before[:4], strict=True):
        assert not torch.equal(changed, original)


def test_a_hue_turn_equals_torchvisions(images: torch.Tensor) -> None:
    images[0, :] = images[0, :1]  # gray pixels have no hue
    turns = torch.tensor([-0.4, -0.2, 0.0, 0.1, 0.4, 0.5])
    ours = augment.hue(images, turns)
    theirs = torch.stack([tv.adjust_hue(i, t.item()) for i, t in zip(images, turns, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_luma_equals_torchvisions_grayscale(images: torch.Tensor) -> None:
    torch.testing.assert_close(augment.luma(images), tv.rgb_to_grayscale(images), atol=2e-6, rtol=0)


def test_a_blur_equals_torchvisions(images: torch.Tensor) -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0, 0.3])
    ours = augment.gaussian_blur(images, sigma, 2.0)
    theirs = torch.stack([tv.gaussian_blur(i, [13, 13], [s.item()] * 2) for i, s in zip(images, sigma, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 224, 448])
def test_the_blur_of_a_view_scales_with_its_side(size: int) -> None:
    raw = raw_images(3, 40, 52)
    view = augment.parameters(augment.draw(3, generator(4, "test")), raw.sizes, AugmentConfig(policy="crop-blur"))
    sharp = augment.train_view(raw, replace(view, sigma=torch.zeros(3)), size, (0, 0, 0), (1, 1, 1))
    view = replace(view, sigma=torch.tensor([0.1, 1.0, 2.0]))
    blurred = augment.train_view(raw, view, size, (0, 0, 0), (1, 1, 1))
    width = 2 * math.ceil(3 * 2.0 * size / 224) + 1
    for n in range(3):
        theirs = tv.gaussian_blur(sharp[n], [width, width], [view.sigma[n].item() * size / 224] * 2)
        torch.testing.assert_close(blurred[n], theirs, atol=1e-5, rtol=0)
    if size == 224:  # as published: the very same bits as a blur of these sigmas
        assert torch.equal(blurred, augment.gaussian_blur(sharp, view.sigma, 2.0))


def test_a_blur_far_narrower_than_a_pixel_leaves_the_image_as_it_is(images: torch.Tensor) -> None:
    sigma = torch.tensor([0.014, 1e-3, 1e-10, 1e-30, 1e-44, 0.05])
    assert torch.equal(augment.gaussian_blur(images, sigma, 0.3), images)
    assert torch.equal(augment.gaussian_blur(images, sigma, 1e-3), images)


@pytest.mark.parametrize("size", [16, 64])
def test_a_crop_equals_torchvisions_antialiased_resized_crop(size: int) -> None:
    raw = raw_images(5, 40, 52)
    box = torch.tensor([[0, 0, 40, 52], [3, 5, 20, 31], [10, 0, 30, 22], [39, 51, 1, 1], [7, 9, 16, 16]])
    ours = augment.crop(raw, box, None, size)
    theirs = torch.stack(
        [
            tv.resized_crop(image.float() / 255, *b.tolist(), [size, size], antialias=True)
            for image, b in zip(raw.pixels, box, strict=True)
        ]
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_flip_mirrors_left_and_right() -> None:
    raw = raw_images(2, 20, 20)
    box = torch.tensor([[2, 3, 15, 12]] * 2)
    flipped = augment.crop(raw, box, torch.tensor([True, False]), 8)
    plain = augment.crop(raw, box, None, 8)
    torch.testing.assert_close(flipped[0], plain[0].flip(-1), atol=1e-6, rtol=0)
    torch.testing.assert_close(flipped[1], plain[1])


def test_padding_of_smaller_images_never_shows() -> None:
    small, large = raw_images(1, 20, 16), raw_images(1, 30, 40)
    pixels = torch.zeros(2, 3, 30, 40, dtype=torch.uint8)
    pixels[0, :, :20, :16], pixels[1] = small.pixels[0], large.pixels[0]
    for fill in (0, 255):
        pixels[0, :, 20:], pixels[0, :, :, 16:] = fill, fill
        both = augment.centre_view(RawBatch(pixels, torch.tensor([[20, 16], [30, 40]])), 12, **NORM)
        torch.testing.assert_close(both[:1], augment.centre_view(small, 12, **NORM))
        torch.testing.assert_close(both[1:], augment.centre_view(large, 12, **NORM))


def test_images_of_extreme_shapes_are_padded_in_parts_and_look_as_they_do_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a whole, they would take some 270 times the pixels that they have."""
    monkeypatch.setattr(image_batches, "SMALL", 0)
    random = np.random.default_rng(0)
    sizes = np.array([[4096, 16], [16, 4096], [200, 300], [16, 3000], [4000, 16]])
    flat = torch.from_numpy(random.integers(0, 256, 3 * int(sizes.prod(axis=1).sum()), dtype=np.uint8))
    packed = PackedPixels(flat, sizes)
    mixed = packed.batch(range(5))
    held = sum(pixels[0, 0].numel() * len(pixels) for _, pixels in mixed.padded())
    assert held <= image_batches.PADDING * sizes.prod(axis=1).sum()
    in_place = packed.in_place(range(5))
    assert sorted(torch.cat([part.rows for part in mixed.parts]).tolist()) == [*range(5)]
    policy = AugmentConfig()
    uniform = augment.draw(5, generator(0, "view"))
    together = augment.train_view(mixed, augment.parameters(uniform, mixed.sizes, policy), 32, **NORM)
    centres = augment.centre_view(mixed, 32, **NORM)
    for row in range(5):
        alone = packed.batch([row])
        assert torch.equal(mixed.image(row), packed.image(row))
        assert torch.equal(in_place.image(row), packed.image(row))
        view = augment.train_view(alone, augment.parameters(uniform[row : row + 1], alone.sizes, policy), 32, **NORM)
        torch.testing.assert_close(together[row], view[0], atol=2e-4, rtol=0)
        torch.testing.assert_close(centres[row], augment.centre_view(alone, 32, **NORM)[0], atol=2e-4, rtol=0)


def packed_images(sizes: list[list[int]], dtype: torch.dtype = torch.uint8) -> PackedPixels:
    random = np.random.default_rng(1)
    shapes = np.array(sizes)
    pixels = random.integers(0, torch.iinfo(dtype).max + 1, 3 * int(shapes.prod(axis=1).sum()))
    return PackedPixels(torch.from_numpy(pixels).to(dtype), shapes)


SIZES = [[20, 33], [300, 17], [64, 64], [1, 1], [2, 90], [150, 140], [40, 41], [9, 9]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("size", [8, 40])
def test_the_sparse_filters_of_a_cpu_give_what_the_dense_ones_of_a_gpu_do(size: int, dtype: torch.dtype) -> None:
    raw = packed_images(SIZES, dtype).in_place(range(len(SIZES)))
    box = augment.parameters(augment.draw(8, generator(2, "test")), raw.sizes, AugmentConfig()).box.double()
    bounds = torch.stack([box[:, :2], box[:, :2] + box[:, 2:]], dim=2)
    where = (box[:, :2], box[:, 2:] / size, bounds, size, torch.arange(8) % 2 == 0)
    sparse = resample(raw, *where)
    torch.testing.assert_close(sparse, augment.dense(raw.moved(torch.clone), *where), atol=2e-5, rtol=0)
    assert 0.3 < float(sparse.mean()) < 0.7


def test_the_bits_of_a_view_do_not_depend_on_the_other_images_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_images(SIZES * 3)
    raw, uniform = packed.in_place(range(24)), augment.draw(24, generator(6, "test"))
    box = augment.parameters(uniform, raw.sizes, AugmentConfig()).box
    together, centres = augment.crop(raw, box, None, 16), augment.centre_view(raw, 16, **NORM)
    for rows in ([3], [0, 7], [23, 12, 4, 5]):
        some = packed.batch(rows)
        assert torch.equal(augment.crop(some, box[rows], None, 16), together[rows])
        assert torch.equal(augment.centre_view(some, 16, **NORM), centres[rows])
    monkeypatch.setattr("hpt.resample.TABLE", 3000)
    assert torch.equal(augment.crop(raw, box, None, 16), together)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 67), (67, 50), (20, 20)])
def test_the_centre_view_equals_torchvisions_resize_and_centre_crop(height: int, width: int) -> None:
    raw = raw_images(2, height, width)
    theirs = v2.Compose([v2.Resize(37, antialias=True), v2.CenterCrop(32), v2.Normalize(**NORM)])
    torch.testing.assert_close(
        augment.centre_view(raw, 32, **NORM), theirs(raw.pixels.float() / 255), atol=5e-5, rtol=0
    )


def test_a_whole_view_equals_torchvisions_operations_in_the_drawn_order() -> None:
    raw = raw_images(64, 36, 44)
    config = AugmentConfig()
    view = augment.parameters(augment.draw(64, generator(3, "test")), raw.sizes, config)
    ours = augment.train_view(raw, view, 24, **NORM)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for n in range(64):
        image = tv.resized_crop(raw.pixels[n].float() / 255, *view.box[n].tolist(), [24, 24], antialias=True)
        image = image.flip(-1) if view.flip[n] else image
        if view.jitter[n]:
            for operation in view.order[n].tolist():
                image = adjust[operation](image, view.factors[n, operation].item())
        if view.grayscale[n]:
            image = tv.rgb_to_grayscale(image, 3)
        if view.sigma[n] > 0:
            sigma = view.sigma[n].item() * 24 / 224  # given in pixels of a view of 224
            image = tv.gaussian_blur(image, [3, 3], [sigma] * 2)
        torch.testing.assert_close(ours[n], tv.normalize(image, **NORM), atol=2e-4, rtol=0)


def test_drawn_parameters_follow_torchvisions_distributions() -> None:
    n, sizes = 20_000, torch.tensor([[48, 64]])
    view = augment.parameters(augment.draw(n, generator(0, "test")), sizes.expand(n, 2), AugmentConfig())
    torch.manual_seed(0)
    boxes = np.array(
        [v2.RandomResizedCrop(32, scale=(0.2, 1)).make_params([torch.empty(3, 48, 64)]).values() for _ in range(5000)],
        dtype=object,
    )
    theirs = np.array([[b[0], b[1], b[2], b[3]] for b in (list(v) for v in boxes)], dtype=float)
    ours = view.box.double()
    for column in range(4):  # top, left, height, width: means within 4 standard errors
        spread = theirs[:, column].std() / np.sqrt(len(theirs))
        assert abs(ours[:, column].mean().item() - theirs[:, column].mean()) < 5 * spread
        assert abs(ours[:, column].std().item() / theirs[:, column].std() - 1) < 0.05
    assert (ours[:, 0] + ours[:, 2]).max() <= 48
    assert (ours[:, 1] + ours[:, 3]).max() <= 64
    assert ours[:, 2:].min() >= 1
    for name, p in {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2}.items():
        assert abs(getattr(view, name).float().mean().item() - p) < 0.015
    assert abs((view.sigma > 0).float().mean().item() - 0.5) < 0.015
    assert view.factors[:, :3].min() >= 0.6
    assert view.factors[:, :3].max() <= 1.4
    assert view.factors[:, 3].abs().max() <= 0.4
    assert len(view.order.unique(dim=0)) == 24


def test_a_view_depends_on_its_row_alone() -> None:
    raw, uniform = raw_images(8, 30, 30), augment.draw(8, generator(1, "test"))
    together = augment.train_view(raw, augment.parameters(uniform, raw.sizes, AugmentConfig()), 16, **NORM)
    some = RawBatch(raw.pixels[5:7], raw.sizes[5:7])
    apart = augment.train_view(some, augment.parameters(uniform[5:7], some.sizes, AugmentConfig()), 16, **NORM)
    torch.testing.assert_close(together[5:7], apart, atol=1e-5, rtol=0)


def test_an_image_of_one_pixel_and_a_panorama_can_be_cropped() -> None:
    for height, width in ((1, 1), (4, 400)):
        raw = raw_images(3, height, width)
        view = augment.parameters(augment.draw(3, generator(1, "test")), raw.sizes, AugmentConfig())
        assert augment.train_view(raw, view, 16, **NORM).isfinite().all()


NORM = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


#                jitter, grayscale, blur, flip, vertical flip, turn
PROBABILITIES = {
    "baseline": (0.8, 0.2, 0.5, 0.5, 0.0, 0.0),
    "no-grayscale": (0.8, 0.0, 0.5, 0.5, 0.0, 0.0),
    "no-color": (0.0, 0.2, 0.5, 0.5, 0.0, 0.0),
    "crop-blur": (0.0, 0.0, 0.5, 0.0, 0.0, 0.0),
    "crop-only": (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "rotate90": (0.8, 0.2, 0.5, 0.5, 1.0, 0.75),
    "vertical-flip": (0.8, 0.2, 0.5, 0.5, 0.5, 0.0),
}


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
        policy: [
            bool(rows.any()) for rows in (view.jitter, view.grayscale, view.sigma > 0, view.flip, view.flop, view.turn)
        ]
        for policy, view in ((policy, views(policy, raw)[0]) for policy in POLICIES)
    }
    assert kept == {policy: [p > 0 for p in row] for policy, row in PROBABILITIES.items()}
    blurred, shown = views("crop-blur", raw)
    sharp = blurred.sigma == 0
    torch.testing.assert_close(shown[sharp], views("crop-only", raw)[1][sharp])


def test_turns_and_vertical_flips_are_those_of_the_crop_each_turn_alike() -> None:
    raw = shapes(400)
    config = AugmentConfig(policy="rotate90", jitter_p=0, grayscale_p=0, blur_p=0, flip_p=0)
    view = augment.parameters(augment.draw(400, generator(5, "test")), raw.sizes, config)
    turned = augment.train_view(raw, view, 24, (0, 0, 0), (1, 1, 1))
    upright = augment.crop(raw, view.box, None, 24)
    close = [
        [torch.allclose(turned[row], torch.rot90(upright[row], quarters, (1, 2)), atol=1e-6) for quarters in range(4)]
        for row in range(400)
    ]
    found = torch.tensor(close).float().argmax(dim=1)
    assert torch.tensor(close).any(dim=1).all()
    assert (torch.bincount(found, minlength=4) > 70).all()

    config = AugmentConfig(policy="vertical-flip", jitter_p=0, grayscale_p=0, blur_p=0, flip_p=0)
    view = augment.parameters(augment.draw(400, generator(5, "test")), raw.sizes, config)
    assert 150 < view.flop.sum() < 250
    flopped = augment.train_view(raw, view, 24, (0, 0, 0), (1, 1, 1))
    expected = torch.where(view.flop[:, None, None, None], augment.crop(raw, view.box, None, 24).flip(2), upright)
    torch.testing.assert_close(flopped, expected)


def test_who_asks_for_no_turns_sees_what_was_seen_before_there_were_any() -> None:
    numbers = augment.draw(5, generator(2, "test"))
    before = torch.rand(5, augment.COLUMNS - 2, generator=generator(2, "test"), dtype=torch.float64)
    assert torch.equal(numbers[:, :-2], before)


@pytest.mark.parametrize(("channels", "colours"), [(1, "grey"), (2, "none"), (5, "none"), (16, "none")])
def test_other_channels_are_cropped_flipped_and_blurred_and_their_colours_left_alone(
    channels: int, colours: Colours
) -> None:
    random = torch.Generator().manual_seed(0)
    deep = torch.randint(0, 65536, (6, channels, 40, 30), generator=random)
    raw = RawBatch(deep.to(torch.uint16), torch.tensor([[40, 30]] * 6))
    policy = augment.suited(AugmentConfig(jitter_p=1, grayscale_p=1, blur_p=1), colours)
    view = augment.parameters(augment.draw(6, generator(1, "test")), raw.sizes, policy)
    mean, std = (0.1,) * channels, (0.5,) * channels
    shown = augment.train_view(raw, view, 24, mean, std)
    assert shown.shape == (6, channels, 24, 24)
    assert not view.grayscale.any()
    assert view.jitter.all() == (colours == "grey")
    if colours == "none":
        for row in range(6):  # each channel by itself, by torchvision
            top, left, height, width = view.box[row].tolist()
            patch = deep[row : row + 1, :, top : top + height, left : left + width].float() / 65535
            patch = tv.resize(patch, [24, 24], antialias=True)
            patch = patch.flip(3) if view.flip[row] else patch
            blurred = augment.gaussian_blur(patch, view.sigma[row : row + 1] * 24 / 224, 2 * 24 / 224)
            torch.testing.assert_close(shown[row : row + 1], (blurred - 0.1) / 0.5, atol=2e-5, rtol=1e-4)


def test_one_grey_channel_is_seen_as_three_equal_ones_are() -> None:
    random = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (8, 1, 40, 30), generator=random).to(torch.uint8)
    one, three = (RawBatch(pixels, torch.tensor([[40, 30]] * 8)) for pixels in (grey, grey.expand(-1, 3, -1, -1)))
    uniform = augment.draw(8, generator(1, "test"))
    views = [
        augment.train_view(
            raw,
            augment.parameters(uniform, raw.sizes, augment.suited(AugmentConfig(hue=0), colours)),
            24,
            (0.4,),
            (0.2,),
        )
        for raw, colours in ((one, "grey"), (three, "rgb"))
    ]
    torch.testing.assert_close(views[0].expand(-1, 3, -1, -1), views[1], atol=2e-3, rtol=1e-3)
