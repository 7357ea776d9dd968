"""Lists of images: what they say, what is refused, and that they are the folder that they list."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_images import grey_images

from hpt.config import DataConfig
from hpt.data.dataset import Dataset, load
from hpt.data.folder import list_folder
from hpt.data.listing import Listing
from hpt.data.table import list_table
from hpt.errors import DataError

CONFIG = DataConfig()
pytestmark = pytest.mark.usefixtures("own_cache")


def written(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def table(listing: Listing) -> dict[str, tuple[str, object]]:
    """Split and class, or classes, of each name; None: unlabelled."""

    def said(label: np.ndarray) -> object:
        if listing.labels.ndim == 1:
            return listing.classes[label] if label >= 0 else None
        return None if np.isnan(label).any() else {listing.classes[i] for i in np.flatnonzero(label)}

    return {n: (s, said(at)) for n, s, at in zip(listing.names, listing.splits, listing.labels, strict=True)}


def same(one: Dataset, two: Dataset) -> None:
    assert one.images.names == two.images.names
    assert one.classes == two.classes
    assert np.array_equal(one.labels, two.labels)
    assert one.fingerprint == two.fingerprint
    assert one.split_fingerprint == two.split_fingerprint


@pytest.mark.parametrize("file", ["my.csv", "my.tsv", "my.txt", "my.list"])
def test_a_list_beside_class_folders_is_the_dataset_that_the_folder_is(tmp_path: Path, file: str) -> None:
    root = grey_images(tmp_path / "set", *(f"{'ab'[i % 2]}/ü {i:03d}.png" for i in range(40)))
    names = list_folder(root).names
    separator = "\t" if file == "my.tsv" else ","
    header = [] if file in ("my.txt", "my.list") else [f"Image{separator} Class"]
    lines = [f"{name}{separator} {name[0]}" for name in reversed(names)]
    whole, decoded = load(str(root), CONFIG, side=8), []
    dataset = load(
        str(written(root / file, *header, *lines)), CONFIG, side=8, progress=lambda *now: decoded.append(now)
    )
    same(dataset, whole)
    assert (dataset.name, dataset.task, dataset.metric) == ("my", "single-label", "top1")
    assert not decoded  # the folder's cache is the list's


def test_a_list_of_split_folders_is_the_dataset_that_the_folder_is(tmp_path: Path) -> None:
    names = [f"{s}/{c}/{i}.png" for s in ("train", "valid", "test") for c in ("cat", "dog") for i in range(3)]
    root = grey_images(tmp_path / "set", *names)
    split = {"train": "Train", "valid": "validation", "test": "TEST"}
    lines = [f"{name.split('/')[1]},{split[name.split('/')[0]]},{name}" for name in names]
    same(
        load(str(written(root / "my.csv", "label,split,path", *lines)), CONFIG, side=8), load(str(root), CONFIG, side=8)
    )


def test_an_image_has_one_name_however_its_path_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(grey_images(tmp_path / "set", *(f"a/{i}.png" for i in range(7)), "b/7.png"))
    root = tmp_path / "set"
    (root / "jump").symlink_to(grey_images(tmp_path / "far" / "away", "x.png"))
    lines = [
        "a/0.png",
        "./a/1.png",
        "a//2.png",
        "b/../a/3.png",
        f"{root}/a/4.png",
        f"{tmp_path}/link/a/5.png",
        "../set/a/6.png",
        "jump/../away/x.png",  # as the disk has it: the folder above the link's target
        f"{tmp_path}/far/away/./y.png",
    ]
    expected = [f"{tmp_path}/far/away/y.png", "../far/away/x.png", *(f"a/{i}.png" for i in range(7))]
    written(root / "my.txt", *lines)
    for path in (root / "my.txt", tmp_path / "link" / "my.txt"):
        listing = list_table(path)
        assert listing.names == tuple(sorted(expected))
        with listing.source.open() as read:
            for name in set(listing.names) - {expected[0]}:
                assert read(name) == (root / name).read_bytes()
    for again in ("a/../a/0.png", f"{root}/a/0.png", "../far/away/x.png", f"{tmp_path}/far/away/y.png"):
        with pytest.raises(DataError, match=r"twice, on lines 1?[0-9] and 10; remove one"):
            list_table(written(root / "twice.txt", *lines, again))


def test_a_list_may_lie_elsewhere_and_moves_with_its_images(tmp_path: Path) -> None:
    grey_images(tmp_path / "one" / "images", *(f"{i:02d}.png" for i in range(20)))
    lines = [f"../images/{i:02d}.png,{'ab'[i % 2]}" for i in range(20)]
    one = load(str(written(tmp_path / "one" / "lists" / "my.csv", "path,label", *lines)), CONFIG, side=8)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = load(str(tmp_path / "two" / "lists" / "my.csv"), CONFIG, side=8)
    same(one, two)
    assert one.images.names[0] == "../images/00.png"
    assert {split: len(rows) for split, rows in two.splits.items()} == {"train": 14, "val": 2, "test": 4}


def test_a_link_to_a_list_has_the_images_beside_the_link(tmp_path: Path) -> None:
    written(tmp_path / "store" / "0af3", "1.png", "2.png")
    root = grey_images(tmp_path / "set", "1.png", "2.png")
    (root / "my.txt").symlink_to(tmp_path / "store" / "0af3")
    assert len(load(str(root / "my.txt"), CONFIG, side=8).images) == 2


def test_several_classes_in_a_cell_and_columns_of_0_and_1_say_the_same(tmp_path: Path) -> None:
    names = grey_images(tmp_path, *(f"{i:02d}.png" for i in range(30))) and [f"{i:02d}.png" for i in range(30)]
    has = np.random.default_rng(0).random((30, 3)) < 0.4
    columns = ["big cat", "dog", "猫"]
    cells = [[name for name, one in zip(columns, row, strict=True) if one] for row in has]
    marks = [",".join("1" if one else ("0", "0.0")[i % 2] for i, one in enumerate(row)) for row in has]
    one, two, three = (
        load(str(written(tmp_path / f"{number}.csv", header, *lines)), CONFIG, side=8)
        for number, (header, lines) in enumerate(
            (
                ("path,labels", [f"{n},{'|'.join(cell)}" for n, cell in zip(names, cells, strict=True)]),
                ("path,label", [f"{n},{' ; '.join(reversed(cell))};" for n, cell in zip(names, cells, strict=True)]),
                (f"path,{','.join(columns)}", [f"{n},{mark}" for n, mark in zip(names, marks, strict=True)]),
            )
        )
    )
    assert (one.task, one.metric, one.classes) == ("multi-label", "auroc", tuple(columns))
    assert one.labels.dtype == np.float32
    assert np.array_equal(one.labels, has)
    same(one, two)
    same(one, three)
    assert len(one.split("train")[1]) == 21
    assert sum(one.per_class(split) for split in one.splits).tolist() == has.sum(axis=0).tolist()


def test_uncertain_and_blank_count_as_0_and_a_note_counts_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["a.png,1.0,-1.0,", "b.png,,,1", "c.png,-1,1,0", "d.png,,,"]
    with caplog.at_level(logging.INFO, logger="hpt.data"):
        listing = list_table(written(tmp_path / "my.csv", "Path,edema,fracture,effusion", *lines))
    assert listing.classes == ("edema", "fracture", "effusion")
    assert listing.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert "2 of 12 labels are -1 (uncertain) and 6 are blank; they count as 0" in caplog.text


@pytest.mark.parametrize(
    ("lines", "train"),
    [
        (["path,split,label", "1.png,train,cat", "2.png,train,dog", "3.png,test,", "4.png,val,"], "cat"),
        (["path,split,label", "1.png,train,cat|dog", "2.png,train,", "3.png,test,", "4.png,val,"], {"cat", "dog"}),
        (["path,split,cat,dog", "1.png,train,1,1", "2.png,train,,", "3.png,test,,", "4.png,val,,"], {"cat", "dog"}),
    ],
)
def test_a_split_whose_labels_are_all_blank_is_unlabelled(tmp_path: Path, lines: list[str], train: object) -> None:
    grey_images(tmp_path, *(f"{i}.png" for i in range(1, 5)))
    path = written(tmp_path / "my.csv", *lines)
    listed = table(list_table(path))
    assert listed["1.png"] == ("train", train)
    assert listed["2.png"] == ("train", "dog" if train == "cat" else set())
    assert (listed["3.png"], listed["4.png"]) == (("test", None), ("val", None))
    dataset = load(str(path), CONFIG, side=8)
    assert len(dataset.split("train")[1]) == 2
    assert dataset.per_class("test").tolist() == [0, 0]
    with pytest.raises(DataError, match=r"the test images of my have no labels.*list them with labels"):
        dataset.split("test")


@pytest.mark.parametrize("lines", [["path", "1.png", "2.png"], ["file,label,split", "1.png,,", "2.png,,"]])
def test_a_list_without_labels_is_for_pretraining(tmp_path: Path, lines: list[str]) -> None:
    grey_images(tmp_path, "1.png", "2.png")
    dataset = load(str(written(tmp_path / "my.csv", *lines)), CONFIG, side=8)
    assert (dataset.classes, dataset.task, dataset.labels.tolist()) == ((), "single-label", [-1, -1])
    assert len(dataset.pretraining_images()) == 2


def test_columns_that_are_no_labels_may_stand_beside_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [",path,label,age,view,note", "0,1.png,cat,31,0,", "1,2.png,dog,1,0,", "", '2,"3,4.png",dog,0,0,']
    with caplog.at_level(logging.INFO, logger="hpt.data"):
        listing = list_table(written(tmp_path / "my.csv", *lines))
    assert table(listing) == {"1.png": ("train", "cat"), "2.png": ("train", "dog"), "3,4.png": ("train", "dog")}
    assert "columns not used: 'age', 'view', 'note'" in caplog.text
    pandas = written(tmp_path / "pandas.csv", ",path,cat,dog", "0,1.png,1,0", "1,2.png,0,1", "2,3.png,1,1")
    assert list_table(pandas).classes == ("cat", "dog")


def test_a_class_that_train_does_not_have_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["path,split,cat,dog,cow", "1.png,train,1,0,0", "2.png,train,1,1,0", "3.png,test,1,1,1"]
    list_table(written(tmp_path / "my.csv", *lines))
    (record,) = caplog.records
    assert "no train image has 'cow'" in record.getMessage()


def test_an_image_that_is_not_there_is_unreadable_until_it_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = grey_images(tmp_path / "set", *(f"{i:03d}.png" for i in range(120)))
    (root / "folder.png").mkdir()
    names = [*(f"{i:03d}.png" for i in range(120)), "folder.png", "gone.png", f"{tmp_path}/gone.png"]
    path = str(written(root / "my.csv", "path,label", *(f"{n},{'ab'[i % 2]}" for i, n in enumerate(names))))
    settings = DataConfig(max_unreadable=0.03)
    dataset = load(path, settings, side=8)
    assert dataset.quarantined == (
        (f"{tmp_path}/gone.png", "No such file or directory"),
        ("folder.png", "Is a directory"),
        ("gone.png", "No such file or directory"),
    )
    assert [dataset.classes[label] for label in dataset.labels] == ["a", "b"] * 60
    assert "3 of 123 images cannot be read" in caplog.text
    with pytest.raises(DataError, match=r"3 of 123 images of my cannot be read.*max_unreadable"):
        load(path, CONFIG, side=8)
    grey_images(root, "gone.png")
    assert "gone.png" in load(path, settings, side=8).images.names


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "my.csv"
    path.write_bytes("path,label\r\nü.png,cat\r\nb.png,dog\r\n".encode("utf-8-sig"))
    assert table(list_table(path)) == {"b.png": ("train", "dog"), "ü.png": ("train", "cat")}


LINES = ["img/1.png,cat", "img/2 b.png,big dog", "img/3.png,cat"]


def with_marks(separator: str) -> list[str]:
    return [line.replace(",", separator) for line in ("path,label", *LINES)]


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("my.csv", with_marks(";")),
        ("my.csv", with_marks("\t")),
        ("my.csv", with_marks("|")),
        ("my.tsv", with_marks(",")),
        ("my.csv", ["sep=;", *with_marks(";")]),
        ("my.csv", ["path label", "img/1.png cat", '"img/2 b.png" "big dog"', "img/3.png cat"]),
        ("my.txt", with_marks(" ")[1:]),
        ("my.list", ["", *with_marks("\t")[1:]]),
        ("my.txt", with_marks(";")[1:]),
        ("my.csv", [line.replace("/", "\\") for line in with_marks(",")]),
        ("my.csv", ["id_code,label", *(line.replace(".png", "") for line in LINES)]),
        ("my.txt", [line.replace(".png", "").replace(",", ";") for line in LINES]),
        ("my.csv", ["path,label", *(line.replace(",", " ,") for line in LINES)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_is_read_however_its_program_wrote_it(
    tmp_path: Path, file: str, lines: list[str], encoding: str
) -> None:
    grey_images(tmp_path / "img", "1.png", "2 b.png", "3.png")
    (tmp_path / file).write_bytes("\r\n".join(lines).encode(encoding))
    found = table(list_table(tmp_path / file))
    assert found == {
        "img/1.png": ("train", "cat"),
        "img/2 b.png": ("train", "big dog"),
        "img/3.png": ("train", "cat"),
    }


def test_an_image_has_the_name_of_the_disk_in_either_of_unicodes_forms(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    grey_images(tmp_path, f"{composed}/1.png", f"{decomposed}2.png")
    lines = [f"{decomposed}/1.png,{composed}", f"{composed}2.png,{decomposed}", "3.png,tea"]
    assert table(list_table(written(tmp_path / "my.csv", "path,label", *lines))) == {
        f"{composed}/1.png": ("train", composed),
        f"{decomposed}2.png": ("train", composed),
        "3.png": ("train", "tea"),
    }


def test_a_name_without_an_ending_is_the_one_image_that_has_it(tmp_path: Path) -> None:
    grey_images(tmp_path, "a/1.png", "a/1.gif", "a/2.JPG", "train_images/00ab.png")
    (tmp_path / "a" / "2.txt").touch()
    assert list_table(written(tmp_path / "a" / "my.csv", "id", "2")).names == ("2.JPG",)
    with pytest.raises(DataError, match=r"line 2: 1 may be 1.gif or 1.png; write names with their endings"):
        list_table(written(tmp_path / "a" / "my.csv", "id", "1"))
    with pytest.raises(DataError, match=r"line 2: 00ab is not here, but train_images/00ab.png is; write train_images/"):
        list_table(written(tmp_path / "train.csv", "id_code,label", "00ab,0"))


def test_what_programs_write_for_no_value_is_blank(tmp_path: Path) -> None:
    lines = ["path,split,label", "1.png,train,cat", "2.png,train,none", "3.png,test,NaN", "4.png,test,<NA>"]
    listing = list_table(written(tmp_path / "my.csv", *lines))
    assert (listing.classes, listing.labels.tolist()) == (("cat", "none"), [0, 1, -1, -1])
    marks = ["path,cat,dog", "1.png,True,nan", "2.png,False,TRUE"]
    assert list_table(written(tmp_path / "my.csv", *marks)).labels.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("my.csv", [], "my.csv is empty"),
        ("my.csv", ["path,label"], "lists no images: it has a header only"),
        ("my.csv", ["a/1.png,cat", "a/2.png,dog"], "no column of paths: its header reads 'a/1.png', 'cat'; name one"),
        ("my.csv", ["imge,label"], "reads 'imge', 'label' (did you mean 'image'?)"),
        ("my.csv", ["way;label", "1.png;cat"], "no column of paths: its header reads 'way;label'"),
        ("my.txt", ["1.png cat", "2.png"], "line 2: 1 cells instead of 2"),
        ("my.txt", ["1.png 0 1 0", "2.png 1 0 0"], "line 1: 3 numbers behind 1.png; several classes need a .csv"),
        ("my.csv", ["path,label", "1.png,cat", "C:\\pets\\2.png,dog"], "line 3: C:\\pets\\2.png is a path of Windows"),
        ("my.csv", ["path,label", "1.png,cat", "NaN,dog"], "line 3: no path"),
        ("my.csv", ["path,split", "1.png,train", "2.png,nan"], "line 3: 2.png is in no split, although others are"),
        (
            "my.csv",
            ["path", "1.png", "2"],
            "line 3: 2 does not end as an image does, and no image 2.*",
        ),
        (
            "my.csv",
            ["path", "https://example.com/1"],
            "line 2: https://example.com/1 is an address; download the images",
        ),
        ("my.csv", ["path,file", "1.png,2.png"], "2 columns that may be the path: 'path', 'file'; keep one"),
        ("my.csv", ["path,label,class", "1.png,a,b"], "2 columns that may be the label: 'label', 'class'"),
        ("my.csv", ["path,cat,cat", "1.png,0,1"], "two columns 'cat'"),
        ("my.csv", ["path,label,cat", "1.png,cat,1", "2.png,dog,0"], "labels twice: the column 'label', and 'cat'"),
        (
            "my.csv",
            ["Path,cat,Age", "1.png,1,", "2.png,0,31"],
            "line 3: column 'Age' holds '31', neither 0 nor 1 (path: 'Path', split: none, classes: 'cat', 'Age')",
        ),
        ("my.csv", ["path,breed", "1.png,poodle"], "'breed' holds 'poodle', neither 0 nor 1"),
        ("my.csv", ["path,cat", "1.png,1", "2.png,0"], "one class only, the column 'cat'; call the column label"),
        ("my.csv", ["path,cat,dog", "1.png,0,0", "2.png,,"], "no label that is 1"),
        ("my.csv", ["path,label", "1.png,cat", "2.png,cat"], "all labels of"),
        ("my.csv", ["path,label", "1.png,a|b", "2.png,a;b"], "both | and ; in its labels, for example 'a;b'"),
        (
            "my.csv",
            ["path,label", "1.png,cat", "2.png,dog", "3.png,"],
            "line 4: 3.png has no label, although others of tr",
        ),
        ("my.csv", ["path,label", "1.png,cat", "2.png"], "line 3: 1 cells instead of 2"),
        ("my.csv", ["path,label", "1.png,cat", ",dog"], "line 3: no path"),
        ("my.csv", ["path,label", "1.png,cat", "1.png,cat"], "lists 1.png twice, on lines 2 and 3; remove one"),
        ("my.csv", ["path,label", "1.png,cat", "1.png,dog"], "lines 2 and 3; keep one of them; an image of several"),
        ("my.csv", ["path,split", "1.png,train", "2.png,tset"], "line 3: unknown split 'tset' (did you mean 'test'?)"),
        ("my.csv", ["path,split", "1.png,train", "2.png,"], "line 3: 2.png is in no split, although others are"),
        ("my.csv", ["path,split", "1.png,val", "2.png,test"], "has the splits test, val but no train"),
        (
            "my.csv",
            ["path,split,label", "1.png,train,a", "2.png,train,b", "3.png,test,c"],
            "line 4: class 'c' has test images but none in train",
        ),
        ("my.csv", ["path,label", '"1.png,cat', "2.png,dog"], "line 2: unexpected end of data; check the quotes"),
        ("my.txt", ["path,label", "1.png,cat"], "begins with a header, 'path,label'; name it .csv"),
        ("my.txt", ["1.png,train,cat"], "line 1: 3 cells, where a .txt has `path` or `path,label`"),
        ("my.txt", ["1.png", "2.png,cat"], "line 2: 2 cells instead of 1"),
    ],
)
def test_what_is_not_clear_is_one_line(tmp_path: Path, file: str, lines: list[str], message: str) -> None:
    path = written(tmp_path / file, *lines)
    with pytest.raises(DataError) as caught:
        load(str(path), CONFIG, side=8)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.fix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,label\n1.png,cat\nä.png,cat\n".encode("latin-1"),
            r"line 3 is not UTF-8 \(as Windows-1252 it reads 'ä.png,cat'\); save it as UTF-8: iconv -f WINDOWS-1252",
        ),
        ("path\n1.png\n".encode("utf-16") + b"1", "begins as UTF-16 and does not go on so; save it as UTF-8"),
        (b"path\n1\0.png\n", "is not a text file"),
        (b'path\n"' + b"x" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "my.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list_table(tmp_path / "my.csv")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "my.csv").mkdir()
    with pytest.raises(DataError, match=r"my\.csv cannot be read: Is a directory"):
        list_table(tmp_path / "my.csv")


def test_a_long_list_is_read_as_a_short_one(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).permutation(200_000)
    lines = [f"{n // 1000:03d}/{n:06d}.png,{('train', 'test')[n % 2]},{n % 3},{n % 5 == 0:d}" for n in numbers]
    lines = [line.replace(",2,", ",,") for line in lines]  # 0, 1 and blank
    listing = list_table(written(tmp_path / "my.csv", "path,split,cat,dog", *lines))
    assert listing.names == tuple(f"{n // 1000:03d}/{n:06d}.png" for n in range(200_000))
    assert listing.splits == ("train", "test") * 100_000
    assert np.array_equal(listing.labels[:, 0], np.arange(200_000) % 3 == 1)
    assert np.array_equal(listing.labels[:, 1], np.arange(200_000) % 5 == 0)


def test_info_counts_the_images_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import json

    from hptctl.commands.datasets.list_info import info

    grey_images(tmp_path, *(f"{i}.png" for i in range(4)))
    lines = ["path,split,cat,dog", "0.png,train,1,1", "1.png,train,0,1", "2.png,val,0,1", "3.png,test,0,0"]
    path = str(written(tmp_path / "my.csv", *lines))
    info(path, image_size=16, sets=None, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert (told["task"], told["classes"]) == ("multi-label", ["cat", "dog"])
    assert told["per_class"] == {"train": [1, 2], "val": [0, 1], "test": [0, 0]}
    info(path, image_size=16, sets=None, as_json=False)
    shown = capsys.readouterr().out
    assert "4 images (2 train, 1 val, 1 test), 2 classes, multi-label" in shown
    assert ["dog", "2", "1", "0"] in [line.split() for line in shown.splitlines()]
