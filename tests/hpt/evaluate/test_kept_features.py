"""Features that were computed before come from the cache, and only those."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_evaluation import config as small_config
from small_evaluation import run
from small_images import noise_images
from torch import Tensor

from hpt import encoder
from hpt.config import DataConfig, EvaluateConfig
from hpt.data import feature_store
from hpt.data.cache_store import entries, prune
from hpt.data.dataset import Dataset, load
from hpt.evaluate import embeddings, features

pytestmark = pytest.mark.usefixtures("own_cache")
BEFORE = "computed before"


def config(kind: str, **changes: object) -> EvaluateConfig:
    return small_config(kind, **{"keep_features": True} | changes)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each batch that goes through a backbone, as it happens."""
    seen: list[int] = []
    of = features.raw_batch

    def counted(images: Any, rows: Tensor, device: torch.device) -> Any:
        seen.append(len(rows))
        return of(images, rows, device)

    monkeypatch.setattr(features, "raw_batch", counted)
    return seen


def counts(dataset: Dataset) -> dict[str, int]:
    return {split: len(rows) for split, rows in dataset.splits.items()}


@pytest.mark.slow
def test_twelve_probes_of_a_backbone_embed_its_images_once(
    dataset: Dataset, state: dict[str, Tensor], embedded: list[int], tmp_path: Path
) -> None:
    number = counts(dataset)
    first, _ = run(config("knn"), dataset, state, tmp_path)
    assert sum(embedded) == sum(number.values())
    for k in range(1, 9):
        run(config("knn", knn={"k": k}), dataset, state, tmp_path)
    assert sum(embedded) == sum(number.values())
    probes = [run(config("linear"), dataset, state, tmp_path)[0] for _ in range(3)]
    assert sum(embedded) == sum(number.values()) + 2 * number["train"]  # the two random views of each training image
    assert probes[0].metrics == probes[2].metrics
    again, _ = run(config("knn"), dataset, state, tmp_path)
    assert again.metrics == first.metrics
    assert torch.equal(again.scores["test"], first.scores["test"])


def test_features_that_are_read_have_the_bits_of_those_computed(
    dataset: Dataset, state: dict[str, Tensor], embedded: list[int]
) -> None:
    def extract(**changes: Any) -> Tensor:
        settings = config("knn", **changes)
        found = embeddings.extract(settings, dataset, state, ["test"], progress=lambda *_: None)
        return torch.from_numpy(found.features)

    computed = extract()
    assert sum(embedded) == counts(dataset)["test"]
    assert torch.equal(extract(), computed)
    assert sum(embedded) == counts(dataset)["test"]
    assert torch.equal(extract(keep_features=False), computed)
    assert sum(embedded) == 2 * counts(dataset)["test"]


def test_other_weights_sizes_images_and_precisions_have_features_of_their_own(
    dataset: Dataset, state: dict[str, Tensor], embedded: list[int]
) -> None:
    def extract(dataset: Dataset, state: dict[str, Tensor], **changes: Any) -> int:
        before = len(embedded)
        embeddings.extract(config("knn", **changes), dataset, state, ["val"], progress=lambda *_: None)
        return len(embedded) - before

    extract(dataset, state)
    assert extract(dataset, state) == 0
    moved = dict(state) | {"bn1.running_mean": state["bn1.running_mean"] + 1e-3}
    assert extract(dataset, moved) > 0
    assert extract(dataset, state, image_size=40) > 0
    assert extract(dataset, state, precision="bf16") > 0
    turned = Dataset(**vars(dataset) | {"splits": dict(dataset.splits) | {"val": dataset.splits["val"][::-1]}})
    assert extract(turned, state) > 0
    brighter = Dataset(**vars(dataset) | {"images": dataset.images.subset(range(len(dataset.images)))})
    brighter.images.mean = tuple(value + 0.1 for value in brighter.images.mean)
    assert extract(brighter, state) > 0
    assert len({file.path for file in feature_store.kept()}) == 6


