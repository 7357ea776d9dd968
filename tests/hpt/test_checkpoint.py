"""What a pretraining goes on from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from small_pretraining import config as small
from small_pretraining import run

from hpt import checkpoint, kept_backbones
from hpt.callbacks import Callbacks
from hpt.data.images import Images
from hpt.errors import HptError, Interrupted
from hpt.pretrain import pretrain
from hpt.processes import Processes

config = partial(small, image_size=16)  # which bits there are, not what they mean


def test_a_resumed_run_ends_in_the_same_bits_and_logs_the_same_steps(images: Images, tmp_path: Path) -> None:
    settings = config(steps=6, checkpoint_every=2, log_every=100)
    _, unbroken_log = run(settings, images, tmp_path / "unbroken")
    calls, before = iter([0, 0, 15]), dict[int, float]()
    with pytest.raises(Interrupted, match="step 3 of 6"):
        (tmp_path / "broken").mkdir()
        pretrain(
            settings,
            images,
            None,
            tmp_path / "broken",
            processes=Processes(1, "cpu"),
            callbacks=Callbacks(
                log=lambda metrics, step: before.update({step: metrics["loss"]}), stop=lambda seconds: next(calls)
            ),
        )
    _, after = run(settings, images, tmp_path / "broken")
    assert before | {line["step"]: line["loss"] for line in after} == {
        line["step"]: line["loss"] for line in unbroken_log
    }
    names = sorted(p.name for p in (tmp_path / "broken" / "checkpoints").glob("*.pt"))
    assert names == ["step-00000004.pt", "step-00000006.pt"]
    unbroken, broken = ((tmp_path / name / "backbone.safetensors").read_bytes() for name in ("unbroken", "broken"))
    assert unbroken == broken


def test_a_checkpoint_without_its_seal_does_not_count(images: Images, tmp_path: Path) -> None:
    """Killed between the checkpoint's rename and its seal: the run goes on from the one before, or from the start."""
    settings = config(steps=2, checkpoint_every=2)
    run(settings, images, tmp_path)
    expected = (tmp_path / "backbone.safetensors").read_bytes()
    (tmp_path / "checkpoints" / "step-00000002.sha256").unlink()
    assert [line["step"] for line in run(settings, images, tmp_path)[1]] == [1, 2]
    assert (tmp_path / "backbone.safetensors").read_bytes() == expected


def test_what_else_lies_beside_the_checkpoints_and_a_damaged_seal_count_for_nothing(
    images: Images, tmp_path: Path
) -> None:
    settings = config(steps=4, checkpoint_every=2)
    run(settings, images, tmp_path)
    folder = tmp_path / "checkpoints"
    for name in ("step-00000004 (copy).pt", "step-best.pt"):
        (folder / name).write_bytes((folder / "step-00000004.pt").read_bytes())
    (folder / "step-00000004.sha256").write_bytes(b"\xff\xfe")
    (tmp_path / "backbones").mkdir()
    for name in ("step-2.safetensors", "step-2 (copy).safetensors", "step-02.safetensors"):
        (tmp_path / "backbones" / name).touch()
    assert checkpoint.steps(folder) == [2, 4]
    assert kept_backbones.steps_of(tmp_path) == [2]
    assert [line["step"] for line in run(settings, images, tmp_path)[1]] == [3, 4]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(images: Images, tmp_path: Path) -> None:
    settings = config(steps=4, checkpoint_every=2)
    run(settings, images, tmp_path)
    expected = (tmp_path / "backbone.safetensors").read_bytes()
    last = tmp_path / "checkpoints" / "step-00000004.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # one flipped bit, which torch.load would not notice
    last.write_bytes(content)
    steps = [line["step"] for line in run(settings, images, tmp_path)[1]]
    assert steps == [3, 4]
    assert (tmp_path / "backbone.safetensors").read_bytes() == expected


def test_a_model_that_is_no_longer_finite_is_not_saved(images: Images, tmp_path: Path) -> None:
    settings = config(steps=4, checkpoint_every=2, log_every=100, optimizer={"lr": 1e38})
    with pytest.raises(HptError, match="the loss is"):
        run(settings, images, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.pt"))
