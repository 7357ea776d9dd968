"""Features that a frozen backbone has computed before, on the same images and views, come from the disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpt import encoder
from hpt.config import PROTOCOL_VERSION, EvaluateConfig
from hpt.data import feature_store
from hpt.data.images import Images
from hpt.evaluate.features import batch_of
from hpt.processes import Compute, Processes

log = logging.getLogger("hpt.evaluate")

CENTRE = "centre"
"""The view of the test protocol."""


@dataclass(frozen=True)
class KeptFeatures:
    """What features rest on beside the images and the view, and the processes that compute them."""

    config: EvaluateConfig
    dataset: str
    """The name by which they are listed."""
    backbone: nn.Module
    """In the state in which it is."""
    compute: Compute
    processes: Processes

    def get(self, images: Images, view: str, embed: Callable[[], Tensor]) -> Tensor:
        """Features [n, d] of a view of the images, on the device of `compute`: the same bits as `embed` gives.

        Several processes take what the main one reads. A process on its own waits for another that embeds the same.

        Args:
            view: which one, in words, where it is a random one with a digest of its random numbers.
            embed: computes them, on all processes, and raises what it does.
        """
        processes = self.processes
        if not self.config.keep_features:
            return embed()
        key = self._key(images, view) if processes.main else ""
        # Of several processes the others would wait in `embed` for the main one, and not as long as a lock may take.
        with feature_store.alone(key) if processes.count == 1 else nullcontext():
            found = self._read(key)
            if found is None:
                found = embed()
                self._write(key, found)
        return found

    def _read(self, key: str) -> Tensor | None:
        found = self.processes.of_main(lambda: [each] if (each := feature_store.read(key)) is not None else [])
        if not found:
            return None
        log.info("the features of %s images were computed before", f"{len(found[0]):,}")
        return found[0].to(self.compute.device)

    def _write(self, key: str, features: Tensor) -> None:
        if self.processes.main:
            about = {"dataset": self.dataset, "of": self.config.weights}
            feature_store.write(key, features.detach().cpu(), about)

    def _key(self, images: Images, view: str) -> str:
        config, device = self.config, self.compute.device
        facts = {
            "version": PROTOCOL_VERSION,
            "architecture": [config.backbone, config.pooling, config.image_size],
            "weights": digest_of_state(self.backbone),
            "images": images.fingerprint(),
            "view": view,
            "batch": batch_of(len(images), self.processes),
            "computed": [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type],
            "precision": self.compute.precision,
            "programs": [torch.__version__, encoder.program(config.backbone)],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def digest_of_state(model: nn.Module) -> str:
    """A hexadecimal digest of a model's parameters and buffers, by name: of 45 MB, a ResNet-18, in 0.05 s."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
