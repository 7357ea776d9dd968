from __future__ import annotations

import pytest
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from hpt.schedule import cosine, parse_schedule, rising, thirds, warmed


def test_the_cosine_equals_pytorchs() -> None:
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = SGD([parameter], lr=0.03)
    scheduler = CosineAnnealingLR(optimizer, T_max=200)
    for step in range(200):
        assert cosine(step, 200, 0.03) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_moco_v3_warms_up_and_its_momentum_rises_to_1() -> None:
    rates = [warmed(step, 100, 2.0, 0.1) for step in range(101)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(1.0)
    assert rates[10] == max(rates) == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert [warmed(step, 10, 2.0, 0.0) for step in range(10)] == [cosine(step, 10, 2.0) for step in range(10)]
    assert warmed(3, 4, 1.0, 1.0) == 0.75
    assert [round(rising(step, 100, 0.99), 6) for step in (0, 50, 100)] == [0.99, 0.995, 1.0]


def test_the_protocols_2500_steps_drop_at_833_and_1667() -> None:
    rates = [thirds(step, 2500, 1.0) for step in range(2500)]
    assert rates.index(0.1) == 833
    assert rates.index(0.01) == 1667


def test_90_epochs_drop_at_30_and_60() -> None:
    steps = parse_schedule("90-epochs").steps(images=1000, batch_size=512)
    assert steps == 180
    rates = [thirds(step, steps, 1.0) for step in range(steps)]
    assert (rates.index(0.1), rates.index(0.01)) == (60, 120)


def test_val_is_looked_at_every_100_steps_or_every_epoch() -> None:
    looks = {
        text: parse_schedule(text).look_every(1000, 512) for text in ("2500-steps", "90-epochs", "500-steps", "4-steps")
    }
    assert looks == {"2500-steps": 100, "90-epochs": 2, "500-steps": 50, "4-steps": 1}


@pytest.mark.parametrize("text", ["0-steps", "2500", "-1-steps", "ten-epochs", "5-days", ""])
def test_a_schedule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="schedule"):
        parse_schedule(text)
