"""How the folders of a dataset are read: which are splits, which are classes, and which hold no images of it.

What could be read in two ways is said in a `Note`, or refused where the other reading would cost a result: test images,
masks, annotations and this program's own files never become training data without a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpt.data import folder_names as called
from hpt.data.left_out import OTHER_IMAGES, beside_images, counted
from hpt.data.listing import Note, Split
from hpt.errors import DataError

NAMED = 6
"""The number of folders that a message names."""
ALIKE = 0.5
"""The share of a folder's images that have a namesake elsewhere from which on they are masks of those."""
MASK = re.compile(
    r"^(?P<image>.+?)[-_. ](?:mask|masks|seg|segmentation|gt|groundtruth|annotation|trimap)(?:[-_ ]?\d+)?$", re.I
)
"""The name, without its suffix, of a mask that lies beside its image."""
MASK_HINT = re.compile("mask|seg|gt|groundtruth|annotation|trimap", re.IGNORECASE)
MASK_END = re.compile(
    r"[-_. ]?(mask|masks|seg|segmentation|gt|label|labels|annotation|trimap|color|final|masked|_|\d{1,2}(?=$))+$", re.I
)

Arranged = dict[str, tuple[Split, str | None]]


@dataclass
class Tree:
    """The content of a folder or an archive, by relative posix names."""

    images: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    """The files that are not images, and their kind, such as `.txt`."""

    def below(self, prefix: str) -> Tree:
        return Tree(
            [name.removeprefix(prefix) for name in self.images if name.startswith(prefix)],
            {name.removeprefix(prefix) for name in self.folders if name.startswith(prefix)},
            {name.removeprefix(prefix): kind for name, kind in self.others.items() if name.startswith(prefix)},
        )

    def without(self, folders: Collection[str], images: Collection[str] = ()) -> Tree:
        """Without some folders and all that is in them, and without some images."""

        known: dict[str, bool] = {}

        def stays(name: str) -> bool:
            folder = name.rpartition("/")[0]
            if folder not in known:
                known[folder] = not any(above in folders for above in _and_above(folder))
            return known[folder] and name not in folders

        dropped = frozenset(images)
        return Tree(
            [name for name in self.images if name not in dropped and stays(name)],
            {name for name in self.folders if stays(name)},
            {name: kind for name, kind in self.others.items() if stays(name)},
        )


@dataclass(frozen=True)
class Layout:
    """What a tree was read as."""

    prefix: str
    """The folder, with a slash, below which all of the dataset lies; empty for the tree itself."""
    images: Arranged
    """Split and class of each image, by its name below the prefix."""
    notes: tuple[Note, ...]


def read_layout(tree: Tree, where: Path, *, in_archive: bool) -> Layout:
    """Split and class of each image of a tree, without those that are none of the dataset's.

    Raises:
        DataError: a class is empty, or the layout can be read in several ways.
    """
    notes: list[Note] = []
    tree, unclear = _without_masks(tree, notes)
    prefix = ""
    while (top := _wrapper(tree, in_archive=in_archive)) is not None:
        prefix, tree = prefix + top, tree.below(top)
        unclear = {name.removeprefix(top) for name in unclear}
    images = _arrange(tree, where / prefix, notes)
    _refuse_images_as_class(images, where / prefix)
    _judge_unclear(unclear, images, where / prefix, notes)
    _judge_tests(images, where / prefix, notes)
    return Layout(prefix, images, tuple(notes))


