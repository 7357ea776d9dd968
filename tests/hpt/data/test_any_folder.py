"""Folder trees that nobody has drawn by hand: what is read of them, what is left out, and what is refused.

A few dozen trees, always the same ones; `-m slow` draws thousands of others.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from hpt.data.folder import Folder, list_folder
from hpt.data.listing import Listing
from hpt.errors import DataError

EXAMPLES = int(os.environ.get("HPTCTL_EXAMPLES", "3000"))


def png(shade: int, *, own: bool = False) -> bytes:
    out, about = io.BytesIO(), PngImagePlugin.PngInfo()
    if own:
        about.add_text("Software", "hptctl")
    Image.new("L", (3, 2), shade).save(out, "PNG", pnginfo=about)
    return out.getvalue()


IMAGE, MASK, OWN_PICTURE = png(100), png(0), png(200, own=True)
WORDS = {
    "train": ["train", "Training", "seg_train", "train2017", "01-train", "训练集", "TRAIN", "entrainement"],
    "val": ["val", "validation", "Valid", "dev", "val2017", "验证"],
    "test": ["test", "Testing", "seg_test", "test2017", "hold-out", "eval", "тест", "TEST"],
}
CLASSES = ["cat", "dog", "caf\u00e9", "a b", "x'y", "0", "10", "猫", "n01440764", "no dog", "-", "a,b", "cat\tfish"]
FILES = ["1", "02", "img_3", "a b", "caf\u00e9", "x(1)", "IMG.1", "-y", "test_4", "#5", "%20", "label 6"]
SUFFIXES = [".png", ".PNG", "", ".jpg"]  # what is in it decides
WRAPPERS = ["my set", "data", "archive", "v2", "猫"]
JUNK = ["readme.txt", "labels.csv", "notes.pdf", "a.xml", "model.pth", "clip.mp4", "scan.psd", "more.zip", "LICENSE"]
UNSEEN = [".DS_Store", "Thumbs.db", ".git/a.png", "__MACOSX/._1.png", ".ipynb_checkpoints/1.png", "desktop.ini"]
OWN = ["runs/r/run.json", "runs/r/artifacts/curve.png", "mlartifacts/1/a/x.png", "mlflow.db", "check.png", "mine.png"]
TOOLS = ["runs/detect/train/a.png", "wandb/x/media/b.png"]


@dataclass
class Drawn:
    """A tree, and what each file of it is."""

    images: dict[str, str | None] = field(default_factory=dict)
    """The split of each image of the set by its name; None where no folder says it."""
    masks: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def write(self, root: Path) -> None:
        for names, data in ((self.images, IMAGE), (self.masks, MASK), (self.others, b"text"), (self.unseen, IMAGE)):
            for name in names:
                put(root / name, data)
        for name in self.empty:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in self.ours:
            put(root / name, b"{}" if name.endswith((".json", ".db")) else OWN_PICTURE)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@st.composite
def trees(draw: st.DrawFn) -> Drawn:
    tree = Drawn()
    top = "".join(f"{name}/" for name in draw(st.lists(st.sampled_from(WRAPPERS), max_size=2)))
    splits = {
        split: draw(st.sampled_from(words))
        for split, words in WORDS.items()
        if split == "train" or draw(st.booleans())
    }  # fmt: skip
    classes = draw(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=3, unique=True))
    kind = draw(st.sampled_from(["split/class", "class/split", "class", "split", "split/images", "flat", "images"]))
    places = {
        "split/class": {f"{word}/{each}/": split for split, word in splits.items() for each in classes},
        "class/split": {f"{each}/{word}/": split for split, word in splits.items() for each in classes},
        "class": {f"{each}/": None for each in classes},
        "split": {f"{word}/": split for split, word in splits.items()},
        "split/images": {f"{word}/images/": split for split, word in splits.items()},
        "flat": {"": None},
        "images": {"images/": None},
    }[kind]
    files = st.lists(st.sampled_from(FILES), min_size=1, max_size=3, unique=True)
    for place, split in places.items():
        for stem in draw(files):
            tree.images[f"{top}{place}{stem}{draw(st.sampled_from(SUFFIXES))}"] = split
    masks = draw(st.sampled_from(["none", "none", "beside", "folder"]))
    for name in list(tree.images):
        path = PurePosixPath(name)
        if masks == "beside":
            tree.masks.append(str(path.with_name(f"{path.name.removesuffix(path.suffix)}_mask.png")))
        elif masks == "folder" and "images" in kind:
            tree.masks.append(str(path.parent.with_name("masks") / f"{path.name.removesuffix(path.suffix)}.png"))
    twist = draw(st.sampled_from(["", "", "", "loose", "empty", "class of masks", "split in split", "class by split"]))
    if twist == "loose":
        tree.images[f"{top}loose.png"] = None
    elif twist == "empty":
        tree.empty.append(f"{top}{next(iter(splits.values()))}/{draw(st.sampled_from(CLASSES))}")
    elif twist == "class of masks":
        tree.masks.append(f"{top}masks/9.png")
    elif twist == "split in split":
        tree.images[f"{top}{splits['train']}/{splits.get('test', 'test')}/9.png"] = None
    elif twist == "class by split":
        tree.images[f"{top}{draw(st.sampled_from(CLASSES))}/9.png"] = None
    tree.others = [f"{top}{name}" for name in draw(st.lists(st.sampled_from(JUNK), max_size=3, unique=True))]
    tree.unseen = [f"{top}{name}" for name in draw(st.lists(st.sampled_from(UNSEEN), max_size=2, unique=True))]
    if draw(st.booleans()):
        tree.ours = [*OWN, *draw(st.sampled_from([[], TOOLS[1:]]))]
    return tree


def look(root: Path, tree: Drawn) -> None:
    """Read a tree, and see what became of each of its files."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    tree.write(root)
    try:
        listing = list_folder(root)
    except DataError as error:
        assert "\n" not in str(error), tree
        assert str(root) in str(error), (tree, str(error))
        assert ("; " in str(error)) and len(str(error)) < 1500, (tree, str(error))
        return
    used = names_of(listing, root)
    about = (tree, used, [note.text for note in listing.notes])
    assert used.keys() <= tree.images.keys() | set(tree.masks), about  # nothing hidden, and nothing of our own
    assert not {name for name in used if tree.images.get(name) == "test" and used[name] != "test"}, about
    assert not {name for name in used if tree.images.get(name) == "val" and used[name] == "train"}, about
    said = " ".join(note.text for note in listing.notes)
    assert not set(tree.masks) & used.keys() or "are read as images, not as masks" in said, about
    assert not set(listing.classes) & {"masks", "runs", "mlartifacts", "artifacts", "wandb"}, about
    left = sum(int(n.replace(",", "")) for n in re.findall(r"left out as masks[^:]*: ([\d,]+) image", said))
    assert len(used) + left == len(tree.images) + len(tree.masks), about
    counted = Counter({kind: int(n) for n, kind in re.findall(r"(\d+) (\.\w+|without extension)", said)})
    lying = Counter(PurePosixPath(name).suffix or "without extension" for name in tree.others)
    assert all(counted[kind] >= many for kind, many in lying.items()), about
    if tree.ours:
        assert "left out, since hptctl has written them" in said, about


def names_of(listing: Listing, root: Path) -> dict[str, str]:
    assert isinstance(listing.source, Folder)
    prefix = listing.source.root.relative_to(root)
    return {str(prefix / name): split for name, split in zip(listing.names, listing.splits, strict=True)}


def draw(root: Path, many: int, *, derandomize: bool) -> None:
    @settings(
        max_examples=many, derandomize=derandomize, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(trees())
    def each(tree: Drawn) -> None:
        look(root / "here", tree)

    each()


def test_a_tree_is_read_without_loss_or_refused_in_one_line(tmp_path: Path) -> None:
    draw(tmp_path, 100, derandomize=True)


@pytest.mark.slow
def test_so_are_thousands_of_others(tmp_path: Path) -> None:
    draw(tmp_path, EXAMPLES, derandomize=False)
