"""Folders and zip files of images, in the layouts that people have.

    train/cat/1.jpg  val/cat/2.jpg  test/cat/3.jpg      splits and classes; also valid/, validation/
    cat/1.jpg  dog/2.jpg                                classes
    train/1.jpg  test/2.jpg                             splits, unlabelled
    1.jpg  more/2.jpg                                   unlabelled: an image directly in the folder

Inside a class folder images may lie at any depth. A zip is read in place, never extracted, and may wrap its
content in one top folder.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hpt.data import zip_file
from hpt.data.listing import Listing, Read, Split, Unreadable
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Folder:
    """A source of images by their paths, which are relative to a folder or absolute."""

    root: Path

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield str(self.root.resolve())
        for name in names:
            try:
                facts = (self.root / name).stat()
            except OSError:
                yield "missing"
            else:
                yield f"{facts.st_size} {facts.st_mtime_ns}"

    def open(self) -> AbstractContextManager[Read]:
        return nullcontext(self._read)

    def _read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None


@dataclass
class _Tree:
    """The content of a folder or an archive, by relative posix names."""

    images: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    others: Counter[str] = field(default_factory=Counter)
    """The number of files of each extension that are not images."""

    def add(self, name: str) -> None:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in EXTENSIONS:
            self.images.append(name)
        elif PurePosixPath(name).name.lower() != "thumbs.db":
            self.others[suffix or "without extension"] += 1

    def below(self, prefix: str) -> _Tree:
        images = [name.removeprefix(prefix) for name in self.images if name.startswith(prefix)]
        folders = {name.removeprefix(prefix) for name in self.folders if name.startswith(prefix)}
        return _Tree(images, folders, self.others)


def list_folder(path: Path) -> Listing:
    """The images of a folder.

    Raises:
        DataError: there are no images, a class is empty, or the layout is ambiguous.
    """
    tree = _walk(path)
    wrapper = _wrapper(tree, path, in_archive=False)
    return Listing.single_label(Folder(path / wrapper), _arrange(tree.below(wrapper), path))


def list_zip(path: Path) -> Listing:
    """The images of a zip file.

    Raises:
        DataError: as `list_folder`; or the archive is damaged, or a member is encrypted, claims an absurd size, or has
            a path that leads out of the archive.
    """
    tree = _Tree()
    with zip_file.open_zip(path) as archive:
        for member in archive.infolist():
            zip_file.check_name(member, path)
        members = zip_file.members(archive)
        for name in members:
            if _hidden(name):
                continue
            tree.folders.update(name[: slash.start()] for slash in re.finditer("/", name))
            if not name.endswith("/"):
                tree.add(name)
        for name in tree.images:
            zip_file.check_member(members[name], path)
    tree.images.sort()
    wrapper = _wrapper(tree, path, in_archive=True)
    return Listing.single_label(zip_file.Zip(path, wrapper), _arrange(tree.below(wrapper), path))


def _walk(root: Path) -> _Tree:
    """Everything below a folder, through its links; a link back to a folder above it is not followed again."""
    tree = _Tree()
    foreign: list[str] = []
    todo: list[tuple[str, frozenset[str]]] = [("", frozenset())]
    while todo:
        folder, above = todo.pop()
        real = os.path.realpath(root / folder)
        if real in above:
            continue
        try:
            entries = list(os.scandir(root / folder))
        except OSError as error:
            raise DataError(f"folder {root / folder} cannot be read: {error.strerror}") from None
        for entry in entries:
            name = f"{folder}{entry.name}"
            if _hidden(entry.name):
                continue
            if not _is_utf8(entry.name):
                foreign.append(name)
            elif entry.is_dir():
                tree.folders.add(name)
                todo.append((f"{name}/", above | {real}))
            elif entry.is_file() or entry.is_symlink():
                tree.add(name)
    if foreign:  # splits, predictions and pages name the images, as text
        first = os.fsencode(root / min(foreign)).decode("utf-8", errors="backslashreplace")
        others = f" (nor of {len(foreign) - 1} more)" if len(foreign) > 1 else ""
        raise DataError(
            f"the name of {first} is not UTF-8{others}", "rename the files, for example with convmv -t utf8 -f latin1"
        )
    return tree


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def composed(name: str) -> str:
    """The name of a class in Unicode's composed form: macOS writes `e` and an accent where others write `\u00e9`."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _hidden(name: str) -> bool:
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))


