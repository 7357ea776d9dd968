"""Absolute paths in a run's record, which lead elsewhere once the run is on another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hptctl.runs.record import Spec

Move = tuple[str, str]
"""A folder or file, and where it lies now."""


def moved(spec: Spec, moves: Sequence[Move]) -> Spec:
    """A run's record with its paths as they are after the moves; of several that fit a path the longest is made."""
    ordered = sorted(moves, key=lambda move: len(move[0]), reverse=True)
    tags = spec.tags.model_copy(
        update={key: _moved(getattr(spec.tags, key), ordered) for key in ("weights", "weights_file")}
    )
    return spec.model_copy(
        update={
            "source_folder": _moved(spec.source_folder, ordered),
            "config": _moved(spec.config, ordered),
            "tags": tags,
        }
    )


def _moved(value: Any, moves: Sequence[Move]) -> Any:
    if isinstance(value, dict):
        return {key: _moved(each, moves) for key, each in value.items()}
    if isinstance(value, list):
        return [_moved(each, moves) for each in value]
    if isinstance(value, str) and Path(value).is_absolute():
        for old, new in moves:
            old = old.rstrip(os.sep)
            if value == old or value.startswith(f"{old}{os.sep}"):
                return f"{new.rstrip(os.sep)}{value[len(old) :]}"
    return value


def without_places(value: Any) -> Any:
    """A configuration without its absolute paths: what it is wherever its images and weights lie."""
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    return os.sep if isinstance(value, str) and Path(value).is_absolute() else value


def images_of(config: Any) -> Iterator[str]:
    """The folders, zip files and lists of images that a configuration names by absolute paths."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "dataset" and isinstance(value, str) and Path(value).is_absolute():
                yield value
            else:
                yield from images_of(value)
