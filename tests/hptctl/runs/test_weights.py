"""Weights that a command and its run need are read once."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from hpt import encoder, weights
from hpt.errors import WeightsError
from hptctl.runs.weights import read_weights


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file is hashed, which each reading begins with."""
    counts: Counter[str] = Counter()
    hashing = weights._sha256

    def counting(path: Path) -> str:
        counts[path.name] += 1
        return hashing(path)

    monkeypatch.setattr(weights, "_sha256", counting)
    return counts


def a_resnet(file: Path, seed: int = 0, without: str = "") -> Path:
    state = {
        k: v for k, v in encoder.build("resnet18", seed=seed).state_dict().items() if not without or without not in k
    }
    weights.save(state, file, metadata={})
    return file


@pytest.mark.slow
def test_a_pretraining_reads_its_base_once(hptctl, workplace: Path, hashed: Counter[str]) -> None:
    a_resnet(workplace / "w.safetensors")
    hashed.clear()
    hptctl("pretrain", "-s", "base", "-d", "digits", "-w", "w.safetensors", "--preset", "tiny", "--device", "cpu")
    assert hashed["w.safetensors"] == 1


def test_a_file_that_changes_is_read_again(tmp_path: Path, hashed: Counter[str]) -> None:
    file = a_resnet(tmp_path / "w.safetensors")
    first = read_weights(file)
    assert read_weights(file, backbone="resnet18") is first
    a_resnet(file, seed=1)
    os.utime(file, ns=(1, 1))
    assert read_weights(file).sha256 != first.sha256


@pytest.mark.slow
def test_a_part_of_a_backbone_is_pretrained_where_that_is_allowed(
    hptctl, workplace: Path, hashed: Counter[str]
) -> None:
    a_resnet(workplace / "part.safetensors", without="layer4.1.bn2")
    words = ("pretrain", "-s", "base", "-d", "digits", "-w", "part.safetensors", "--preset", "tiny", "--device", "cpu")
    assert "start the rest afresh with --allow-partial" in " ".join(hptctl(*words, code=2).stderr.split())
    hashed.clear()
    hptctl(*words, "--allow-partial")
    assert hashed["part.safetensors"] <= 1


def test_weights_that_have_a_part_are_refused_although_they_were_read_before(tmp_path: Path) -> None:
    file = a_resnet(tmp_path / "part.safetensors", without="layer4.1.bn2")
    allowed = read_weights(file, backbone="resnet18", allow_partial=True)
    assert not allowed.whole
    with pytest.raises(WeightsError, match=r"only \d+ of the \d+ tensors"):
        read_weights(file, backbone="resnet18")
    with pytest.raises(WeightsError, match="asked for resnet50"):
        read_weights(a_resnet(tmp_path / "w.safetensors"), backbone="resnet50")