def _without_masks(tree: Tree, notes: list[Note]) -> tuple[Tree, set[str]]:
    """The tree without masks; and the folders that are called as if they held masks, and may hold images."""
    below: dict[str, list[str]] = defaultdict(list)
    for name in tree.images:
        below[name.rpartition("/")[0]].append(name)
    holding = {above for folder in below for above in (folder, *_above(folder)) if above}
    children: dict[str, set[str]] = defaultdict(set)
    for folder in holding | tree.folders:
        children[folder.rpartition("/")[0]].add(folder.rpartition("/")[2])

    aside, unclear = set[str](), set[str]()
    for folder in sorted(holding):
        parent, _, name = folder.rpartition("/")
        if any(above in aside for above in _above(folder)):
            continue
        others = {other for other in children[parent] - {name} if f"{parent}/{other}".lstrip("/") in holding}
        if not called.is_aside(name, parent.rpartition("/")[2]) or called.is_denied(name, others):
            continue
        if not others and not below[parent]:
            continue  # it wraps all there is
        if (
            any(called.is_container(other, parent.rpartition("/")[2]) for other in others)
            or called.splits_among(others)
            or _are_masks(tree.images, folder, parent)
        ):
            aside.add(folder)
        elif below[parent] or not all(called.is_aside(other) for other in others):
            unclear.add(folder)
    if aside:
        gone = sum(len(names) for folder, names in below.items() if any(each in aside for each in _and_above(folder)))
        last = Counter(folder.rpartition("/")[2] for folder in aside)
        places = [name if many == 1 else f"{name} ({many} times)" for name, many in sorted(last.items())]
        notes.append(Note(f"left out as masks or annotations: {counted(gone, 'image')} in {listed(places)}"))
        tree = tree.without(aside)
    maybe = {
        name: f"{folder}/{found['image']}".lstrip("/")
        for name in tree.images
        if MASK_HINT.search(name)
        for folder, stem in [_split(name)]
        if (found := MASK.match(stem))
    }
    stems = {name.rpartition(".")[0] or name for name in tree.images} if maybe else set[str]()
    masks = [name for name, image in maybe.items() if image in stems]
    if masks:
        notes.append(
            Note(f"left out as masks of the images beside them: {counted(len(masks), 'image')}, as {masks[0]}")
        )
        tree = tree.without((), masks)
    return tree, unclear


def _are_masks(images: Sequence[str], folder: str, parent: str) -> bool:
    """Whether the images in a folder are called as others beside it, or as those with `_mask` at the end."""
    inside = {_stem(name) for name in images if name.startswith(f"{folder}/")}
    root = f"{parent}/" if parent else ""
    outside = {_stem(name) for name in images if name.startswith(root) and not name.startswith(f"{folder}/")}
    return len(inside & outside) >= ALIKE * len(inside)


def _stem(name: str) -> str:
    stem = _split(name)[1].lower()
    return stem if stem.isdecimal() else MASK_END.sub("", stem) or stem


def _split(name: str) -> tuple[str, str]:
    """The folder and the name without its suffix."""
    folder, _, file = name.rpartition("/")
    return folder, file.rpartition(".")[0] or file


def _refuse_images_as_class(images: Arranged, where: Path) -> None:
    """Refuse a class `images` beside others, which are more likely masks of them under a name of their own."""
    labels = {label for _, label in images.values() if label is not None}
    if len(labels) > 1 and (found := sorted(label for label in labels if called.is_images(label))):
        others = listed(sorted(labels - set(found)))
        raise DataError(
            f"'{found[0]}' in {where} lies beside {others}, which may be classes or belong to those images",
            "move what are no images of the dataset away, or rename the folder if it is a class",
        )


def _judge_unclear(unclear: Collection[str], images: Arranged, where: Path, notes: list[Note]) -> None:
    for folder in sorted(unclear):
        name = folder.rpartition("/")[2]
        inside = [image for image in images if image.startswith(f"{folder}/")]
        if any(images[image][1] == name for image in inside):
            raise DataError(
                f"'{folder}' in {where} may be a class, or hold masks or annotations of the others",
                "move that folder away, or rename it if it is a class",
            )
        if inside:
            notes.append(Note(f"{counted(len(inside), 'image')} in {folder} are read as images, not as masks"))


def _judge_tests(images: Arranged, where: Path, notes: list[Note]) -> None:
    """Refuse folders deep below that divide training from test images; say of other folders or files that are called as
    test images are that they become training images."""
    train = [(name.rpartition("/")[0], label) for name, (split, label) in images.items() if split == "train"]
    found: Counter[str] = Counter()
    trains = set[str]()
    for (folder, label), count in Counter(train).items():
        for part in folder.split("/")[1:]:
            split = called.split_of(part) if part != label else None
            if split in ("val", "test"):
                found[part] += count
            elif split == "train":
                trains.add(part)
    if found and trains:
        raise DataError(
            f"'{min(trains)}' and '{min(found)}' in {where} may be splits, and not all images lie in splits",
            "move the images beside those folders away, or name the folder that holds the splits",
        )
    if found:
        many = ", ".join(f"{counted(count, 'image')} in folders '{name}'" for name, count in found.most_common(3))
        notes.append(Note(f"{many} are read as training images, since those folders lie below the classes"))
    flat = [name for name, (split, label) in images.items() if split == "train" and label is None]
    begins = Counter(called.split_of(_first_word(name)) for name in flat)
    if begins["train"] and (begins["test"] or begins["val"]):
        notes.append(
            Note(
                f"{counted(begins['test'] + begins['val'], 'image')} whose names begin with test or val are read as "
                "training images; move them into a folder test/ if they are not"
            )
        )


