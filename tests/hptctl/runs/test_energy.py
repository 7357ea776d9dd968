"""The energy of a run, from counters such as a Linux machine has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hptctl.runs import energy
from hptctl.runs.energy import Meter

CPU = torch.device("cpu")


def zone(root: Path, number: str, name: str, joules: float) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text("262143000000\n")
    return turn(folder, joules)


def turn(folder: Path, joules: float) -> Path:
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "powercap"
    monkeypatch.setattr(energy, "POWERCAP", root)
    return root


def test_packages_are_added_up_and_their_parts_and_the_platform_are_not_counted_again(powercap: Path) -> None:
    packages = [zone(powercap, "0", "package-0", 1000), zone(powercap, "1", "package-1", 50)]
    others = [zone(powercap, "0:0", "core", 10), zone(powercap, "2", "psys", 10)]
    meter = Meter(CPU)
    assert meter.of == "2 processors"
    assert meter.watt_hours() == 0
    turn(packages[0], 1000 + 3600)
    turn(packages[1], 50 + 1800)
    for other in others:
        turn(other, 10_000)
    assert meter.watt_hours() == pytest.approx(1.5)
    assert meter.watt_hours() == pytest.approx(1.5)


def test_a_counter_that_begins_anew_loses_nothing(powercap: Path) -> None:
    package = zone(powercap, "0", "package-0", 262_000)
    meter = Meter(CPU)
    turn(package, 1_657)
    assert meter.watt_hours() == pytest.approx((143 + 1_657) / 3600)


def test_where_nothing_tells_there_is_no_figure_rather_than_a_zero(powercap: Path) -> None:
    assert Meter(CPU).watt_hours() is None
    assert Meter(CPU).of == ""
    package = zone(powercap, "0", "package-0", 10)
    meter = Meter(CPU)
    (package / "energy_uj").unlink()  # as one that may no longer be read
    assert meter.watt_hours() is None
    turn(package, 20)
    assert meter.watt_hours() is None


@pytest.mark.gpu
def test_a_gpu_counts_what_it_computes() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    meter = Meter(torch.device("cuda", 0))
    assert "1 GPU" in meter.of
    for _ in range(200):
        torch.randn(4096, 4096, device="cuda") @ torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    spent = meter.watt_hours()
    assert spent is not None and spent > 0


@pytest.mark.slow
def test_a_pretraining_keeps_its_energy_and_one_that_goes_on_adds_to_it(
    powercap: Path, tmp_path: Path, digits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hpt.config import PretrainConfig, resolve
    from hpt.errors import Interrupted
    from hptctl.runs import Run, launch, worker

    monkeypatch.chdir(tmp_path)
    package = zone(powercap, "0", "package-0", 0)
    flags = {"strategy": "target", "dataset": str(digits_folder), "steps": 4, "batch_size": 16, "device": "cpu"}
    run = launch.create_pretraining(
        resolve(PretrainConfig, sets=["preset=tiny", "log_every=1"], flags=flags), launch.Origin("", "e"), name="r"
    )
    steps = 0

    class Watcher:
        """A watt-hour goes by after each step is logged; the second is the last before a stop."""

        def log(self, metrics: dict[str, float], step: int) -> None:
            pass

        def progress(self, done: int, total: int, what: str) -> None:
            nonlocal steps
            if what == "training":
                steps += 1
                turn(package, 3600 * steps)

        def stop(self, seconds: float) -> int:
            return 15 if steps == 1 else 0

    with pytest.raises(Interrupted):
        worker.work(run, watcher=Watcher())
    worker.work(Run(run.path), watcher=Watcher())
    spent = {line["step"]: line["energy_wh"] for line in run.metrics() if "energy_wh" in line}
    assert spent == {1: 0, 2: pytest.approx(1), 3: pytest.approx(1), 4: pytest.approx(2)}
    assert run.status().facts.energy_of == "1 processor"
