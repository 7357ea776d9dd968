"""What the numbers or colours of masks mean: lists of classes beside them.

    classes.json      {"classes": [...], "ignore": "index 11"}; or entries with name and id, index or color
    classes.txt       a name a line, the first is 0; also `7 car`, or `car 64 0 128` with a colour
    class_dict.csv    name,r,g,b; also with a column of numbers
    data.yaml         names: [...], as YOLO has them

Names that say that a pixel has no class (void, ignore, unlabelled) are ignored, and so is 255 of an index.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from hpt.data.annotation_files import Head
from hpt.errors import DataError

LARGEST = 16 << 20
_FILE = re.compile(
    r"(class|classes|class_?names?|class_?(dict|list|map)|labels?|label_?(colou?rs?|map|names?|list)|categories|"
    r"names|palette|colou?rs?|dataset|data|info|meta)",
    re.IGNORECASE,
)
_NONE = re.compile(r"void|ignored?|un-?labell?ed|un-?known|don'?t ?care|no ?data|invalid", re.IGNORECASE)
_NUMBER_KEYS = ("index", "train_id", "trainid", "trainId", "id", "number", "value", "pixel", "class_id")
_COLOUR_KEYS = ("color", "colour", "rgb", "palette")


@dataclass(frozen=True)
class ListedClass:
    """One line of a list."""

    name: str
    number: int
    """The index in masks."""
    colour: int | None = None
    """The colour in masks, as 0xRRGGBB."""


@dataclass(frozen=True)
class ClassList:
    """The classes of masks."""

    classes: tuple[ListedClass, ...]
    """All that are listed, ignored ones among them."""
    ignored: frozenset[int]
    """The numbers that count neither in training nor in a figure."""
    file: str = ""
    """Where it stands."""

    @property
    def coloured(self) -> bool:
        """Whether every class has a colour."""
        return bool(self.classes) and all(each.colour is not None for each in self.classes)

    @property
    def kept(self) -> tuple[ListedClass, ...]:
        """The classes that are not ignored, by their numbers."""
        return tuple(sorted((c for c in self.classes if c.number not in self.ignored), key=lambda c: c.number))


def find(others: Collection[str], head: Head) -> ClassList | None:
    """The list among the files beside masks, the one nearest to the top; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    for name in sorted(others, key=lambda each: (each.count("/"), each)):
        path = PurePosixPath(name)
        if path.suffix.lower() in (".json", ".txt", ".csv", ".yaml", ".yml") and _FILE.fullmatch(
            re.sub(r"^_+", "", path.stem)
        ):
            found = parse(head(name, LARGEST), name)
            if found is not None:
                return found
    return None


def parse(data: bytes, name: str) -> ClassList | None:
    """The list in a file; None where it holds something else.

    Raises:
        DataError: it is damaged, or two classes have one number or colour.
    """
    text = data.decode("utf-8-sig", "replace")
    suffix = PurePosixPath(name).suffix.lower()
    ignored: set[int] = set()
    if suffix in (".json", ".yaml", ".yml"):
        try:
            facts = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise DataError(f"{name} cannot be read: {' '.join(str(error).split())}", "correct or remove it") from None
        entries, ignored = _of_facts(facts)
    else:
        entries = _of_lines(text)
    if not entries:
        return None
    ignored |= {entry.number for entry in entries if _NONE.fullmatch(entry.name.strip().replace("_", " "))}
    for what, values in (
        ("number", [entry.number for entry in entries]),
        ("name", [entry.name for entry in entries]),
        ("colour", [entry.colour for entry in entries if entry.colour is not None]),
    ):
        if len(set(values)) < len(values):
            raise DataError(f"two classes of {name} have the same {what}", "give each its own")
    if max(entry.number for entry in entries) > 255:
        raise DataError(f"{name} numbers a class above 255", "number the classes 0 to 254")
    return ClassList(tuple(entries), frozenset(ignored), name)


