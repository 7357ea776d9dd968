"""Files that say what is on the images beside them: which there are, and which images each is about.

    boxes   .json with images and annotations (COCO), an .xml per image (VOC), a .txt per image (YOLO), a .csv with
            columns of corners
    masks   an image per image, in a folder that is called so or under a name that says so

Names alone tell, and the first bytes of a few files. What an annotation file holds, `hpt.dense` reads; here is what it
says of splits, since pretraining must not see what a detection or segmentation tests on.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Literal

from hpt.data import folder_names as called
from hpt.data.listing import SPLITS, Split

BoxKind = Literal["coco", "voc", "yolo", "table"]
CALLED: Mapping[BoxKind, str] = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO", "table": "a table"}
"""What the formats are called."""
Head = Callable[[str, int], bytes]
"""The first bytes of a file, by its name; none where it cannot be read."""

LARGEST = 4 << 30
"""The most bytes of an annotation file."""
PEEK = 1 << 16
"""The bytes by which a JSON file or a table is known."""
ENOUGH = 0.5
"""The share of the images that must have a file of their own, so that such files are their annotations."""
_END = re.compile(
    r"(?:[-_. ](?:mask|masks|seg|segmentation|gt|gtfine|groundtruth|annotation|trimap|label|labels|labelids|"
    r"labeltrainids|leftimg8bit|l|sat|image|img|manual|training|test))+\d*$",
    re.IGNORECASE,
)
"""What the names of masks, and of images with masks, end in."""
_NOT_BOXES = re.compile(r"captions|keypoints|panoptic|image_info|stuff|results|predictions", re.IGNORECASE)
_NOT_CLASSES = re.compile(r"object|instance|colou?r|edge|polygon|trainids", re.IGNORECASE)
"""How masks are called that say something else than the class of each pixel, or say it once more."""
_IMAGE = re.compile(r"\.(jpe?g|png|tiff?|bmp|webp)$", re.IGNORECASE)
_SEPARATOR = re.compile(r"[-_. ]")
LEFT = ("xmin", "x_min", "x1", "left", "bbox_x1", "xmins")
TOP = ("ymin", "y_min", "y1", "top", "bbox_y1", "ymins")
RIGHT = ("xmax", "x_max", "x2", "right", "bbox_x2", "xmaxs")
BOTTOM = ("ymax", "y_max", "y2", "bottom", "bbox_y2", "ymaxs")
X, Y, WIDTH, HEIGHT = (
    ("x", "bbox_x", "x_left"),
    ("y", "bbox_y", "y_top"),
    ("w", "width", "bbox_w", "bbox_width"),
    (
        "h",
        "height",
        "bbox_h",
        "bbox_height",
    ),
)


@dataclass(frozen=True)
class Annotations:
    """The annotation files of some images; names are those of files, below the dataset's folder."""

    kind: BoxKind | None = None
    """How boxes are written; None where there are none."""
    files: tuple[str, ...] = ()
    """The files of boxes of all images: COCO's, or tables."""
    by_image: Mapping[str, str] = field(default_factory=dict)
    """The file of boxes of an image: VOC's or YOLO's."""
    masks: Mapping[str, str] = field(default_factory=dict)
    """The mask of an image."""
    splits: Mapping[str, Split | None] = field(default_factory=dict)
    """The split of each image where a list says it; None of one that is in no list, so that nobody knows."""
    mask_splits: Mapping[str, Split] = field(default_factory=dict)
    """The same of the masks, where those have lists of their own."""

    def __bool__(self) -> bool:
        return self.kind is not None or bool(self.masks)


def find(images: Collection[str], masks: Collection[str], others: Collection[str], head: Head) -> Annotations:
    """What is annotated of some images, given the images that may be masks, and all other files."""
    texts = defaultdict(list)
    for name in sorted(others):
        texts[PurePosixPath(name).suffix.lower()].append(name)
    kind, files, by_image = _boxes(images, texts, head)
    found = _masks(images, masks)
    splits: dict[str, Split | None] = {}
    mask_splits: dict[str, Split] = {}
    if kind == "voc" or found:
        main, segmentation = (_image_sets(images, texts[".txt"], folder, head) for folder in ("main", "segmentation"))
        if kind == "voc":
            splits.update(main)
        if found:
            mask_splits = segmentation
            # Test wins, since pretraining must see the tests of neither.
            splits.update({n: s for n, s in segmentation.items() if n not in splits or s == "test"})
    elif kind == "coco":
        splits.update(_splits_of_coco(images, files, head))
    elif kind == "yolo":
        splits.update(_splits_of_lists(images, texts[".txt"], head))
    elif kind == "table":
        splits.update(splits_of_table(images, files, head))
    if splits:
        splits = {name: splits.get(name) for name in images}
    return Annotations(kind, files, by_image, found, splits, mask_splits)