def test_a_damaged_file_is_computed_again_and_said(
    dataset: Dataset, state: dict[str, Tensor], embedded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def extract() -> Tensor:
        return torch.from_numpy(
            embeddings.extract(config("knn"), dataset, state, ["val"], progress=lambda *_: None).features
        )

    first = extract()
    (file,) = feature_store.kept()
    file.path.write_bytes(file.path.read_bytes()[:-9])
    assert [stored.state for stored in entries() if stored.features_of is not None] == ["damaged"]
    assert torch.equal(extract(), first)
    assert "cannot be read" in caplog.text
    assert [stored.state for stored in entries() if stored.features_of is not None] == ["whole"]


def test_features_are_listed_with_the_images_and_pruned(dataset: Dataset, state: dict[str, Tensor]) -> None:
    embeddings.extract(config("knn", weights="mine"), dataset, state, ["val", "test"], progress=lambda *_: None)
    (stored,) = [each for each in entries() if each.features_of is not None]
    assert (stored.features_of, stored.datasets) == ("mine", (dataset.name,))
    assert stored.images == counts(dataset)["val"] + counts(dataset)["test"]
    assert stored.bytes > stored.images * 512 * 4
    assert stored.path not in {each.path for each in prune(unused_for=3600.0).removed}
    then = time.time() - 7200
    os.utime(stored.path, (then, then))
    assert stored.path in {each.path for each in prune(unused_for=3600.0, dry_run=True).removed}
    assert stored.path.exists()
    assert stored.path in {each.path for each in prune(unused_for=3600.0).removed}
    assert list(feature_store.features_folder().iterdir()) == []


@pytest.mark.parametrize("about", ["[]", "7", "{}", '{"dataset": "d"}', "{"])
def test_a_file_that_does_not_say_of_what_it_is_counts_as_damaged(own_cache: Path, about: str) -> None:
    feature_store.features_folder().mkdir(parents=True)
    path = feature_store.features_folder() / "key.safetensors"
    save_file({"features": torch.zeros(3, 4)}, path, {feature_store.METADATA: about})
    assert [(each.whole, each.images) for each in feature_store.kept()] == [(False, None)]


def test_the_longest_unused_give_way_to_new_ones(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "LIMIT", 5_500)
    feature_store.features_folder().mkdir(parents=True)
    for number in range(3):
        with feature_store.alone(f"key{number}"):
            feature_store.write(f"key{number}", torch.full((10, 40), float(number)), {"dataset": "d", "of": "b"})
        os.utime(feature_store.features_folder() / f"key{number}.safetensors", (number, number))
    assert feature_store.read("key0") is not None  # so that it is no longer the longest unused
    feature_store.write("key3", torch.full((10, 40), 3.0), {"dataset": "d", "of": "b"})
    assert [feature_store.read(f"key{number}") is not None for number in range(4)] == [True, False, True, True]
    monkeypatch.setattr(feature_store, "LARGEST", 1_000)
    feature_store.write("key4", torch.zeros(10, 40), {"dataset": "d", "of": "b"})
    assert feature_store.read("key4") is None


def test_a_folder_that_cannot_be_written_costs_the_features_and_nothing_else(
    dataset: Dataset, state: dict[str, Tensor], own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_cache.parent.mkdir()
    (own_cache.parent / "features").write_text("in the way")
    caplog.set_level(logging.INFO, logger="hpt.data")
    found = embeddings.extract(config("knn"), dataset, state, ["val"], progress=lambda *_: None)
    assert found.features.shape == (counts(dataset)["val"], 512)
    assert "the features are not kept" in caplog.text


def _embed(folder: str, barrier: Any, said: Any) -> None:
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    notes: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: notes.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hpt.evaluate").addHandler(handler)
    dataset = load(folder, DataConfig(), side=36)
    state = encoder.build("resnet18", seed=0).state_dict()
    barrier.wait()
    found = embeddings.extract(config("knn"), dataset, state, ["train"], progress=lambda *_: None)
    said.put((found.features.tobytes(), any(BEFORE in note for note in notes)))


@pytest.mark.slow
def test_of_two_processes_that_want_the_same_one_embeds_and_the_other_waits(tmp_path: Path) -> None:
    folder = noise_images(tmp_path / "noise", 600)
    load(str(folder), DataConfig(), side=36)
    context = multiprocessing.get_context("spawn")
    barrier, said = context.Barrier(2), context.Queue()
    both = [context.Process(target=_embed, args=(str(folder), barrier, said)) for _ in range(2)]
    for each in both:
        each.start()
    (one, first), (other, second) = (said.get(timeout=120) for _ in both)
    for each in both:
        each.join()
    assert one == other
    assert sorted([first, second]) == [False, True]
