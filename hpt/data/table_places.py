"""Where the images of a list lie, and what they are called, from their paths as written.

A path that ends as an image does is taken as it is. One that does not, or that could be written in another way, is
looked for: with slashes for Windows' backslashes, in Unicode's composed and decomposed forms (macOS writes the latter),
without spaces around it, and, where it has no ending (the ids of many published lists), with those of images.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from hpt.data.file_kinds import EXTENSIONS
from hpt.errors import DataError


class Places:
    """Finds where an image lies and what it is called, from its path as written."""

    def __init__(self, path: Path) -> None:
        self._root = str(path.parent.resolve())
        # Absolute paths may come through the same links as the list's own.
        self._above = sorted({_slash(folder) for folder in (self._root, str(path.parent.absolute()))})
        self._known: dict[str, tuple[str, str]] = {}
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, text: str) -> tuple[str, str]:
        """Where an image lies, the same however its path is written; and its name in the listing."""
        folder, slash, file = text.rpartition("/")
        place, name = self._known.get(folder + slash) or self._folder(folder + slash)
        return place + file, name + file

    def doubtful(self, text: str) -> bool:
        """Whether the disk has to be asked how a path is meant."""
        return text[text.rfind(".") :].lower() not in EXTENSIONS or not text.isascii() or "\\" in text or ":" in text

    def on_disk(self, text: str, at: str) -> str:
        """The path as the disk has it; as it is written, with slashes, where there is no such image.

        Raises:
            DataError: the path, which is written `at` a line, is one of Windows, or names none or several images.
        """
        forms = list(_forms(text))
        for form in forms:
            if os.path.lexists(os.path.join(self._root, form)):  # noqa: PTH118  # a Path would lose trailing slashes
                return form
        if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
            raise DataError(f"{at}: {text} is a path of Windows", "write it relative to the list's folder, with /")
        if re.match(r"[a-z0-9]+://", text):
            raise DataError(f"{at}: {text} is an address", "download the images, and list their paths")
        plain = forms[-1]
        folder, slash, stem = plain.rpartition("/")
        if Path(stem).suffix.lower() in EXTENSIONS:
            return text if "\\" not in text else plain
        found = self._endings(folder + slash).get(unicodedata.normalize("NFC", stem), [])
        if len(found) > 1:
            raise DataError(f"{at}: {plain} may be {' or '.join(sorted(found))}", "write names with their endings")
        if not found:
            raise self._nowhere(plain, at)
        return folder + slash + found[0]

    def _endings(self, folder: str) -> dict[str, list[str]]:
        """The images of a folder by their names without ending."""
        if folder not in self._stems:
            stems: dict[str, list[str]] = defaultdict(list)
            try:
                names = os.listdir(os.path.join(self._root, folder))  # noqa: PTH118, PTH208
            except (OSError, ValueError):
                names = []
            for name in names:
                stem, ending = os.path.splitext(name)  # noqa: PTH122  # 100,000 names
                if ending.lower() in EXTENSIONS:
                    stems[unicodedata.normalize("NFC", stem)].append(name)
            self._stems[folder] = stems
        return self._stems[folder]

    def _nowhere(self, text: str, at: str) -> DataError:
        """The line for a name without an ending that no image has; it may be one folder below."""
        folder, slash, stem = text.rpartition("/")
        try:
            below = sorted(e.name for e in os.scandir(os.path.join(self._root, folder)) if e.is_dir())  # noqa: PTH118
        except (OSError, ValueError):
            below = []
        for each in below:
            if found := self._endings(f"{folder}{slash}{each}/").get(stem):
                return DataError(
                    f"{at}: {text} is not here, but {each}/{found[0]} is", f"write {each}/ before the names"
                )
        return DataError(
            f"{at}: {text} does not end as an image does, and no image {text}.* is beside the list",
            "write the path with its ending, relative to the list's folder",
        )

    def _folder(self, text: str) -> tuple[str, str]:
        path = Path(self._root, text)
        place = _slash(str(path))
        inside = None if ".." in path.parts else self._inside(place)
        if inside is None:
            real = _slash(os.path.realpath(path))  # on the disk `link/..` is not where `link` is
            inside = self._inside(real)
        if inside is not None:
            found = inside, inside
        elif Path(text).is_absolute():
            found = real, real if ".." in path.parts else place
        else:
            found = real, _slash(os.path.relpath(real, self._root))
        self._known[text] = found
        return found

    def _inside(self, place: str) -> str | None:
        return next((place.removeprefix(above) for above in self._above if place.startswith(above)), None)


def _forms(text: str) -> Iterator[str]:
    """A path as it may be meant, the plainest last."""
    for form in dict.fromkeys((text, text.strip(), text.strip().replace("\\", "/"))):
        for unicode in ("NFD", "NFC"):
            yield unicodedata.normalize(unicode, form)


def _slash(folder: str) -> str:
    return folder.rstrip("/") + "/"
