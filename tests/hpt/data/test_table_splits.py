"""Columns that say the split, under the names that people give them; and cells that hold several classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpt.data.listing import Listing
from hpt.data.table import list_table
from hpt.errors import DataError


def listed(folder: Path, header: str, *cells: str) -> Listing:
    """A list whose lines have a path, a label (cat, dog, ...) and the cells."""
    lines = [f"{i}.png,{'cd'[i // 2 % 2]}at,{cell}" for i, cell in enumerate(cells)]
    (folder / "my.csv").write_text("\n".join([f"path,label,{header}", *lines, ""]), encoding="utf-8")
    return list_table(folder / "my.csv")


def said(listing: Listing) -> str:
    return "\n".join(note.text for note in listing.notes)


FOUR = ("train", "train", "train", "train", "val", "test")


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("set", FOUR),
        ("Subset", FOUR),
        ("image_set", FOUR),
        ("phase", ["TRAIN", "Train", "train", "training", "valid", "TEST"]),
        ("Usage", ["Training", "Training", "Training", "Training", "dev", "PrivateTest"]),
        ("fold", ["tr", "tr", "tr", "tr", "va", "te"]),
        ("whatever", FOUR),
        ("train,val,test", ["1,0,0", "1,0,0", "1,0,0", "1,0,0", "0,1,0", "0,0,1"]),
        ("is_train,isVal", ["1,0", "1,0", "1,0", "1,0", "0,1", "0,0"]),
        ("is_valid,is_test", ["False,False", "no,0", "0,0", "0,0", "True,False", "0,yes"]),
    ],
)
def test_a_split_is_read_from_a_column_of_any_usual_name(tmp_path: Path, header: str, cells: list[str]) -> None:
    listing = listed(tmp_path, header, *cells)
    assert listing.splits == FOUR
    assert "the split is read from" in said(listing)


def test_a_column_of_one_split_says_what_the_others_are(tmp_path: Path) -> None:
    listing = listed(tmp_path, "is_valid", "0", "0", "0", "0", "1", "1")
    assert listing.splits == ("train",) * 4 + ("val",) * 2
    assert "1 in 'is_valid' is val, the others are train" in said(listing)
    assert listed(tmp_path, "is_train", "1", "1", "1", "1", "0").splits == ("train",) * 4 + ("test",)


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("set", ["0", "0", "1", "1"], "column 'set' holds 0, 1, which names no split; write train, val and test"),
        ("partition", ["0", "1", "2", "0"], "column 'partition' holds 0, 1, 2"),
        ("set", ["train", "train", "tset", "test"], "line 4: unknown split 'tset' .did you mean 'test'"),
        ("is_valid", ["1", "1", "1", "0"], "3 of 4 images are in val or test by 'is_valid'"),
        ("is_val,is_test", ["1,1", "0,0", "0,0", "0,0"], "line 2: both 'is_val' and 'is_test' are 1"),
        ("a,b", ["train,train", "train,test", "test,test", "train,train"], "2 columns that may be the split: 'a', 'b'"),
        ("subset", ["train", "", "train", "test"], "is in no split, although others are"),
    ],
)
def test_a_split_that_is_not_clear_is_refused(tmp_path: Path, header: str, cells: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path, header, *cells)
    assert caught.value.fix


def test_folds_and_sets_of_another_kind_are_no_splits_and_are_named(tmp_path: Path) -> None:
    listing = listed(tmp_path, "fold,set", "1,A", "2,B", "3,A", "4,B")
    assert set(listing.splits) == {"train"}
    assert "it holds 4 folds of a cross-validation" in said(listing)
    assert "columns not used: 'fold', 'set'" in said(listing)


def test_a_class_may_be_called_train_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("path,train,bus\n1.png,1,0\n2.png,0,1\n")
    assert list_table(tmp_path / "my.csv").classes == ("train", "bus")


def test_images_in_folders_called_test_are_said_where_no_column_says_the_split(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("file_name,label\ntrain/1.png,cat\ntest/2.png,dog\n")
    assert "1 image in folders such as test are read as training images" in said(list_table(tmp_path / "my.csv"))


@pytest.mark.parametrize(
    ("cells", "classes", "labels"),
    [
        (['"cat,dog"', "cat", "dog"], ("cat", "dog"), [[1, 1], [1, 0], [0, 1]]),
        (["\"['cat', 'dog']\"", "['dog']", "[]"], ("cat", "dog"), [[1, 1], [0, 1], [0, 0]]),
        (["['cat' 'dog']", "['dog']"], ("cat", "dog"), [[1, 1], [0, 1]]),
        (['"{""choices"": [""cat"",""dog""]}"', "dog"], ("cat", "dog"), [[1, 1], [0, 1]]),
        (["['cat']", "['dog']"], ("cat", "dog"), [0, 1]),
        (['"tench, Tinca tinca"', "bird"], ("bird", "tench, Tinca tinca"), [1, 0]),
        (['"A, x"', '"A, y"', '"B, x"', '"B, y"'], ("A, x", "A, y", "B, x", "B, y"), [0, 1, 2, 3]),
    ],
)
def test_cells_hold_several_classes_where_they_are_written_so(
    tmp_path: Path, cells: list[str], classes: tuple[str, ...], labels: list[object]
) -> None:
    lines = [f"{i}.png,{cell}" for i, cell in enumerate(cells)]
    (tmp_path / "my.csv").write_text("\n".join(["path,label", *lines, ""]))
    listing = list_table(tmp_path / "my.csv")
    assert (listing.classes, listing.labels.tolist()) == (classes, labels)
