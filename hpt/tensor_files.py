"""Files of tensors, opened without running the code that they may hold.

A file's kind is told by its content, not by its name: PyTorch's zip and its older format, safetensors, and pickles of
NumPy arrays.
"""

from __future__ import annotations

import codecs
import importlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open

from hpt.errors import WeightsError

METADATA = "hptctl"
"""The entry of a safetensors file's metadata that says that this program wrote it."""
_AGAIN = "download or copy it again"


def content_of(path: Path) -> tuple[Any, str | None]:
    """The content of a file, on the CPU, and the program that wrote it where it says so.

    Raises:
        WeightsError: the file is damaged, holds more than tensors, or is of another kind.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.load's, about old formats
        return _open(path)


def why(error: Exception) -> str:
    """What a library says went wrong, on one line."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]


def _open(path: Path) -> tuple[Any, str | None]:
    with path.open("rb") as file:
        head = file.read(80)
    if not head:
        raise WeightsError("the file is empty", _AGAIN)
    if head.startswith((b"PK\x03\x04", b"\x80")):
        content = _open_torch(path, zipped=head.startswith(b"PK"))
        return content, _writer(content) if isinstance(content, Mapping) else None
    if head[8:9] == b"{":
        try:
            with safe_open(path, "pt", device="cpu") as tensors:
                ours = METADATA in (tensors.metadata() or {})
                content = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
                return content, METADATA if ours else None
        except Exception as error:
            raise WeightsError(f"the file is truncated or damaged ({why(error)})", _AGAIN) from None
    text = head.decode("ascii", errors="replace").partition("\n")[0].strip()
    what = (
        f"a text that begins {text!r}" if text.isascii() and text.isprintable() else "neither PyTorch nor safetensors"
    )
    raise WeightsError(f"this is not a weights file but {what}", _AGAIN)


def _open_torch(path: Path, *, zipped: bool) -> Any:
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                names = {name.rpartition("/")[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            raise WeightsError("the file is truncated or damaged", _AGAIN) from None
        if "constants.pkl" in names:
            raise WeightsError(
                "the file holds a TorchScript program, which is code; nothing of it was run",
                "give the model's state_dict",
            )
        if "data.pkl" not in names:
            raise WeightsError("this is a zip file that PyTorch did not write", "give the weights file itself")
    try:
        with path.open("rb") as file:  # given a path, torch.load lets its ending decide about the format
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"the file cannot be read ({why(error)})") from None
    except Exception as error:  # a damaged pickle raises anything
        if not zipped and (arrays := _open_arrays(path)) is not None:
            return arrays
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        refused = named[1] if named else _first_global(path) if not zipped else None
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise WeightsError(
                f"the file holds more than tensors: {refused}, which could be code; nothing of it was run",
                "if you trust its author, load it in Python and save its state_dict alone",
            ) from None
        raise WeightsError("the file is truncated or damaged", _AGAIN) from None


class _Arrays(pickle.Unpickler):
    """Unpickles NumPy arrays and nothing else that is not built in, which is what detectron2's .pkl files hold."""

    _KNOWN: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,  # of Python 2's strings, into bytes
    }

    def find_class(self, module: str, name: str) -> Any:
        """
        Raises:
            pickle.UnpicklingError: anything else.
        """
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name in {"_reconstruct", "scalar"}:
            return getattr(importlib.import_module(module), name)
        if (module, name) in self._KNOWN:
            return self._KNOWN[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}")


def _open_arrays(path: Path) -> Any:
    """The content of a pickle of NumPy arrays, as tensors; None where it holds anything else."""
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="latin1").load()
        return (
            _as_tensors(content) if isinstance(content, Mapping) else None
        )  # PyTorch's older files begin with a number
    except Exception:  # a damaged pickle raises anything
        return None


def _as_tensors(content: Any, depth: int = 0) -> Any:
    if isinstance(content, Mapping) and depth < 8:
        return {key: _as_tensors(value, depth + 1) for key, value in content.items()}
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
        return torch.from_numpy(np.array(content))
    return content


def _first_global(path: Path) -> str | None:
    """The first thing that a bare pickle would import, read from its opcodes without running them."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(path.read_bytes()):
            if opcode.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:  # damaged: what was read so far named nothing
        return None
    return None


def _writer(content: Mapping[Any, Any]) -> str | None:
    if "pytorch-lightning_version" in content:
        return "Lightning"
    return "OpenSelfSup or MMSelfSup" if "meta" in content else None