def _of_facts(facts: Any) -> tuple[list[ListedClass], set[int]]:
    ignored: set[int] = set()
    listed = facts
    if isinstance(facts, dict):
        listed = next(
            (facts[key] for key in ("classes", "names", "categories", "labels", "class_names") if key in facts), facts
        )
    entries: list[ListedClass] = []
    if isinstance(listed, list):
        for number, each in enumerate(listed):
            if isinstance(each, str):
                entries.append(ListedClass(each, number))
            elif isinstance(each, dict) and isinstance(name := each.get("name") or each.get("label"), str):
                said = next((each[key] for key in _NUMBER_KEYS if isinstance(each.get(key), int)), number)
                colour = next((_colour(each[key]) for key in _COLOUR_KEYS if key in each), None)
                entries.append(ListedClass(name, said, colour))
                if each.get("ignore") is True or said < 0:
                    ignored.add(said)
            else:
                return [], set()
    elif isinstance(listed, dict):
        for number, (key, value) in enumerate(listed.items()):
            colour = _colour(value)
            if isinstance(key, int) or (isinstance(key, str) and key.isdecimal() and isinstance(value, str)):
                entries.append(ListedClass(str(value), int(key)))
            elif isinstance(key, str) and isinstance(value, int) and not isinstance(value, bool):
                entries.append(ListedClass(key, value))
            elif isinstance(key, str) and colour is not None:
                entries.append(ListedClass(key, number, colour))
            else:
                return [], set()
    if isinstance(facts, dict):
        for key in ("ignore", "ignored", "ignore_index", "ignore_label", "void", "unlabelled", "unlabeled"):
            ignored |= _ignored(facts.get(key), entries)
    return entries, ignored


def _ignored(said: Any, entries: list[ListedClass]) -> set[int]:
    """The numbers that a file says are ignored: 11, [11, 255], "index 11 (unlabelled)", or names."""
    if isinstance(said, bool) or said is None:
        return set()
    if isinstance(said, int):
        return {said}
    if isinstance(said, list):
        return set().union(*(_ignored(each, entries) for each in said)) if said else set()
    by_name = {entry.name.lower(): entry.number for entry in entries}
    text = str(said)
    if text.lower() in by_name:
        return {by_name[text.lower()]}
    return {int(number) for number in re.findall(r"\d+", text)}


def _of_lines(text: str) -> list[ListedClass]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    entries: list[ListedClass] = []
    for line in lines:
        words = [word for word in re.split(r"[,;:\t]+", line) if word.strip()]
        if len(words) == 1:
            words = line.split()
        words = [
            part
            for word in words
            for part in (word.split() if re.fullmatch(r"[\d\s]+", word.strip()) else [word.strip()])
        ]
        numbers = [int(word) for word in words if word.isdecimal()]
        names = [word for word in words if not word.isdecimal()]
        if not numbers and not entries and _is_header(line):
            continue
        name = " ".join(names)
        if not name:
            return []
        if len(numbers) in (3, 4):
            number = numbers[0] if len(numbers) == 4 else len(entries)
            red, green, blue = numbers[-3:]
            if max(red, green, blue) > 255:
                return []
            entries.append(ListedClass(name, number, red << 16 | green << 8 | blue))
        elif len(numbers) <= 1:
            entries.append(ListedClass(name if numbers else line, numbers[0] if numbers else len(entries)))
        else:
            return []
    return entries


def _is_header(line: str) -> bool:
    header = {cell.strip().lower() for cell in next(csv.reader(io.StringIO(line)), [])}
    return len(header) > 1 and bool(header & {"name", "class", "label", "r", "red", "class_name", "index", "id"})


def _colour(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:], 16)
    if isinstance(value, list) and len(value) >= 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in value[:3]):
        return int(value[0]) << 16 | int(value[1]) << 8 | int(value[2])
    return None
