"""The predictions of an evaluation: scores of every image, stored so that models can be compared image by image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hpt.data.listing import Labels
from hpt.errors import RunError
from hpt.files import replacing


@dataclass(frozen=True)
class Predictions:
    """The scores that the reruns of a model give the images of one split."""

    names: NDArray[np.str_]
    """[n] names of the images."""
    labels: Labels
    """[n] class numbers, or [n, C] of 0 and 1 of a multi-label set."""
    scores: NDArray[np.float32]
    """[R, n, C] logits of each rerun; kNN's are the logarithm of its votes, -inf for none."""
    classes: NDArray[np.str_]
    """[C] names of the classes."""


def path_of(folder: Path, split: str) -> Path:
    """The file in a run's folder that holds its predictions on a split."""
    return folder / "artifacts" / f"predictions-{split}.npz"


def write(folder: Path, split: str, predictions: Predictions) -> None:
    """Write predictions compressed, in fp32: what is computed from them later equals what the evaluation reported."""
    path = path_of(folder, split)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **vars(predictions))


def read(folder: Path, split: str) -> Predictions:
    """The predictions that an evaluation left in its folder.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = path_of(folder, split)
    try:
        # Opened here, since numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Predictions(**{key: arrays[key] for key in ("names", "labels", "scores", "classes")})
    except FileNotFoundError:
        raise RunError(
            f"run '{folder.name}' has no predictions on {split} ({path} is missing)", "evaluate again"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise RunError(f"{path} is damaged: {error}", "evaluate again") from None