def _boxes(
    images: Collection[str], texts: Mapping[str, list[str]], head: Head
) -> tuple[BoxKind | None, tuple[str, ...], dict[str, str]]:
    coco = tuple(name for name in texts.get(".json", ()) if is_coco(name, head(name, PEEK)))
    if coco:
        return "coco", coco, {}
    for kind, suffix in (("voc", ".xml"), ("yolo", ".txt")):
        if len(texts.get(suffix, ())) < ENOUGH * len(images):
            continue
        by_image = partners(images, texts.get(suffix, ()))
        if len(by_image) >= ENOUGH * len(images):
            if kind == "voc" and any(b"<annotation" in head(name, PEEK) for name in list(by_image.values())[:8]):
                return "voc", (), by_image
            if kind == "yolo" and _are_yolo([head(name, PEEK) for name in list(by_image.values())[:32]]):
                return "yolo", (), by_image
    tables = tuple(
        name for name in (*texts.get(".csv", ()), *texts.get(".tsv", ())) if box_columns(header_of(head(name, PEEK)))
    )
    return ("table", tables, {}) if tables else (None, (), {})


def is_coco(name: str, start: bytes) -> bool:
    """Whether a JSON file that begins so has COCO's objects: its first keys are known, however long their values."""
    if _NOT_BOXES.search(PurePosixPath(name).name):
        return False
    found = re.findall(rb'"(images|annotations|categories|file_name|image_id|bbox)"\s*:', start)
    return start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and (
        bool({b"images", b"annotations", b"categories"} & set(found))
    )


def _are_yolo(starts: Iterable[bytes]) -> bool:
    """Whether most texts that hold anything hold lines of a class and shares of the image, and nothing else: a damaged
    one does not make the others something else, and is named when they are read."""
    texts = [text for start in starts if (text := start.decode("utf-8-sig", "replace").strip())]
    return 2 * sum(map(_is_yolo, texts)) > len(texts)


def _is_yolo(text: str) -> bool:
    try:
        return all(
            words[0].isdecimal() and len(words) >= 5 and all(-1 <= float(word) <= 2 for word in words[1:])
            for words in map(str.split, text.splitlines()[:200])
            if words
        )
    except ValueError:
        return False


def header_of(start: bytes) -> list[str]:
    """The names of a table's columns, in small letters."""
    text = start.decode("utf-8-sig", "replace").splitlines()[:1]
    if not text:
        return []
    delimiter = max(",;\t", key=text[0].count)
    return [name.strip().lower() for name in next(csv.reader(text, delimiter=delimiter), [])]


def box_columns(header: list[str]) -> tuple[list[int], bool] | None:
    """The places of left, top, right and bottom in a table; or of left, top, width and height, and True."""

    def place(names: tuple[str, ...]) -> int:
        return next((header.index(name) for name in names if name in header), -1)

    for names, by_size in (((LEFT, TOP, RIGHT, BOTTOM), False), ((X, Y, WIDTH, HEIGHT), True)):
        places = [place(name) for name in names]
        if min(places) >= 0:
            return places, by_size
    return None


def _masks(images: Collection[str], candidates: Collection[str]) -> dict[str, str]:
    """The mask of each image, of the kind that most have: by what its folder is called, and by what its name ends in.

    An image with several of a kind, as those of single objects are, has none.
    """
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in candidates:
        folder, _, file = name.rpartition("/")
        end = _END.search(_stem(file))
        kinds[f"{_folders(folder)[1]}:{re.sub(r'[0-9]', '', end[0].lower()) if end else ''}"].append(name)
    best: dict[str, str] = {}
    keys = _Keys(images) if kinds else None
    for kind in sorted(kinds, key=lambda kind: (bool(_NOT_CLASSES.search(kind)), kind)):
        found = _partners(keys, kinds[kind]) if keys else {}
        if len(found) > len(best):
            best = found
    return best


