"""Features as files and maps, and backbones compared layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pyarrow import parquet
from sklearn.decomposition import PCA
from small_evaluation import config
from torch import Tensor

from hpt import augment
from hpt.data.dataset import Dataset
from hpt.errors import ConfigError, DataError
from hpt.evaluate import embeddings

CPU = torch.device("cpu")


def extract(dataset: Dataset, state: dict[str, Tensor], *splits: str) -> embeddings.Embeddings:
    return embeddings.extract(config("knn"), dataset, state, splits, progress=lambda *_: None)


def test_features_are_torchvisions_of_the_test_view_in_the_order_of_the_names(
    dataset: Dataset, state: dict[str, Tensor]
) -> None:
    found = extract(dataset, state, "val", "test")
    assert found.splits.tolist() == ["val"] * 12 + ["test"] * 24
    assert found.names.tolist() == [dataset.images.names[i] for s in ("val", "test") for i in dataset.splits[s]]
    assert [names[0] for names in found.label_names()] == [name.split("/")[0] for name in found.names]
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(state, strict=False)
    theirs.fc = torch.nn.Identity()
    raw = dataset.images.batch(dataset.splits["test"])
    view = augment.centre_view(raw, 32, dataset.images.mean, dataset.images.std)
    with torch.no_grad():
        expected = theirs.eval()(view)
    np.testing.assert_allclose(found.features[12:], expected.numpy(), atol=1e-4)


def test_npz_and_parquet_hold_the_same(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    found = extract(dataset, state, "val")
    for suffix in embeddings.SUFFIXES:
        embeddings.write(tmp_path / f"f{suffix}", found, {"weights": "mine"})
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["features"], found.features)
        assert json.loads(str(arrays["about"])) == {"weights": "mine"}
    table = parquet.read_table(tmp_path / "f.parquet")
    assert json.loads(table.schema.metadata[b"about"]) == {"weights": "mine"}
    np.testing.assert_array_equal(np.stack(table["features"].to_pylist()).astype(np.float32), found.features)
    assert table["labels"].to_pylist() == found.label_names()
    assert table["name"].to_pylist() == found.names.tolist()


def test_several_labels_and_none_are_named(dataset: Dataset, state: dict[str, Tensor], tmp_path: Path) -> None:
    single = extract(dataset, state, "val")
    labels = np.zeros((12, 3), dtype=np.float32)
    labels[0, [0, 2]], labels[1] = 1, np.nan
    several = embeddings.Embeddings(single.features, single.names, single.splits, labels, single.classes)
    assert several.label_names()[:3] == [["0", "2"], [], []]
    embeddings.write(tmp_path / "f.parquet", several, {})
    assert parquet.read_table(tmp_path / "f.parquet")["labels"].to_pylist()[0] == ["0", "2"]


def test_a_map_is_of_principal_components_or_of_t_sne_and_repeats_itself() -> None:
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    features[:30] += 6
    points, shares = embeddings.plane(features, "pca")
    theirs = PCA(2).fit(features.astype(np.float64))
    np.testing.assert_allclose(np.abs(points), np.abs(theirs.transform(features)), atol=1e-6)
    assert shares == pytest.approx(tuple(theirs.explained_variance_ratio_))
    points, shares = embeddings.plane(features, "tsne")
    np.testing.assert_array_equal(points, embeddings.plane(features, "tsne")[0])
    assert np.isnan(shares).all()
    centres = points[:30].mean(axis=0), points[30:].mean(axis=0)
    assert np.linalg.norm(centres[0] - centres[1]) > points[:30].std() + points[30:].std()
    with pytest.raises(DataError, match="2 images are too few for a map"):
        embeddings.plane(features[:2], "pca")


def test_a_split_without_images_and_a_file_that_cannot_be_are_refused(
    dataset: Dataset, state: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        embeddings.splits_of("trian")
    with pytest.raises(ConfigError, match=r"end --out in \.npz or \.parquet"):
        embeddings.check_suffix(tmp_path / "f.csv")
    with pytest.raises(ConfigError, match="does not exist"):
        embeddings.check_suffix(tmp_path / "no" / "f.npz")
