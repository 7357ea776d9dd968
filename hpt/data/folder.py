"""Folders and zip files of images, in the layouts that people have.

    train/cat/1.jpg  val/cat/2.jpg  test/cat/3.jpg      splits and classes; also Training/, seg_train/, val2017/
    cat/1.jpg  dog/2.jpg                                classes
    cat/train/1.jpg  cat/test/2.jpg                     splits below classes
    train/1.jpg  test/2.jpg                             splits, unlabelled; also train/images/1.jpg
    images/1.jpg  labels/1.txt                          unlabelled, beside annotations or masks
    1.jpg  more/2.jpg                                   unlabelled: an image directly in the folder

Inside a class folder images may lie at any depth, and all of it in wrapping folders. `folder_names` has the names that
mean splits and masks, `layout` what is read as what. A zip is read in place, never extracted.

A file is an image by its suffix, or by its first bytes where the suffix says nothing. What is left out is counted.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from hpt.data import annotation_files, left_out, zip_file
from hpt.data.annotation_files import Annotations, Head
from hpt.data.file_kinds import ARRAYS, EXTENSIONS, EXTRA, FORMATS, LARGEST_FILE, WITH_EXTRA, suffix_of
from hpt.data.folder_names import OTHER_TOOLS, OWN_FOLDERS, composed, hidden, says_splits
from hpt.data.layout import Arranged, Tree, read_layout
from hpt.data.listing import ImageSource, Listing, Note, Read, Unreadable
from hpt.errors import DataError

log = logging.getLogger("hpt.data")

OWN_PICTURES = 32
"""Up to so many images directly in a folder, they are looked at for those that this program has drawn."""
OWN_MARK = b"Software\0hptctl"
OWN_FILES = ("check.png", "preview.png", "mlflow.db")
"""How files begin that this program writes into a working folder."""
FOREIGN_RUN = re.compile(r"runs/(detect|classify|segment|pose|obb|train|predict|val|exp)\d*/")
"""What YOLO's tools write into a working folder."""
LISTS = frozenset({".txt", ".csv", ".tsv", ".json", ".jsonl", ".mat", ".parquet", ".xlsx"})
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})


@dataclass(frozen=True)
class Folder:
    """A source of images by their paths, which are relative to a folder or absolute."""

    root: Path

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        yield str(self.root.resolve())
        root = str(self.root)
        for name in names:
            try:
                facts = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118  a third of a Path's time
            except OSError:
                yield "missing"
            else:
                yield f"{facts.st_size} {facts.st_mtime_ns}"

    def open(self) -> AbstractContextManager[Read]:
        return nullcontext(self._read)

    def _read(self, name: str) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                if (size := os.fstat(file.fileno()).st_size) > LARGEST_FILE:
                    limit = LARGEST_FILE / 2**30
                    raise Unreadable(f"{size / 2**30:.1f} GiB, above the limit of {limit:g} GiB: cut it into tiles")
                return file.read()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from None


def list_folder(path: Path) -> Listing:
    """The images of a folder.

    Raises:
        DataError: there are no images, a class is empty, or the layout is ambiguous.
    """
    with _in_folder(path) as content:
        return _listing(content).listing


def list_zip(path: Path) -> Listing:
    """The images of a zip file.

    Raises:
        DataError: as `list_folder`; or the archive is damaged, or a member is encrypted, claims an absurd size, or has
            a path that leads out of the archive.
    """
    with _in_zip(path) as content:
        return _listing(content).listing


@dataclass(frozen=True)
class Annotated:
    """A folder or a zip file as `list_folder` reads it, with the files that say what is on its images."""

    listing: Listing
    """The images."""
    annotations: Annotations
    """The annotation files; images are called as in the folder."""
    prefix: str
    """What stands before an image's name in the listing, to make it that in the folder."""
    others: frozenset[str]
    """All files that are no images."""
    source: ImageSource
    """What reads any file, by its name in the folder."""
    head: Head
    """The first bytes of any file."""


@contextmanager
def open_annotated(path: Path) -> Iterator[Annotated]:
    """A folder or a zip file with its annotation files, open while the block runs.

    Raises:
        DataError: as `list_folder` and `list_zip`.
    """
    if path.is_file() and path.suffix.lower() != ".zip":
        yield _of_table(path)
        return
    with _in_folder(path) if path.is_dir() else _in_zip(path) as content:
        yield _listing(content, tell=False)


def is_box_table(path: Path) -> bool:
    """Whether a list is a table of boxes, with a line an object."""
    return annotation_files.box_columns(annotation_files.header_of(_head_of(path, annotation_files.PEEK))) is not None


