"""Convolutions in bf16 on a CPU whose weights get their gradients in fp32.

A gradient of weights is a sum over all images. oneDNN's bf16 kernels for it took five times as long beside another busy
process, a step's convolutions back 2.1 s instead of 0.4 (a ResNet-18 at 32 px, two cores; whatever OpenMP's threads do
while they wait), those of fp32 1.7 times. Alone fp32 is as quick here, since what reads and writes activations,
forward and back, stays in bf16; and what is summed is not rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode


class WeightGradientsInFp32(TorchFunctionMode):
    """The context of a forward pass under `torch.autocast("cpu", torch.bfloat16)`: each `conv2d` in it computes what it
    would anyway, and goes back as the module's docstring has it. Where autocast is off, and where no gradient is wanted
    of the weights, nothing changes."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            return _convolved(*args, **kwargs)
        return func(*args, **kwargs)


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    as_usual = input.dim() == 4 and input.dtype in (torch.float32, torch.bfloat16) and weight.dtype == torch.float32
    if not (weight.requires_grad and as_usual) or isinstance(padding, str):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    places = _pair(stride), _pair(padding), _pair(dilation), groups
    found: Tensor = _Convolution.apply(input, weight, bias, places)
    return found


Places = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups."""


class _Convolution(torch.autograd.Function):
    """[n, C, H, W] and [D, C / groups, h, w] -> [n, D, H', W'] in bf16."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, places: Places) -> Tensor:
        stride, padding, dilation, groups = places
        images, kernels = input.bfloat16(), weight.bfloat16()
        ctx.save_for_backward(images, kernels)
        ctx.places, ctx.of_input = places, input.dtype
        shift = None if bias is None else bias.bfloat16()
        return torch.convolution(images, kernels, shift, stride, padding, dilation, False, [0, 0], groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None]:
        images, kernels = ctx.saved_tensors
        wants_input, _, wants_bias, _ = ctx.needs_input_grad

        def gradients(numbers: tuple[Tensor, Tensor, Tensor], wanted: list[bool]) -> list[Tensor]:
            stride, padding, dilation, groups = ctx.places
            place = stride, padding, dilation, False, [0, 0], groups
            sizes = [len(kernels)] if wanted[2] else None
            return list(torch.ops.aten.convolution_backward(*numbers, sizes, *place, wanted))

        of_input = gradients((of_output, images, kernels), [True, False, False])[0] if wants_input else None
        exact = of_output.float(), images.float(), kernels.float()
        _, of_weight, of_bias = gradients(exact, [False, True, wants_bias])
        return None if of_input is None else of_input.to(ctx.of_input), of_weight, of_bias, None


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
