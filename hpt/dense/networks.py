"""A backbone with a detector or a segmenter on it, built from torchvision's parts.

They are imported where they are needed: `import torchvision` takes 4 s.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpt.batch_norm import BatchNorm
from hpt.config import DetectionConfig, SegmentationConfig
from hpt.dense.draws import Draws, DropoutByImage, SamplerByImage

SHAPES = (0.5, 1.0, 2.0)
"""Height over width of the anchors of each side."""
FCN_CHANNELS, FCN_DILATION = 256, 6


class Trunk(nn.Module):
    """A ResNet up to a layer: images [n, C, H, W] -> the features of each layer from `first` on, by their names."""

    def __init__(self, backbone: Any, layers: tuple[str, ...], first: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(OrderedDict(conv1=backbone.conv1, bn1=backbone.bn1))
        self.relu, self.maxpool = backbone.relu, backbone.maxpool
        self.layers = nn.ModuleDict({name: getattr(backbone, name) for name in layers})
        self.kept = layers[layers.index(first) :]
        self.out_channels = width_of(getattr(backbone, layers[-1]))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.stem(images)))
        found: dict[str, Tensor] = OrderedDict()
        for name, layer in self.layers.items():
            x = layer(x)
            if name in self.kept:
                found[name] = x
        return found


class Pyramid(nn.Module):
    """A feature pyramid (arXiv 1612.03144) on layer1 to layer4, and a level pooled from the last."""

    def __init__(self, backbone: Any, channels: int) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        names = ("layer1", "layer2", "layer3", "layer4")
        self.trunk = Trunk(backbone, names, "layer1")
        widths = [width_of(getattr(backbone, name)) for name in names]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.fpn(self.trunk(images))
        return found


class Res5(nn.Module):
    """The box head of C4: layer4, a BatchNorm behind it, and the mean over positions."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4
        self.norm = BatchNorm(width_of(layer4))

    def forward(self, pooled: Tensor) -> Tensor:
        """[n, c, 14, 14] -> [n, d]."""
        found: Tensor = self.norm(self.layer4(pooled)).mean(dim=(2, 3))
        return found