def _first_word(name: str) -> str:
    found = re.match(r"[^\W\d_]*", name.rpartition("/")[2])
    return found[0] if found else ""


def _wrapper(tree: Tree, *, in_archive: bool) -> str | None:
    """`"top/"` where all images lie in one folder that is neither a split nor a class.

    In an archive that is the folder that was zipped, even if images lie directly in it: one class has no use. Beside
    `images/` there may be folders without images, such as `labels/`.
    """
    tops = {name.partition("/")[0] for name in tree.images}
    if len(tops) != 1:
        return None
    (top,) = tops
    if top in tree.images or called.split_of(top) is not None:
        return None
    if called.is_container(top):
        return f"{top}/"
    if {name for name in tree.folders if "/" not in name} - tops - beside_images(tree.folders, tree.others):
        return None
    holds_images = any("/" not in name.removeprefix(f"{top}/") for name in tree.images)
    return f"{top}/" if in_archive or not holds_images else None


def _arrange(tree: Tree, where: Path, notes: list[Note]) -> Arranged:
    """Split and class of each image."""
    loose = sorted(name for name in tree.images if "/" not in name)
    tops = {name.partition("/")[0] for name in tree.images if "/" in name}
    splits = called.splits_among(tops)
    found = {split for split, _ in splits.values()}
    unlabelled = {top for top in tops - splits.keys() if called.is_unlabelled(top)} if splits else set[str]()
    classes = sorted(tops - splits.keys() - unlabelled)
    kinds = ", ".join(sorted(found))
    if splits and loose:
        raise DataError(
            f"{where} holds {kinds} and, directly, {loose[0]}, whose split is unknown",
            "move the images beside the split folders away, or into one of them",
        )
    if splits and not classes:
        return _arrange_splits(tree, splits, unlabelled, where, notes)
    if "train" in found and len(found) > 1:
        raise DataError(
            f"{where} holds images in '{classes[0]}' beside {kinds}",
            "move that folder away, so that only splits remain",
        )
    doubtful = sorted(top for top in splits if not called.is_denied(top, classes))
    if splits and "train" not in found and doubtful:
        raise DataError(
            f"{where} holds '{doubtful[0]}' beside {listed(classes)}: it may be a class or a split",
            "rename it if it is a class; move the others into a folder 'train' if it is a split",
        )
    if loose:
        folders = {name.rpartition("/")[0] for name in tree.images}
        deeper = {split for each in folders for part in each.split("/") if (split := called.split_of(part))}
        if "train" in deeper and len(deeper) > 1:
            raise DataError(
                f"{where} holds {', '.join(sorted(deeper))} below {listed(sorted(tops))} and, directly,"
                f" {loose[0]}, whose split is unknown",
                "move the images beside those folders away, or name the folder that holds the splits",
            )
        if tops:
            text = f"images lie directly in {where}, so all are unlabelled and its folders are not classes"
            notes.append(Note(text))
        return dict.fromkeys(tree.images, ("train", None))
    if doubtful and classes:
        notes.append(Note(f"'{doubtful[0]}' is read as a class, since {listed(classes)} lie beside it", doubtful=False))
    return _arrange_classes(tree, tops, where, notes)