def _wrapper(tree: _Tree, where: Path, *, in_archive: bool) -> str:
    """`"top/"` where everything lies in one folder that is neither a split nor a class.

    In an archive that is the folder that was zipped, even if images lie directly in it: one class has no use.
    """
    if not tree.images:
        found = ", ".join(f"{count} {suffix}" for suffix, count in tree.others.most_common(4))
        raise DataError(
            f"{where} holds no images ({f'found {found}' if found else 'it is empty'})",
            f"images end in {', '.join(sorted(EXTENSIONS))}",
        )
    tops = {name.partition("/")[0] for name in (*tree.images, *tree.folders)}
    if len(tops) != 1:
        return ""
    (top,) = tops
    if top in tree.images or top.lower() in SPLIT_FOLDERS:
        return ""
    holds_images = any("/" not in name.removeprefix(f"{top}/") for name in tree.images)
    return f"{top}/" if in_archive or not holds_images else ""


def _arrange(tree: _Tree, where: Path) -> dict[str, tuple[Split, str | None]]:
    """Split and class of each image."""
    loose = sorted(name for name in tree.images if "/" not in name)
    tops = {name.partition("/")[0] for name in tree.images if "/" in name}
    splits = {SPLIT_FOLDERS[top.lower()] for top in tops if top.lower() in SPLIT_FOLDERS}
    classes = sorted(top for top in tops if top.lower() not in SPLIT_FOLDERS)
    if splits and loose:
        raise DataError(
            f"{where} holds {', '.join(sorted(splits))} and, directly, {loose[0]}, whose split is unknown",
            "move the images beside the split folders away, or into one of them",
        )
    if splits and not classes:
        return _arrange_splits(tree, splits, where)
    if "train" in splits and len(splits) > 1:
        raise DataError(
            f"{where} holds images in '{classes[0]}' beside {', '.join(sorted(splits))}",
            "move that folder away, so that only splits remain",
        )
    if loose:
        if tops:
            log.warning("images lie directly in %s, so all are unlabelled and its folders are not classes", where)
        return dict.fromkeys(tree.images, ("train", None))
    _refuse_empty({name for name in tree.folders if "/" not in name} - tops, where)
    return {name: ("train", composed(name.partition("/")[0])) for name in tree.images}


def _arrange_splits(tree: _Tree, splits: set[Split], where: Path) -> dict[str, tuple[Split, str | None]]:
    if "train" not in splits:
        raise DataError(f"{where} holds {', '.join(sorted(splits))} but no train", "name one folder 'train'")
    images: dict[str, tuple[Split, str | None]] = {}
    for name in tree.images:
        top, *between, _ = name.split("/")
        images[name] = (SPLIT_FOLDERS[top.lower()], composed(between[0]) if between else None)
    labelled = _check_split_labels(images, where)
    if "train" in labelled:
        folders = {
            composed(parts[1])
            for parts in (name.split("/") for name in tree.folders)
            if len(parts) == 2 and SPLIT_FOLDERS.get(parts[0].lower()) == "train"
        }
        known = {label for split, label in images.values() if split == "train"}
        elsewhere = {label for _, label in images.values() if label is not None}
        _refuse_empty((folders | elsewhere) - known, where / "train")
    return images


def _check_split_labels(images: Mapping[str, tuple[Split, str | None]], where: Path) -> set[Split]:
    """The splits with class folders; a split must have all its images in class folders, or none."""
    directly = {split: name for name, (split, label) in images.items() if label is None}
    labelled = {split for split, label in images.values() if label is not None}
    for split in sorted(labelled & set(directly)):
        raise DataError(
            f"in {where}, {split} holds class folders and, directly, {directly[split]}, whose class is unknown",
            "move it into a class folder",
        )
    return labelled


def _refuse_empty(classes: set[str], where: Path) -> None:
    if classes:
        raise DataError(f"class '{min(classes)}' has no images in {where}", "remove the folder or put images into it")
