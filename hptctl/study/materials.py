"""What a study's cells rest on: images, weights, and the precision that they are computed in.

Reading them takes PyTorch, and a device like that of the runs. Where runs are jobs, one job does it beforehand on a
node (`look`), and whoever sends the jobs has what it found (`Recorded`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hpt.config import DENSE, EvaluateConfig, PretrainConfig
from hpt.errors import DataError
from hpt.files import write_text

if TYPE_CHECKING:
    from hpt.data.dataset import Dataset

LOOK = "look"
"""In the folder of a study: that of the job that looks."""
FOUND = "found.json"
"""In there: what it found."""
ASKED = "asked.json"
"""And what it was asked."""
STREAMED = "streamed"
"""In a key: images that a pretraining reads as it comes to them."""


@dataclass(frozen=True)
class Images:
    """The images of a dataset, as a study needs to know them."""

    fingerprint: str
    split_fingerprint: str
    sizes: Mapping[str, int]
    """Images of each split."""


class Materials(Protocol):
    """Looks at images and weights."""

    def images(self, config: PretrainConfig | EvaluateConfig) -> Images | None:
        """The images of a cell, decoded where they are not yet; None where nothing is known of them.

        Raises:
            DataError: they are not there, or not fit.
        """

    def sha256(self, weights: str) -> str | None:
        """Of the file that `--weights` names; None where there is none, or nothing is known of it."""

    def precision(self, config: PretrainConfig | EvaluateConfig) -> str | None:
        """The one that a cell is computed in, fp32 or bf16; None where nothing is known of it."""

    def readable(self, config: PretrainConfig | EvaluateConfig) -> Dataset | None:
        """The whole dataset of a cell; None where it cannot be read here."""


def key_of(config: PretrainConfig | EvaluateConfig) -> tuple[str, int, str]:
    """A dataset, the side to which its images are decoded, and what is read of them besides."""
    if isinstance(config, EvaluateConfig):
        return config.dataset, config.side, config.kind if config.kind in DENSE else ""
    return config.dataset, config.data.side(config.image_size), STREAMED if config.data.stream else ""


class Recorded:
    """What a job has found."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the study's; where no job has looked nothing is known."""
        self.folder = folder / LOOK
        self.found: dict[str, Any] = {}
        self.read()

    def read(self) -> None:
        """Read what it has found by now."""
        try:
            self.found = json.loads((self.folder / FOUND).read_text(encoding="utf-8"))
        except FileNotFoundError:
            self.found = {}

    @property
    def where(self) -> str:
        """The node that looked; empty where none has."""
        return str(self.found.get("host", ""))

    def images(self, config: PretrainConfig | EvaluateConfig) -> Images | None:
        row = self.found.get("images", {}).get(_text(key_of(config)))
        if row is None:
            return None
        if "what" in row:
            raise DataError(f"{row['what']} (on {self.where})", row["fix"])
        return Images(**row)

    def sha256(self, weights: str) -> str | None:
        found: str | None = self.found.get("weights", {}).get(weights)
        return found

    def precision(self, config: PretrainConfig | EvaluateConfig) -> str | None:
        found: str | None = self.found.get("precision", {}).get(_text((config.device, config.precision)))
        return found

    def readable(self, config: PretrainConfig | EvaluateConfig) -> None:
        return None


def look(configs: Sequence[PretrainConfig | EvaluateConfig], weights: Sequence[str], here: Materials) -> dict[str, Any]:
    """What there is of the images, weights and precisions of these configurations, as `Recorded` reads it."""
    images: dict[str, Any] = {}
    for config in configs:
        if (key := _text(key_of(config))) not in images:
            try:
                found = here.images(config)
                images[key] = None if found is None else asdict(found)
            except DataError as error:
                images[key] = {"what": error.what, "fix": error.fix}
    return {
        "images": images,
        "weights": {name: here.sha256(name) for name in dict.fromkeys(weights)},
        "precision": {_text((each.device, each.precision)): here.precision(each) for each in configs},
    }


def keep(folder: Path, found: Mapping[str, Any]) -> None:
    """Write down what was found."""
    write_text(folder / FOUND, json.dumps(found, indent=1))


def _text(key: tuple[Any, ...]) -> str:
    return json.dumps(key, ensure_ascii=False)