def partners(images: Collection[str], files: Collection[str]) -> dict[str, str]:
    """The file of each image that is called as it is and lies where its annotations would; or else the only one."""
    return _partners(_Keys(images), files) if files else {}


class _Keys:
    """Images by what they are called without what annotations and images end in, and where they lie."""

    def __init__(self, images: Collection[str]) -> None:
        self.of = {name: _key(name) for name in images}
        self.stems = Counter(stem for stem, _ in self.of.values())


def _partners(keys: _Keys, files: Collection[str]) -> dict[str, str]:
    by_key: dict[tuple[str, str], list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in files:
        key = _key(name)
        by_key[key].append(name)
        by_stem[key[0]].append(name)
    found = {}
    for name, key in keys.of.items():
        same = by_key.get(key)
        if same is None and keys.stems[key[0]] == 1:
            same = by_stem.get(key[0])
        if same is not None and len(same) == 1:
            found[name] = same[0]
    return found


def _key(name: str) -> tuple[str, str]:
    """What a file is called without what annotations and images end in, and the folders that tell splits and parts."""
    folder, _, file = name.rpartition("/")
    stem = _stem(file)
    if file.endswith((".txt", ".TXT")):  # 1.jpg.txt
        stem = _IMAGE.sub("", stem)
    end = _END.search(stem) if _SEPARATOR.search(stem) else None
    return (stem[: end.start()] if end and end.start() else stem).lower(), _folders(folder)[0]


def _stem(file: str) -> str:
    return file.rpartition(".")[0] or file


@lru_cache(maxsize=1 << 14)
def _folders(folder: str) -> tuple[str, str]:
    """Of a path of folders those that tell splits and parts apart, and those that are called as annotations are."""
    kept: list[str] = []
    aside: list[str] = []
    parent = ""
    for part in folder.split("/") if folder else ():
        split = called.read_split(part) or _split_within(part)
        if split is not None:
            kept.append(split[0])
        elif not called.is_container(part, parent) and not called.is_aside(part, parent):
            kept.append(part.lower())
        if called.is_aside(part, parent):
            aside.append("masks" if split is not None else part.lower())
        parent = part
    return "/".join(kept), "/".join(aside)


def _split_within(part: str) -> tuple[Split, str] | None:
    """The split of `trainannot`, `valannot` and `testannot`."""
    found = re.fullmatch(r"(train|val|test)(annot|annotations?|masks?|labels?|gt)", part.lower())
    return (SPLITS[("train", "val", "test").index(found[1])], "") if found else None


def _image_sets(images: Collection[str], texts: Iterable[str], folder: str, head: Head) -> dict[str, Split]:
    """The splits of VOC's lists of stems, by image; of several years, each list is about its own."""
    lists: dict[str, dict[str, str]] = defaultdict(dict)
    for name in texts:
        path = PurePosixPath(name)
        parts = [part.lower() for part in path.parts]
        if len(parts) >= 2 and parts[-2] in (folder, "imagesets") and parts[-1] in _LISTS:
            if parts[-2] == "imagesets":
                top = "/".join(path.parts[:-2])
            elif len(parts) >= 3 and parts[-3] == "imagesets":
                top = "/".join(path.parts[:-3])
            else:
                continue
            lists[top].setdefault(path.stem.lower(), name)
    splits: dict[str, Split] = {}
    for top, files in lists.items():
        inside = f"{top}/" if top else ""
        by_stem = {PurePosixPath(name).stem: name for name in images if name.startswith(inside)}
        chosen: list[str] = [each for each in SPLITS if each in files]
        if "train" not in chosen and "trainval" in files:
            chosen.insert(0, "trainval")
        for each in chosen:
            for line in head(files[each], LARGEST).decode("utf-8-sig", "replace").splitlines():
                words = line.split()
                stem = PurePosixPath(words[0]).name if words else ""
                image = by_stem.get(stem) or by_stem.get(PurePosixPath(stem).stem)
                if image is not None:
                    splits[image] = _LISTS[f"{each}.txt"]
    return splits


_LISTS: dict[str, Split] = {"train.txt": "train", "val.txt": "val", "test.txt": "test", "trainval.txt": "train"}


def split_of_file(name: str) -> Split | None:
    """The split that the name of an annotation file says, or its folder's: `instances_val2017.json`, `test/a.json`."""
    path = PurePosixPath(name)
    read = called.read_split(path.stem)
    if read is not None:
        return read[0]
    return called.split_of(path.parent.name) if path.parent.name else None


def _splits_of_coco(images: Collection[str], files: tuple[str, ...], head: Head) -> dict[str, Split]:
    """Of JSON files called after splits, beside images that do not lie in folders of splits."""
    if in_split_folders(images) or len(files) < 2 or len({split_of_file(name) for name in files} - {None}) < 2:
        return {}
    resolve = Places(images)
    splits: dict[str, Split] = {}
    for name in files:
        split = split_of_file(name)
        try:
            listed: Any = json.loads(head(name, LARGEST)).get("images", [])
            paths = [str(image["file_name"]) for image in listed]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        for path in paths:
            image = resolve(path, split)
            if image is not None and split is not None:
                splits[image] = split
    return splits


def _splits_of_lists(images: Collection[str], texts: Iterable[str], head: Head) -> dict[str, Split]:
    """Of lists of paths called train.txt, val.txt and test.txt, beside images not in folders of splits."""
    if in_split_folders(images):
        return {}
    resolve = Places(images)
    splits: dict[str, Split] = {}
    for name in texts:
        path = PurePosixPath(name)
        split = called.split_of(path.stem)
        if split is None or path.stem in {PurePosixPath(image).stem for image in images}:
            continue
        for line in head(name, LARGEST).decode("utf-8-sig", "replace").splitlines():
            if line.strip() and (image := resolve(line.strip(), split)) is not None:
                splits[image] = split
    return splits if "train" in splits.values() else {}


def splits_of_table(images: Collection[str], files: tuple[str, ...], head: Head) -> dict[str, Split]:
    """The splits that tables say in a column, or by their names."""
    resolve = Places(images)
    splits: dict[str, Split] = {}
    for name in files:
        for row in rows_of(head(name, LARGEST)):
            path = path_of(row)
            said = next((row[key] for key in SPLIT_COLUMNS if row.get(key)), None) or split_of_file(name)
            split = called.split_of(said) if isinstance(said, str) else None
            if path and split and (image := resolve(path, split)) is not None:
                splits[image] = split
    return splits


PATH_COLUMNS = ("path", "filename", "file_name", "image", "image_path", "image_id", "img", "file", "name")
LABEL_COLUMNS = ("label", "class", "class_name", "category", "cell_type", "type", "name", "labelname")
SPLIT_COLUMNS = ("split", "set", "subset", "usage")


def rows_of(data: bytes) -> Iterable[dict[str, str]]:
    """The rows of a table with a header, whose names are in small letters."""
    header = header_of(data[:PEEK])
    text = data.decode("utf-8-sig", "replace")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    next(reader, None)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield {name: cell.strip() for name, cell in zip(header, row, strict=False)}


def path_of(row: Mapping[str, str]) -> str:
    """The image that a row of a table of boxes is about."""
    return next((row[name] for name in PATH_COLUMNS if row.get(name)), "")


def in_split_folders(images: Iterable[str]) -> bool:
    """Whether images lie in folders that are called as splits."""
    return any(called.split_of(part) for name in images for part in name.split("/")[:-1])


class Places:
    """Finds the image that an annotation file means by a path, whatever that path is relative to."""

    def __init__(self, images: Iterable[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for name in images:
            self._by_name[name.rpartition("/")[2]].append(name)
            stem = PurePosixPath(name).stem
            if stem != name.rpartition("/")[2]:
                self._by_name[f"{stem}\0"].append(name)

    def __call__(self, path: str, split: Split | None = None, beside: str = "") -> str | None:
        """The one image whose name ends as the path does; of several, that of the split, or that beside a file."""
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if not parts:
            return None
        found = self._by_name.get(parts[-1]) or (
            self._by_name.get(f"{parts[-1]}\0", []) if "." not in parts[-1] else []
        )
        if len(found) < 2:
            return found[0] if found else None
        for length in range(len(parts), 1, -1):
            tail = "/" + "/".join(parts[-length:])
            same = [name for name in found if f"/{name}".endswith(tail)]
            if same:
                found = same
                break
        folder = beside.rpartition("/")[0]
        for narrower in (
            [name for name in found if split in {called.split_of(part) for part in name.split("/")[:-1]}],
            [name for name in found if folder and name.startswith(f"{folder}/")],
        ):
            if len(found) > 1 and narrower:
                found = narrower
        return found[0] if len(found) == 1 else None
