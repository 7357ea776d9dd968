"""Evaluations by two processes, which come to the figures of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_dense import dense, evaluate_exactly
from small_evaluation import config, run
from torch import Tensor

from hpt import predictions
from hpt.config import EvaluateConfig
from hpt.data.dataset import Dataset
from hpt.dense.targets import TASK_OF
from hpt.evaluate.embeddings import extract
from hpt.evaluate.features import embed, load_backbone
from hpt.processes import Compute, Processes

TUNE = {
    "schedule": "2-steps",
    "batch_size": 20,
    "micro_batch": 7,
    "eval_every": 1,
    "lr": 0.0003,
}  # float noise grows with it
CONFIGS = {
    "knn": config("knn"),
    "knn that keeps features": config("knn", keep_features=True),
    "knn of kept features": config("knn", keep_features=True),  # which the main process has read for both
    "linear": config("linear", linear={"steps": 8, "batch_size": 30, "eval_every": 4, "lrs": [0.3]}, image_size=16),
    "linear of stored views": config("linear", image_size=16),
    "finetune": config("finetune", finetune=TUNE, log_every=1, image_size=16),  # three micro-batches
    "finetune of one": config(  # one process has none
        "finetune", finetune=TUNE | {"micro_batch": 20}, log_every=1, image_size=16
    ),
}
FEW = ["knn", "knn of kept features", "linear", "finetune"]


BOXES = {
    "head": "fpn",
    "channels": 32,
    "anchors": (16, 24, 32, 48, 64),
    "proposals": 32,
    "sides": (64, 96),
    "lr": 0.02,
    "test_side": 64,
    "longest": 128,
    "warmup": 0,
    "eval_every": 1,
}
MASKS = {"head": "deeplabv3", "crop": 64, "side": 96, "lr": 0.05, "warmup": 0, "eval_every": 1}
FIRST_STEP = {"steps": 1, "batch_size": 3}  # images of two sizes, shared out unevenly
STEPS = {"steps": 2, "warmup": 2}
DENSE_CONFIGS = {
    "detection": config("detection", detection=BOXES | FIRST_STEP, log_every=1, test=False),
    "segmentation": config("segmentation", segmentation=MASKS | FIRST_STEP, log_every=1, test=False),
    "more detection": config("detection", detection=BOXES | STEPS | {"batch_size": 3}, log_every=1),
    "detection of one": config(  # one process has none
        "detection", detection=BOXES | {"steps": 1, "batch_size": 1, "head": "c4"}, log_every=1, test=False
    ),
    "more segmentation": config("segmentation", segmentation=MASKS | STEPS | {"batch_size": 3}, log_every=1),
    "segmentation by FCN": config("segmentation", segmentation=MASKS | STEPS | {"head": "fcn"}, log_every=1),
}


def among_two(configs: Mapping[str, EvaluateConfig], digits: Path, folder: Path) -> Callable[[], list[dict[str, Any]]]:
    """Start two processes that evaluate; returns what waits for what each has found."""
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
    told = json.dumps({name: each.model_dump(mode="json") for name, each in configs.items()})
    words = [sys.executable, str(Path(__file__).parents[2] / "evaluate_among.py"), str(digits), str(folder)]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[3])])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    started = [
        subprocess.Popen([*words, told], env=os.environ | place | own | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]

    def found() -> list[dict[str, Any]]:
        try:
            assert [process.wait(timeout=300) for process in started] == [0, 0]
        finally:
            for process in started:
                process.kill()
                process.wait()
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]

    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compare_dense(configs: Mapping[str, EvaluateConfig], main: dict[str, Any], other: dict[str, Any], at: Path) -> None:
    for name, settings in configs.items():
        data = dense(at / f"{name} alone set" / "set", TASK_OF[settings.kind])
        expected, logged = evaluate_exactly(settings, data, at / f"{name} alone")
        assert main[name]["metrics"] == pytest.approx(expected.metrics, abs=1e-6), name
        assert other[name]["metrics"] == {}
        assert main[name]["logged"].keys() == other[name]["logged"].keys() == logged.keys(), name
        for step, figures in logged.items():
            assert main[name]["logged"][step] == pytest.approx(figures, rel=1e-6, abs=1e-6), (name, step)
            assert other[name]["logged"][step] == main[name]["logged"][step], (name, step)
        ours, alone = at / name, at / f"{name} alone"
        torch.testing.assert_close(load_file(ours / "model.safetensors"), load_file(alone / "model.safetensors"))
        for split in ("val", "test") if settings.test else ("val",):
            kept, true = (predictions.read(folder, split) for folder in (ours, alone))
            np.testing.assert_allclose(kept.scores, true.scores, atol=1e-6)
            if settings.kind == "segmentation":
                with (
                    np.load(ours / f"artifacts/masks-{split}.npz") as a,
                    np.load(alone / f"artifacts/masks-{split}.npz") as b,
                ):
                    assert list(a) == list(b)
                    assert all((a[key] == b[key]).all() for key in a)
        files = [sorted(str(file.relative_to(each)) for file in each.rglob("*")) for each in (ours, alone)]
        assert files[0] == files[1]


@pytest.mark.slow
def test_two_processes_detect_and_segment_as_one_does_whatever_the_head_and_the_batch(
    digits_folder: Path, tmp_path: Path, own_cache: None, one_thread: None
) -> None:
    main, other = among_two(DENSE_CONFIGS, digits_folder, tmp_path)()
    compare_dense(DENSE_CONFIGS, main, other, tmp_path)


@pytest.mark.parametrize(
    "names",
    [FEW, pytest.param(["knn", "finetune", *sorted(CONFIGS.keys() - FEW)], marks=pytest.mark.slow)],
    ids=["few", "others"],
)
def test_two_processes_evaluate_as_one_does(
    names: list[str], dataset: Dataset, digits_folder: Path, state: dict[str, Tensor], tmp_path: Path, one_thread: None
) -> None:
    configs = {name: CONFIGS[name] for name in names}
    found = among_two(configs, digits_folder, tmp_path)
    alone = {name: run(each, dataset, state, tmp_path / f"{name} alone") for name, each in configs.items()}
    features = extract(CONFIGS["knn"], dataset, state, ("train", "val"), lambda *_: None).features
    main, other = found()
    torch.testing.assert_close(main["features"], torch.from_numpy(features), atol=1e-5, rtol=1e-5)
    assert torch.equal(main["features"], other["features"])
    for name, (expected, logged) in alone.items():
        found = main[name]
        assert found["metrics"] == pytest.approx(expected.metrics, abs=1e-6), name
        for split, scores in expected.scores.items():
            if name.startswith("finetune"):  # where gradients add up in another order
                torch.testing.assert_close(found["scores"][split], scores, atol=2e-4, rtol=1e-4, msg=f"{name}, {split}")
            else:
                assert torch.equal(found["scores"][split], scores), (name, split)
        assert found["logged"].keys() == logged.keys(), name
        for step, figures in logged.items():
            assert found["logged"][step] == pytest.approx(figures, rel=1e-3, abs=1e-4), (name, step)
        assert other[name]["metrics"] == {}
    assert not list(tmp_path.glob("*/checkpoints"))
    assert {path.name for path in (tmp_path / "finetune").iterdir()} == {
        path.name for path in (tmp_path / "finetune alone").iterdir()
    }


def test_the_number_of_processes_is_no_part_of_what_a_result_rests_on() -> None:
    from hpt.config import fingerprint

    hashes = {"data": "d", "split": "s", "weights": "w", "precision": "fp32"}
    one, four = (fingerprint(config("linear", processes=count), **hashes) for count in (1, 4))
    assert one == four


class Two(Processes):
    """The share of one of two processes, whose messages this process hears itself."""

    def __init__(self, rank: int) -> None:
        super().__init__(1, "cpu")
        self.count, self.rank = 2, rank
        self.sent: list[Tensor] = []

    def gather(self, rows: Tensor, counts: object = None) -> Tensor:
        self.sent.append(rows)
        return rows


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_are_shared_out_whole_however_few_they_are(dataset: Dataset, state: dict[str, Tensor], size: int) -> None:
    images = dataset.images.subset(dataset.splits["train"][:size])
    compute = Compute.of(EvaluateConfig.model_validate(CONFIGS["knn"].model_dump()))
    backbone = load_backbone("resnet18", state, compute.device)
    whole = embed(backbone, images, 32, compute, lambda *_: None, "")
    parts = [Two(rank) for rank in range(2)]
    for part in parts:
        embed(backbone, images, 32, compute, lambda *_: None, "", part)
    rows = torch.cat([each for part in parts for each in part.sent])
    torch.testing.assert_close(rows, whole, atol=1e-5, rtol=1e-5)


def test_pieces_of_work_are_dealt_out_evenly_and_in_order() -> None:
    processes = Processes(1, "cpu")
    for count, pieces in [(1, 3), (2, 5), (3, 2), (4, 0)]:
        processes.count = count
        portions = processes.portions(list(range(pieces)))
        assert [each for portion in portions for each in portion] == list(range(pieces))
        sizes = [len(portion) for portion in portions]
        assert len(sizes) == count
        assert max(sizes) - min(sizes) <= 1
