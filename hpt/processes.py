"""The processes of one run: who this one is, and the few things that they share.

One process needs no framework. Several were started by `accelerate launch` (or any launcher that sets
torch.distributed's environment), and Accelerate's state tells each its rank and device.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hpt.config import EvaluateConfig, PretrainConfig
from hpt.errors import ConfigError, HptError


class Processes:
    """This process among `count`."""

    def __init__(self, count: int, device: str = "auto") -> None:
        """Join the run's processes.

        Raises:
            ConfigError: no such device here. HptError: the launcher started another number of processes.
        """
        self.count = count
        self.rank = 0
        self.device = choose_device(device)
        if count > 1:
            from accelerate import PartialState

            state = PartialState(cpu=self.device.type == "cpu")
            self.rank, self.device = state.process_index, state.device
            if state.num_processes != count:
                raise HptError(f"the run wants {count} processes, but the launcher started {state.num_processes}")
        self.main = self.rank == 0
        if self.device.type == "cpu":
            _keep_freed_memory()

    def gather(self, rows: Tensor) -> Tensor:
        """[n, d] of every process -> [count * n, d], in the order of their ranks."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def share(self, rows: Tensor) -> Tensor:
        """[count * n, ...] -> [n, ...]: the rows that are this process's, which `gather` would bring together again."""
        n = len(rows) // self.count
        return rows[self.rank * n : (self.rank + 1) * n]

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with one message."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers: how they agree to stop at the same step."""
        if self.count == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return int(shared)

    def wait(self) -> None:
        """Wait until every process has come to this call."""
        if self.count > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """Take the process group down."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _keep_freed_memory() -> None:
    """Have glibc keep what was freed for the next step, instead of returning it and asking for it anew.

    Each large tensor would otherwise be a fresh mapping whose pages are faulted in one by one: 60,000 faults and 3 to
    12 % of a ResNet-18's step at 64 px. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def choose_device(name: str) -> torch.device:
    """`auto`: the first CUDA device, else Apple's, else the CPU.

    Raises:
        ConfigError: the device is not on this machine.
    """
    if name == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    device = torch.device(name)
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= count:
        raise ConfigError(
            f"device {name} is not on this machine, which has {count} of {device.type}", "use --device auto"
        )
    return device


@dataclass(frozen=True)
class Compute:
    """What computes, and how: the device, and the precision and memory layout of what a model does there."""

    device: torch.device
    bf16: bool
    """Matrix products and convolutions in bf16; weights, sums and losses stay in fp32."""

    @classmethod
    def of(cls, config: PretrainConfig | EvaluateConfig, device: torch.device | None = None) -> Compute:
        """What a configuration asks for; `device` is given where a run's processes have shared the devices out.

        Raises:
            ConfigError: the device is not on this machine.
        """
        device = device or choose_device(config.device)
        return cls(device, use_bf16(config.precision, device))

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """The precision by its name in a configuration."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and convolutions: a pixel's channels side by side where that is quicker, which is 4 to
        11 % of a ResNet-18's step at 64 px on 2 cores."""
        return torch.channels_last if self.device.type in ("cpu", "cuda") else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """The context in which a model is called."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bf16: asked for, or `auto` on a GPU that does it in hardware.

    `auto` on a CPU is fp32, although some have bf16 and are quicker in it (`cpu_has_bf16`): figures there should not
    depend on the model of the processor, nor on the number of processes by more than fp32 rounds.
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def planned_precision(config: PretrainConfig | EvaluateConfig) -> Literal["fp32", "bf16"]:
    """The precision that a configuration would be computed in; of a device that is not here, what its kind has."""
    try:
        return Compute.of(config).precision
    except ConfigError:
        is_gpu = config.precision == "auto" and config.device.startswith("cuda")
        return "bf16" if is_gpu or config.precision == "bf16" else "fp32"


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies in bf16 (AVX512-BF16 or AMX); False where PyTorch does not say."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
