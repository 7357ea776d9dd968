"""The processes of one run: who this one is, and the few things that they share.

One process needs no framework. Several were started by `accelerate launch` (or any launcher that sets
torch.distributed's environment), and Accelerate's state tells each its rank and device.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor

from hpt import freed_memory
from hpt.config import EvaluateConfig, PretrainConfig
from hpt.errors import LOST, ConfigError, ProcessLost
from hpt.weight_gradients import WeightGradientsInFp32

T = TypeVar("T")
STEP_LIMIT = timedelta(minutes=30)
"""How long a process waits in a step for the others: one of them may look at the backbone, or save, meanwhile."""
PATIENCE = timedelta(days=7)
"""And before the first step, where one machine may decode its images while another has them decoded."""
POLL_SECONDS = 0.05
STOP_EVERY_ON_GPU = 10
"""Steps between looks at the stop signal of several GPU processes: each look waits for the device."""


class Processes:
    """This process among `count`."""

    def __init__(self, count: int, device: str = "auto") -> None:
        """Join the run's processes.

        Raises:
            ConfigError: no such device here, or the launcher started another number of processes. ProcessLost: not
                all of them came.
        """
        self.count = count
        self.rank = 0
        self.here = 1
        """The number of them on this machine."""
        self.device = choose_device(device)
        if count > 1:
            from accelerate import PartialState

            with together():
                state = PartialState(cpu=self.device.type == "cpu", timeout=STEP_LIMIT)
            self.rank, self.device = state.process_index, state.device
            if state.num_processes != count:
                raise ConfigError(
                    f"the run wants {count} processes, but the launcher started {state.num_processes}",
                    f"have it start {count} (`accelerate launch --cpu` starts one, whatever it is told)",
                )
            self.here = min(count, int(os.environ.get("LOCAL_WORLD_SIZE", count)))
            with together():
                group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
            assert isinstance(group, torch.distributed.ProcessGroup)
            self._patient = group
        self.main = self.rank == 0
        self.look_every = STOP_EVERY_ON_GPU if count > 1 and self.device.type == "cuda" else 1
        """The number of steps between two at which the processes agree whether to stop."""
        if self.device.type == "cpu":
            freed_memory.keep()

    def gather(self, rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """[n, ...] of every process -> [count * n, ...], in the order of their ranks.

        Args:
            counts: how many rows each process has, where they differ.
        """
        if self.count == 1:
            return rows
        counts = counts or [len(rows)] * self.count
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        with together():
            torch.distributed.all_gather(parts, padded)
        return torch.cat([part[:own] for part, own in zip(parts, counts, strict=True)])

    def share(self, rows: Tensor) -> Tensor:
        """[count * n, ...] -> [n, ...]: the rows that are this process's, which `gather` would bring together again."""
        n = len(rows) // self.count
        return rows[self.rank * n : (self.rank + 1) * n]

    def portions(self, pieces: Sequence[T]) -> list[Sequence[T]]:
        """Pieces of work dealt out to the processes: each has consecutive ones, as many as the others or one more."""
        ends = [len(pieces) * number // self.count for number in range(self.count + 1)]
        return [pieces[first:last] for first, last in pairwise(ends)]

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, with one message."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with together():
            torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, with one message."""
        tensors = list(tensors)
        self.sum_(tensors)
        if self.count > 1 and tensors:
            torch._foreach_div_(tensors, float(self.count))

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers: how they agree to stop at the same step."""
        if self.count == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        with together():
            torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        return int(shared)

    def of_main(self, make: Callable[[], T]) -> T:
        """What `make` gives, which the main process alone calls, on every process: tensors (elsewhere on the CPU),
        numbers, texts, and lists, tuples and dictionaries of them.

        The others need neither the main process's files nor its time. An error of `make` is the main process's alone;
        the others then lose it.
        """
        if self.count == 1:
            return make()
        content = io.BytesIO()
        made: list[T] = []
        if self.main:
            made.append(make())
            torch.save(made[0], content)
        length = torch.tensor(len(content.getbuffer()))
        self._await(torch.distributed.broadcast(length, 0, group=self._patient, async_op=True))
        data = torch.empty(int(length), dtype=torch.uint8)
        if self.main:
            data = torch.frombuffer(content.getbuffer(), dtype=torch.uint8)
        self._await(torch.distributed.broadcast(data, 0, group=self._patient, async_op=True))
        if self.main:
            return made[0]
        loaded: T = torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)
        return loaded

    def everyones(self, said: str) -> list[str]:
        """A text of each process, in the order of their ranks, once the slowest has come to this call."""
        if self.count == 1:
            return [said]
        mine = torch.tensor([*said.encode()], dtype=torch.uint8)
        lengths = [torch.empty((), dtype=torch.int64) for _ in range(self.count)]
        length = torch.tensor(len(mine))
        self._await(torch.distributed.all_gather(lengths, length, group=self._patient, async_op=True))
        padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in lengths]
        self._await(torch.distributed.all_gather(parts, padded, group=self._patient, async_op=True))
        return [bytes(part[: int(own)].tolist()).decode() for part, own in zip(parts, lengths, strict=True)]

    def wait(self) -> None:
        """Wait until every process has come to this call."""
        if self.count > 1:
            with together():
                torch.distributed.barrier()

    def _await(self, work: torch.distributed.Work | None) -> None:
        """Wait in Python, where a signal is heard, and not in the library for days."""
        assert work is not None
        with together():
            while not work.is_completed():
                time.sleep(POLL_SECONDS)
            work.wait()

    def leave(self) -> None:
        """Take the process group down."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def together() -> Iterator[None]:
    """A block in which all processes take part, and that ends where one of them is gone.

    Raises:
        ProcessLost: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # gloo's, and the base of torch.distributed's own
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ProcessLost(f"{LOST} ({why})") from error


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

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """The context in which a model is called."""
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16))
            if self.bf16 and self.device.type == "cpu":
                stack.enter_context(WeightGradientsInFp32())
            yield


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