def _arrange_classes(tree: Tree, tops: Collection[str], where: Path, notes: list[Note]) -> Arranged:
    below = _folders_below(tree.images)
    if called.are_parts(tops) or (called.are_numbered(tops) and all(map(_only_container, below.values()))):
        return _arrange_parts(tree, tops, where, notes)
    if all(map(_only_container, below.values())):  # amazon/images/cat
        below = _folders_below("/".join((parts := name.split("/"))[:1] + parts[2:]) for name in tree.images)
    shared = set.intersection(*(below[top] for top in tops)) if tops else set[str]()
    if called.are_folds(tops):
        raise DataError(
            f"{listed(sorted(tops))} in {where} are folds of a cross-validation, not classes",
            "name one of them, or write a list with the columns path, label and split",
        )
    if called.are_versions(tops) and (len(shared) > 1 or _namesakes(tree.images, tops)):
        raise DataError(
            f"{listed(sorted(tops))} in {where} are versions of the same images, not classes",
            f"name one of them: {where / min(tops)}",
        )
    if (split_below := _splits_below(tree.images, below, where)) is not None:
        deeper = {name.split("/")[2] for name in tree.images if name.count("/") > 2}
        kept = f", and the folders {listed(sorted(deeper))} below the splits are not" if deeper else ""
        notes.append(Note(f"read as splits below the classes: {listed(sorted(tops))} are the classes{kept}"))
        images: Arranged = {name: (split_below[name], name.split("/")[0]) for name in tree.images}
        _check_train(images, where)
        return images
    _refuse_empty({name for name in tree.folders if "/" not in name} - set(tops), tree, where)
    if len(tops) > 1 and len(shared) > 1 and all(names == shared for names in below.values()):
        notes.append(
            Note(
                f"the classes are {listed(sorted(tops))}; each of them holds {listed(sorted(shared))}, which are not: "
                f"if these are the classes, name one of the folders, as {where / min(tops)}"
            )
        )
    return {name: ("train", name.partition("/")[0]) for name in tree.images}


def _arrange_parts(tree: Tree, tops: Collection[str], where: Path, notes: list[Note]) -> Arranged:
    notes.append(Note(f"{listed(sorted(tops))} are read as parts of one folder", doubtful=False))
    inside: dict[str, list[str]] = {}
    for top in sorted(tops):
        names = [name for name in tree.images if name.startswith(f"{top}/")]
        inside |= _unwrapped({name: name.split("/")[1:-1] for name in names}, top)
    if len({bool(between) for between in inside.values()}) > 1:
        raise DataError(
            f"in {where}, some images lie in class folders below {listed(sorted(tops))} and some do not",
            "move all of them into class folders, or none",
        )
    return {name: ("train", between[0] if between else None) for name, between in inside.items()}


def _only_container(folders: Collection[str]) -> bool:
    return len(folders) == 1 and called.is_container(next(iter(folders)))


def _folders_below(images: Iterable[str]) -> dict[str, set[str]]:
    """The folders with images directly below each folder at the top; "" stands for images in the folder itself."""
    below: dict[str, set[str]] = defaultdict(set)
    for name in images:
        top, *rest = name.split("/")
        below[top].add(rest[0] if len(rest) > 1 else "")
    return below


def _namesakes(images: Sequence[str], tops: Collection[str]) -> bool:
    """Whether most images are in each of several folders, under the same name."""
    names = [{_stem(name) for name in images if name.startswith(f"{top}/")} for top in tops]
    return len(set.intersection(*names)) >= ALIKE * max(map(len, names))


def _splits_below(images: Sequence[str], below: Mapping[str, set[str]], where: Path) -> dict[str, Split] | None:
    """The split of each image where every class folder holds split folders; None where none does."""
    read = {top: {name: called.split_of(name) for name in names} for top, names in below.items()}
    held_out = {top: [n for n, split in names.items() if split in ("val", "test")] for top, names in read.items()}
    trains = any("train" in names.values() for names in read.values())
    whole = all(split is not None for names in read.values() for split in names.values())
    if whole and trains:
        splits: dict[str, Split] = {}
        for name in images:
            top, folder = name.split("/")[:2]
            split = read[top][folder]
            assert split is not None
            splits[name] = split
        return splits
    holding = [top for top, names in held_out.items() if names]
    if holding and (trains or all(held_out.values())):
        raise DataError(
            f"'{holding[0]}/{held_out[holding[0]][0]}' in {where} may be a split, and not all images lie in splits",
            "move the images into train/, val/ and test/, each with a folder per class",
        )
    return None


