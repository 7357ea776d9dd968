"""The energy that a run took, where the hardware counts it: RAPL of the processors (Linux), NVML of NVIDIA's GPUs.

The counters are those of whole packages and GPUs: whatever else ran there is in them, and memory, fans and the power
supply's losses are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass
class _Counter:
    what: str
    read: Callable[[], float]
    """Joules since some time."""
    wraps: float
    """Joules after which it begins anew."""
    last: float = 0.0


class Meter:
    """Counts from when it is made; it must be read every few minutes, since a processor's counter soon begins anew."""

    def __init__(self, device: torch.device, count: int = 1) -> None:
        """Of this machine's processors, and of `device`, or the first `count` of its kind, where it is a GPU."""
        self._joules = 0.0
        self._counters: list[_Counter] = []
        for counter in (*_packages(), *_gpus(device, count)):
            try:
                counter.last = counter.read()
            except (OSError, ValueError):  # since 2020 some systems let root alone read them
                continue
            self._counters.append(counter)

    @property
    def of(self) -> str:
        """What is counted: `1 processor, 2 GPUs`; nothing where nothing is."""
        kinds = [counter.what for counter in self._counters]
        return ", ".join(f"{kinds.count(kind)} {kind}{'s' * (kinds.count(kind) > 1)}" for kind in dict.fromkeys(kinds))

    def watt_hours(self) -> float | None:
        """Since the meter was made; None where nothing is counted."""
        try:
            for counter in self._counters:
                now = counter.read()
                self._joules += now - counter.last + (counter.wraps if now < counter.last else 0.0)
                counter.last = now
        except (OSError, ValueError):  # a counter that has gone: half of the energy would be no figure
            self._counters = []
        return self._joules / 3600 if self._counters else None


def _packages() -> Iterator[_Counter]:
    """The processors' packages; `psys` and the parts of packages would count the same twice."""
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        try:
            if (zone / "name").read_text().startswith("package"):
                wraps = int((zone / "max_energy_range_uj").read_text()) / 1e6
                yield _Counter("processor", partial(_joules, zone / "energy_uj"), wraps)
        except (OSError, ValueError):
            continue


def _joules(file: Path) -> float:
    return int(file.read_text()) / 1e6


def _gpus(device: torch.device, count: int) -> Iterator[_Counter]:
    if device.type != "cuda":
        return
    import pynvml

    def joules(handle: object) -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from None

    try:
        pynvml.nvmlInit()
        for index in range(count) if count > 1 else (device.index or 0,):
            uuid = torch.cuda.get_device_properties(index).uuid
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            yield _Counter("GPU", partial(joules, handle), 0.0)
    except pynvml.NVMLError:  # another maker's GPU, or a part of one: none of them counts
        return