def list_box_table(path: Path) -> Listing:
    """The images that a table of boxes names, whether they exist or not, in the splits that it says.

    Raises:
        DataError: it names none, or the split of some only.
    """
    listing = _of_table(path).listing
    left_out.tell(path.name, listing.notes)
    return listing


def _of_table(path: Path) -> Annotated:
    folder = Folder(path.parent.resolve())
    data = _head_of(path, annotation_files.LARGEST)
    rows = annotation_files.rows_of(data)
    names = {annotation_files.path_of(row).replace("\\", "/").removeprefix("./") for row in rows} - {""}
    if not names:
        raise DataError(f"{path} names no image", "it needs a column path and a line an object")
    found = Annotations("table", (path.name,))
    splits = annotation_files.splits_of_table(names, (path.name,), lambda _, size: data[:size])
    if splits and len(splits) < len(names):
        raise DataError(
            f"{path}: {min(names - splits.keys())} is in no split, although others are",
            "fill it in, or remove the column so that the splits are cut",
        )
    notes = (Note("a table of boxes: a line an object", doubtful=False),)
    images: Arranged = {name: (splits.get(name, "train"), None) for name in names}
    listing = replace(Listing.single_label(folder, images, notes=notes), annotated=True)
    others = frozenset({path.name})
    return Annotated(listing, found, "", others, folder, lambda name, size: _head_of(folder.root / name, size))