def _arrange_splits(
    tree: Tree, tops: Mapping[str, tuple[Split, str]], unlabelled: set[str], where: Path, notes: list[Note]
) -> Arranged:
    found = {split for split, _ in tops.values()}
    if "train" not in found and not (unlabelled and found):
        raise DataError(
            f"{where} holds {', '.join(sorted(found))} but no train",
            "name one folder 'train', or name the folder itself",
        )
    images: Arranged = {}
    between_of: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name in tree.images:
        top, *between, _ = name.split("/")
        if top in unlabelled:
            continue
        between_of[top][name] = between
    for top, inside in between_of.items():
        split, label = tops[top]
        nested = _nested_splits(top, split, inside, where)
        for name, between in _unwrapped(inside, top).items():
            images[name] = (nested.get(name, split), label or (between[0] if between else None))
    if odd := sorted(top for top in tops if top.lower() not in called.PLAIN_SPLITS):
        notes.append(Note("read as splits: " + ", ".join(f"{top} is {tops[top][0]}" for top in odd), doubtful=False))
    labelled = _check_split_labels(images, where)
    if unlabelled:
        rest = [name for name in tree.images if name.partition("/")[0] in unlabelled]
        if "train" in labelled:
            folder = min(unlabelled)
            notes.append(
                Note(
                    f"{counted(len(rest), 'image')} in {folder} are left out, since train has labels: "
                    f"to pretrain on them, name {where / folder}"
                )
            )
        else:
            notes.append(Note(f"{listed(sorted(unlabelled))} is read as train", doubtful=False))
            images |= dict.fromkeys(rest, ("train", None))
    if "train" in labelled:
        train = {top for top, (split, _) in tops.items() if split == "train"}
        folders = {
            called.composed(parts[1])
            for parts in (name.split("/") for name in tree.folders)
            if len(parts) == 2 and parts[0] in train and not _inner_name(parts[1], parts[0])
        }
        folders -= {label for _, label in tops.values()}
        known = {called.composed(label) for split, label in images.values() if split == "train" and label is not None}
        _refuse_empty(folders - known, tree.below(f"{min(train)}/"), where / min(train))
        _check_train(images, where / min(train))
    return images


def _nested_splits(top: str, split: Split, inside: dict[str, list[str]], where: Path) -> dict[str, Split]:
    """The split of each image of a split that is divided once more, as `training/val`; that level is then taken off."""
    firsts = {between[0] if between else "" for between in inside.values()}
    inner = {first: called.split_of(first) for first in firsts}
    if len(firsts) < 2 or not all(inner.values()):
        return {}
    splits: dict[str, Split] = {}
    for name, between in inside.items():
        found = inner[between.pop(0)]
        if found is None or (split, found) not in {("train", "train"), ("train", "val"), (split, split)}:
            raise DataError(
                f"{where / top} holds {listed(sorted(firsts))}, which may belong to {split} or not",
                f"move these folders out of {top}, beside the other splits",
            )
        splits[name] = found
    return splits


def _unwrapped(inside: dict[str, list[str]], top: str) -> dict[str, list[str]]:
    """The folders above each image of a split without those that only wrap: `images`, or the split's name again."""
    above = top
    while len(firsts := {between[0] if between else "" for between in inside.values()}) == 1:
        (first,) = firsts
        if not first or not _inner_name(first, above):
            break
        inside, above = {name: between[1:] for name, between in inside.items()}, first
    return inside


def _inner_name(name: str, above: str) -> bool:
    again = above and (name.lower() == above.lower() or called.split_of(name) is not None)
    return bool(again) or called.is_container(name, above)


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


def _check_train(images: Arranged, where: Path) -> None:
    labels = {(split, called.composed(label)) for split, label in images.values() if label is not None}
    if only := {label for _, label in labels} - {label for split, label in labels if split == "train"}:
        raise DataError(
            f"class '{min(only)}' has no images in {where}, but has some in another split",
            f"move some there, or name {where} alone to pretrain on it",
        )


def _refuse_empty(classes: set[str], tree: Tree, where: Path) -> None:
    """Refuse folders without images, unless they are called as annotations, or hold nothing but texts and programs."""
    classes = classes - beside_images(tree.folders, tree.others)
    if not classes:
        return
    name = min(classes)
    files = Counter(kind for file, kind in tree.others.items() if file.startswith(f"{name}/"))
    unread = " that hptctl does not read" if any(kind in OTHER_IMAGES for kind in files) else ""
    holds = (
        f", only {', '.join(f'{count} {suffix}' for suffix, count in files.most_common(4))}{unread}" if files else ""
    )
    raise DataError(
        f"class '{name}' has no images in {where}{holds}", "put images into it, or move it out of the folder"
    )


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _above(name: str) -> list[str]:
    """The folders above a name, the innermost first."""
    return [name[:at] for at in range(len(name) - 1, 0, -1) if name[at] == "/"]


def _and_above(name: str) -> list[str]:
    return [name, *_above(name)]