def detector(backbone: nn.Module, classes: int, config: DetectionConfig, draws: Draws, *, seed: int) -> nn.Module:
    """Faster R-CNN of normalised images [C, H, W] of any sizes, with class 0 for the background.

    In training it takes images and targets (`boxes` [k, 4], `labels` [k] from 1) and gives losses by name; else it
    gives `boxes`, `scores` and `labels` of each image. What is new in it depends on `seed` alone, and which anchors and
    proposals it is trained on, on `draws`.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.rpn import RPNHead
    from torchvision.ops import MultiScaleRoIAlign

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if config.head == "c4":
            body: Any = Trunk(backbone, ("layer1", "layer2", "layer3"), "layer3")
            sizes: tuple[tuple[int, ...], ...] = (config.anchors,)
            pool = MultiScaleRoIAlign(["layer3"], output_size=14, sampling_ratio=0)
            head: nn.Module = Res5(backbone.layer4)  # type: ignore[arg-type]  # a module
            width, proposals = width_of(backbone.layer4), {"train": (12000, 2000), "test": (6000, 1000)}
        else:
            body = Pyramid(backbone, config.channels)
            sizes = tuple((side,) for side in config.anchors)
            pool = MultiScaleRoIAlign(["layer1", "layer2", "layer3", "layer4"], output_size=7, sampling_ratio=2)
            width = 1024 if config.channels >= 256 else 4 * config.channels
            head = TwoMLPHead(config.channels * 7 * 7, width)
            proposals = {"train": (2000, 2000), "test": (1000, 1000)}
        model: Any = FasterRCNN(
            body,
            rpn_anchor_generator=AnchorGenerator(sizes, (SHAPES,) * len(sizes)),
            rpn_head=RPNHead(body.out_channels, len(sizes[0]) * len(SHAPES)),
            rpn_pre_nms_top_n_train=proposals["train"][0],
            rpn_pre_nms_top_n_test=proposals["test"][0],
            rpn_post_nms_top_n_train=proposals["train"][1],
            rpn_post_nms_top_n_test=proposals["test"][1],
            box_roi_pool=pool,
            box_head=head,
            box_predictor=FastRCNNPredictor(width, classes + 1),
            box_batch_size_per_image=config.proposals,
        )
        model.transform = _batcher()
    _tell_scales(pool)
    model.rpn.fg_bg_sampler = SamplerByImage(model.rpn.fg_bg_sampler, draws, 0)
    model.roi_heads.fg_bg_sampler = SamplerByImage(model.roi_heads.fg_bg_sampler, draws, 1)
    made: nn.Module = model
    return made


class Segmenter(nn.Module):
    """Images [n, C, H, W] -> logits [n, classes, H, W], from features of stride 16."""

    def __init__(self, backbone: Any, classes: int, head: str, draws: Draws) -> None:
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead

        super().__init__()
        self.trunk = Trunk(backbone, ("layer1", "layer2", "layer3", "layer4"), "layer4")
        _dilate(self.trunk.layers["layer4"])
        width = self.trunk.out_channels
        if head == "deeplabv3":
            self.head: nn.Module = DeepLabHead(width, classes, (6, 12, 18))
            project = self.head[0].project  # which ends with a dropout
            project[-1] = DropoutByImage(project[-1].p, draws)
        else:
            self.head = nn.Sequential(*_dilated(width), *_dilated(FCN_CHANNELS), nn.Conv2d(FCN_CHANNELS, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(self.trunk(images)["layer4"])
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def segmenter(backbone: nn.Module, classes: int, config: SegmentationConfig, draws: Draws, *, seed: int) -> nn.Module:
    """A segmenter whose head depends on `seed` alone, and its dropout on `draws`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Segmenter(backbone, classes, config.head, draws)


def width_of(layer: Any) -> int:
    """The channels that a layer of residual blocks ends with."""
    last = layer[-1]
    return int((last.conv3 if hasattr(last, "conv3") else last.conv2).out_channels)


def _tell_scales(pool: Any) -> None:
    """Have a pooling of regions know the strides of its features. It would take them from the sizes of the first images
    that it sees, and be wrong where they are much smaller than their batch, whose largest another process has."""
    side, strides = 64, {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
    with torch.device("cpu"):  # a network may be built on the meta device
        features = {
            name: torch.zeros(1, 1, side // strides[name], side // strides[name]) for name in pool.featmap_names
        }
        pool(features, [torch.tensor([[0.0, 0.0, 8.0, 8.0]])], [(side, side)])


def _batcher() -> nn.Module:
    """What makes a batch of images that are resized and normalised already."""
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    class Batcher(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
        frame = (0, 0)
        """The height and width of the largest image of a training batch, which another process may have."""

        def normalize(self, image: Tensor) -> Tensor:
            return image

        def resize(self, image: Tensor, target: Any = None) -> Any:
            return image, target

        def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
            made: Tensor = super().batch_images(images, size_divisible)
            if not self.training:
                return made
            frame = (-(-side // size_divisible) * size_divisible for side in self.frame)
            below, right = (most - side for most, side in zip(frame, made.shape[2:], strict=True))
            return F.pad(made, (0, right, 0, below)) if right or below else made

    return Batcher(0, 0, [], [])


def _dilated(width: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(width, FCN_CHANNELS, 3, padding=FCN_DILATION, dilation=FCN_DILATION, bias=False)
    return conv, BatchNorm(FCN_CHANNELS), nn.ReLU(inplace=True)


def _dilate(layer4: Any) -> None:
    """Keep the stride of layer3: the strides of layer4 become dilations of its 3 x 3 convolutions."""
    for block in layer4:
        for name in ("conv1", "conv2"):
            conv = getattr(block, name)
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation, conv.padding = (2, 2), (2, 2)
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)
