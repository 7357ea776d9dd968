"""The features of a dataset's images, as a file for other programs and as a map in two dimensions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpt.callbacks import Progress
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.data.listing import SPLITS, Labels
from hpt.errors import ConfigError, DataError, did_you_mean
from hpt.evaluate.features import backbone_under_test, embed
from hpt.evaluate.kept_features import CENTRE, KeptFeatures
from hpt.files import replacing
from hpt.processes import Compute, Processes

Method = Literal["pca", "tsne", "umap"]
METHODS: tuple[Method, ...] = ("pca", "tsne", "umap")
SUFFIXES = (".npz", ".parquet")
COMPONENTS = 50
"""Number of principal components that t-SNE and UMAP start from, as scikit-learn advises."""


@dataclass(frozen=True)
class Embeddings:
    """The pooled features of n images, ordered by split and, within a split, as in the dataset."""

    features: NDArray[np.float32]
    """[n, d]"""
    names: NDArray[np.str_]
    """[n]"""
    splits: NDArray[np.str_]
    """[n] `train`, `val` or `test`."""
    labels: Labels
    """[n] class numbers, -1 for no label; or [n, C] of 0 and 1 of a multi-label set, NaN for no label."""
    classes: NDArray[np.str_]
    """[C]; empty where the dataset has no labels."""

    def label_names(self) -> list[list[str]]:
        """The names of each image's classes: one, several, or none."""
        if self.labels.ndim == 2:
            return [[str(self.classes[c]) for c in np.flatnonzero(row > 0)] for row in self.labels]
        return [[str(self.classes[label])] if label >= 0 else [] for label in self.labels]


def extract(
    config: EvaluateConfig,
    dataset: Dataset,
    state: Mapping[str, Tensor],
    splits: Sequence[str],
    progress: Progress,
    processes: Processes | None = None,
) -> Embeddings:
    """The features of the test view of every image in `splits`, by the backbone `state`; of several `processes` each
    computes its part, and has all.

    Raises:
        DataError: these splits have no images. HptError: a feature is NaN or infinite.
    """
    rows = [dataset.splits[split] for split in splits]
    if not any(map(len, rows)):
        raise DataError(f"{dataset.name} has no images in {', '.join(splits)}", "choose another --split")
    compute = Compute.of(config, processes.device if processes is not None else None)
    backbone = backbone_under_test(config, dataset.images, state, compute.device)
    every = np.concatenate(rows)
    images = dataset.images.subset(every)
    kept = KeptFeatures(config, dataset.name, backbone, compute, processes or Processes(1, "cpu"))
    features = kept.get(
        images, CENTRE, lambda: embed(backbone, images, config.image_size, compute, progress, "features", processes)
    )
    return Embeddings(
        features=features.cpu().numpy(),
        names=np.array(images.names, dtype=np.str_),
        splits=np.repeat(np.array(splits, dtype=np.str_), [len(each) for each in rows]),
        labels=dataset.labels[every],
        classes=np.array(dataset.classes, dtype=np.str_),
    )


def read(path: Path) -> Embeddings:
    """What `write` put into an `.npz` file."""
    with np.load(path, allow_pickle=False) as kept:
        return Embeddings(**{each.name: kept[each.name] for each in fields(Embeddings)})


def check_suffix(path: Path) -> None:
    """Check the name of a file for features.

    Raises:
        ConfigError: its suffix is unknown, or its folder is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"features cannot be written as '{path.name}'{did_you_mean(path.suffix, SUFFIXES)}",
            f"end --out in {' or '.join(SUFFIXES)}",
        )
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"the folder {path.parent} does not exist", "create it, or choose another --out")


def write(path: Path, found: Embeddings, about: Mapping[str, Any]) -> None:
    """Write the embeddings and facts about them atomically, as `.npz` (NumPy) or `.parquet` with a row for each image.

    An npz file holds `features` [n, d], `names`, `splits`, `labels`, `classes` and `about` (JSON). A parquet file has
    the columns `name`, `split`, `labels` (a list of class names) and `features` (a list of d floats), and `about` in
    its metadata.
    """
    text = json.dumps(dict(about), sort_keys=True)
    with replacing(path) as part, part.open("wb") as file:
        if path.suffix == ".npz":
            np.savez_compressed(file, **vars(found), about=np.array(text))
            return
        import pyarrow
        from pyarrow import parquet

        width = found.features.shape[1]
        flat = pyarrow.array(found.features.ravel(), type=pyarrow.float32())
        columns = {
            "name": pyarrow.array(found.names.tolist(), type=pyarrow.string()),
            "split": pyarrow.array(found.splits.tolist(), type=pyarrow.string()),
            "labels": pyarrow.array(found.label_names(), type=pyarrow.list_(pyarrow.string())),
            "features": pyarrow.FixedSizeListArray.from_arrays(flat, width),
        }
        table = pyarrow.table(columns).replace_schema_metadata({"about": text})
        parquet.write_table(table, file)


def plane(
    features: NDArray[np.float32], method: Method, seed: int = 0
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Features [n, d] as points [n, 2], and the shares of variance of the two axes (NaN unless the method is PCA).

    t-SNE is scikit-learn's on 50 principal components, with a perplexity of 30 or, if less, a third of the images; UMAP
    is umap-learn's on the same components and an extra. Distances between clusters mean little in either.

    Raises:
        DataError: there are fewer than three images. ConfigError: UMAP is not installed.
    """
    from sklearn.decomposition import PCA

    if len(features) < 3:
        raise DataError(f"{len(features)} images are too few for a map", "use three or more")
    pca = PCA(n_components=min(COMPONENTS, *features.shape), random_state=seed)
    components = pca.fit_transform(features.astype(np.float64))
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 1)))
    if method == "pca":
        shares = np.append(pca.explained_variance_ratio_, 0.0)
        return components[:, :2], (float(shares[0]), float(shares[1]))
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    else:
        try:
            from umap import UMAP  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise ConfigError("UMAP is not installed", "pip install 'hptctl[umap]', or use --method tsne") from None
        neighbours = min(15, len(features) - 1)
        points = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(components)
    return np.asarray(points, dtype=np.float64), (float("nan"), float("nan"))


def splits_of(text: str) -> tuple[str, ...]:
    """The splits that `--split` names: all of them for `all`, or one.

    Raises:
        ConfigError: there is no such split.
    """
    if text == "all":
        return SPLITS
    if text not in SPLITS:
        known = ("all", *SPLITS)
        raise ConfigError(f"unknown --split '{text}'{did_you_mean(text, known)}", f"choose one of {', '.join(known)}")
    return (text,)


def rank(found: Embeddings) -> float:
    """The effective rank of the features (`hpt.representation`)."""
    from hpt.representation import effective_rank

    return effective_rank(torch.from_numpy(found.features))
