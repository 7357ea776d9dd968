"""A network as an ONNX file, for programs without PyTorch: written by PyTorch's exporter, checked by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from hpt.errors import ConfigError, HptError
from hpt.files import replacing

TOLERANCE = 1e-3
"""The largest difference from the original that passes, as a share of its largest output."""
CHECKED = (1, 3)
"""Batches that the file is checked on."""


def check_installed() -> None:
    """
    Raises:
        ConfigError: the extra `onnx` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX is not installed (no {error.name})", "pip install 'hptctl[onnx]'") from None


def write(model: nn.Module, path: Path, *, channels: int, image_size: int, output: str) -> float:
    """Write a model of normalised images [n, channels, image_size, image_size] of any n, atomically; returns the
    largest difference from the original that onnxruntime found, as a share of the largest output.

    The file's input is called `images`, its output `output`.

    Raises:
        ConfigError: the extra `onnx` is not installed. HptError: the network cannot be exported, or the file computes
            something else.
    """
    check_installed()
    model = model.cpu().eval()
    example = torch.randn(2, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
    with replacing(path) as part:
        said = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _silent():
            warnings.simplefilter("ignore")  # the exporter's, about its own ways
            try:
                torch.onnx.export(
                    model,
                    (example,),
                    part,
                    input_names=["images"],
                    output_names=[output],
                    dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            except Exception as error:  # each operator has complaints of its own
                why = " ".join(str(error).split())[:200]
                raise HptError(f"PyTorch cannot export this network to ONNX ({why})", "use another layout") from None
        difference = _difference(model, part, channels, image_size)
        if not difference <= TOLERANCE:
            raise HptError(
                f"the ONNX file differs from the network by {difference:.2g} of its outputs, so it is not kept"
            )
    return difference


def _difference(model: nn.Module, path: Path, channels: int, image_size: int) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in CHECKED:
        random = torch.Generator().manual_seed(count)
        images = torch.randn(count, channels, image_size, image_size, generator=random)
        (found,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)
        off = (torch.from_numpy(found) - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        largest = max(largest, float(off))
    return largest


@contextlib.contextmanager
def _silent():  # type: ignore[no-untyped-def]
    """What the exporter logs on its way."""
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch._dynamo", "torch.export")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
