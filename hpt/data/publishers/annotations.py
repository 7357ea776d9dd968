"""Annotation files, read with errors that name the file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpt.errors import DataError

REPAIR = "delete it and prepare the dataset again"


def damaged(path: Path, why: object) -> DataError:
    """The error for an annotation file that does not hold what its publisher writes."""
    return DataError(f"{path} is damaged: {why}", REPAIR)


def read_json(path: Path) -> Any:
    """A whole JSON file; COCO's and BDD's take some seconds and gigabytes, which is why their listings are kept."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, error) from None


def read_words(path: Path) -> Iterator[tuple[str, ...]]:
    """The words of each line that is not blank."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if words := tuple(line.split()):
                    yield words
    except UnicodeDecodeError as error:
        raise damaged(path, error) from None