def _head_of(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


@dataclass(frozen=True)
class _Content:
    tree: Tree
    path: Path
    head: Head
    source: Callable[[str], ImageSource]
    in_archive: bool


@contextmanager
def _in_folder(path: Path) -> Iterator[_Content]:
    def head(name: str, size: int) -> bytes:
        return _head_of(path / name, size)

    yield _Content(_walk(path, head), path, head, lambda prefix: Folder(path / prefix), in_archive=False)


@contextmanager
def _in_zip(path: Path) -> Iterator[_Content]:
    with zip_file.open_zip(path) as archive:

        def head(name: str, size: int) -> bytes:
            try:
                with archive.open(members[name]) as file:
                    return file.read(size)
            except Exception:  # each method of packing has errors of its own
                return b""

        tree = Tree()
        for member in archive.infolist():
            zip_file.check_name(member, path)
        members = zip_file.members(archive)
        for name in members:
            if hidden(name):
                continue
            tree.folders.update(name[: slash.start()] for slash in re.finditer("/", name))
            if not name.endswith("/"):
                _add(tree, name, head)
        for name in tree.images:
            zip_file.check_member(members[name], path)
        tree.images = sorted(set(tree.images))
        yield _Content(tree, path, head, lambda prefix: zip_file.Zip(path, prefix), in_archive=True)


def _listing(content: _Content, *, tell: bool = True) -> Annotated:
    tree, path, head = content.tree, content.path, content.head
    if not tree.images:
        tree.images = sorted(name for name, kind in tree.others.items() if kind in ARRAYS)
        tree.others = {name: kind for name, kind in tree.others.items() if kind not in ARRAYS}
    found = Counter(tree.others.values())
    notes: list[Note] = []
    tree = _without_own(tree, head, notes)
    if not tree.images:
        packed = sum(count for kind, count in found.items() if kind in left_out.PACKED)
        unpack = "unpack the archives; " if packed else ""
        if any(kind in WITH_EXTRA for kind in found):
            unpack += f"{EXTRA} reads {', '.join(sorted(WITH_EXTRA & set(found)))}; "
        raise DataError(
            f"{path} holds no images ({f'found {left_out.counts(found)}' if found else 'it is empty'})",
            f"{unpack}images end in {', '.join(sorted(EXTENSIONS))}",
        )
    layout = read_layout(tree, path, in_archive=content.in_archive)
    images = {name: (split, composed(label) if label else label) for name, (split, label) in layout.images.items()}
    full = {f"{layout.prefix}{name}" for name in images}
    annotations = annotation_files.find(full, set(tree.images) - full, tree.others, head)
    used = {*annotations.files, *annotations.by_image.values()}
    others = (kind for name, kind in tree.others.items() if name not in used and not name.startswith(OWN_FILES))
    notes = [*layout.notes, *notes, *left_out.notes_of_others(others)]
    if annotations.kind is not None:
        many = f"{left_out.counted(len(used), 'file')} of boxes ({annotation_files.CALLED[annotations.kind]})"
        notes.append(Note(f"{many}, which a detection reads", doubtful=False))
    if annotations.splits and all(label is None for _, label in images.values()):
        images = _by_lists(images, annotations, layout.prefix, notes)
    elif all(split == "train" for split, _ in images.values()) and (said := _files_of_splits(tree)):
        many = f" and {len(said) - 1} more" if len(said) > 1 else ""
        text = "may say what is test, and is not read: a list with the columns path, label and split can"
        notes.append(Note(f"{said[0]}{many} {text}"))
    if tell:
        left_out.tell(path.name, notes)
    listing = Listing.single_label(content.source(layout.prefix), images, notes=tuple(notes))
    return Annotated(
        listing=replace(listing, annotated=bool(annotations)),
        annotations=annotations,
        prefix=layout.prefix,
        others=frozenset(tree.others),
        source=content.source(""),
        head=head,
    )


def _by_lists(images: Arranged, annotations: Annotations, prefix: str, notes: list[Note]) -> Arranged:
    """The images in the splits that lists say, without those that no list names, whose split nobody knows."""
    said = {name: annotations.splits.get(f"{prefix}{name}") for name in images}
    if "train" not in said.values():
        return images
    listed: Arranged = {name: (split, None) for name, split in said.items() if split is not None}
    notes.append(Note("splits are those of the lists beside the annotations", doubtful=False))
    if gone := len(images) - len(listed):
        first = min(name for name, split in said.items() if split is None)
        notes.append(
            Note(f"left out, since no list of splits names them: {left_out.counted(gone, 'image')}, as {first}")
        )
    return listed


def _files_of_splits(tree: Tree) -> list[str]:
    """Texts beside the images, and not beside one each, that are called as lists of splits are."""
    found = {name: stem for name, kind in tree.others.items() if kind in LISTS and says_splits(stem := _stem(name))}
    stems = {_stem(name) for name in tree.images} if found else set[str]()
    return sorted(name for name, stem in found.items() if stem not in stems)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _without_own(tree: Tree, head: Head, notes: list[Note]) -> Tree:
    """The tree without this program's own runs and pictures, and other tools' folders."""
    runs = {name.rsplit("/", 2)[0] for name in tree.others if re.search(r"(^|/)runs/[^/]+/run\.json$", name)}
    own = {name for name in tree.folders if name.rpartition("/")[2] in OWN_FOLDERS} | runs
    in_runs = [name for name in tree.images if name.startswith("runs/")]
    tools = {"runs"} if "runs" not in own and any(FOREIGN_RUN.match(name) for name in in_runs) else set[str]()
    if "runs" in tree.folders and not in_runs:
        own.add("runs")
    tools |= {name for name in tree.folders if name.rpartition("/")[2] in OTHER_TOOLS}
    loose = [name for name in tree.images if "/" not in name and name.endswith(".png")]
    few = len(loose) <= min(OWN_PICTURES, len(tree.images) - 1)
    pictures = [name for name in loose if name.startswith(OWN_FILES[:2]) or OWN_MARK in head(name, 1024)] if few else []
    if pictures or own:
        names = ", ".join([*(f"{name}/" for name in sorted(own)), *pictures])
        notes.append(Note(f"left out, since hptctl has written them: {names}", doubtful=False))
    if tools:
        names = ", ".join(f"{name}/" for name in sorted(tools))
        notes.append(Note(f"left out, since other programs have written them: {names}", doubtful=False))
    return tree.without(own | tools, pictures) if own or tools or pictures else tree


def _add(tree: Tree, name: str, head: Head) -> None:
    suffix = suffix_of(name)
    start = b""
    if suffix not in EXTENSIONS and suffix not in left_out.NOT_IMAGES | left_out.OTHER_IMAGES:
        start = head(name, left_out.HEAD)
    if name.rpartition("/")[2].lower() in SYSTEM_FILES:
        return
    if (suffix in EXTENSIONS and suffix not in ARRAYS) or left_out.is_image(start, FORMATS):
        tree.images.append(name)
    else:
        tree.others[name] = left_out.kind_of(name, start)


def _walk(root: Path, head: Head) -> Tree:
    """Everything below a folder, through its links; a link back to a folder above it is not followed again."""
    tree = Tree()
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
            if hidden(entry.name):
                continue
            if not _is_utf8(entry.name):
                foreign.append(name)
            elif entry.is_dir():
                tree.folders.add(name)
                todo.append((f"{name}/", above | {real}))
            elif entry.is_file() or entry.is_symlink():
                _add(tree, name, head)
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
