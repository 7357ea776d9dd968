"""A few real images of each dataset of the catalogue, in its publisher's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from hpt.data.publishers import viper, voc

ROAD, SKY, CAR, UNLABELLED = 3, 2, 24, 0


def image(path: Path, number: int, size: tuple[int, int] = (20, 16)) -> Path:
    """Noise of its own; JPEG, PNG or TIFF by the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def flowers(root: Path) -> None:
    for number in range(1, 10):
        image(root / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(root / "imagelabels.mat", {"labels": np.array([[1, 2, 102] * 3], dtype=np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1, 5]], "valid": [[9, 2, 3]], "tstid": [[4, 6, 7, 8]]})


def resisc(root: Path) -> None:
    for number in range(20):
        label = ("airplane", "wetland")[number % 2]
        image(root / "NWPU-RESISC45" / label / f"{label}_{number // 2 + 1:03d}.jpg", number)


def ucmerced(root: Path) -> None:
    for number in range(20):
        label = ("agricultural", "tenniscourt")[number % 2]
        image(root / "UCMerced_LandUse" / "Images" / label / f"{label}{number // 2:02d}.tif", number)
    (root / "UCMerced_LandUse" / "readme.txt").write_text("UC Merced")


def xview(root: Path) -> None:
    """Three scenes of 2 x 2 chips and a rest; an aircraft in one corner, a building that covers two chips."""
    features = []
    for number, scene in enumerate(("10.tif", "11.tif", "12.tif")):
        image(root / "train_images" / scene, number, (640, 610))
        for kind, box in ((13, "10,10,60,50"), (73, "280,310,580,590"), (75, "1,1,90,90")):
            features.append({"properties": {"image_id": scene, "type_id": kind, "bounds_imcoords": box}})
    features.append({"properties": {"image_id": "1395.tif", "type_id": 18, "bounds_imcoords": "1,1,9,9"}})
    (root / "xView_train.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def bdd(root: Path) -> None:
    weather = ("clear", "rainy", "undefined", "partly cloudy")
    (root / "bdd100k" / "labels").mkdir(parents=True)
    for split, count in (("train", 24), ("val", 8)):
        frames = []
        for number in range(count):
            name = f"{number:08x}-{split}.jpg"
            image(root / "bdd100k" / "images" / "100k" / split / name, number + 100 * (split == "val"))
            attributes = {"weather": weather[number % 4], "scene": "highway", "timeofday": "night"}
            box = {"x1": 2.5, "y1": 3.0, "x2": 12.5, "y2": 11.0}
            labels = [{"category": "car", "box2d": box}, {"category": "drivable area", "poly2d": []}]
            labels += [{"category": "person", "box2d": {**box, "x2": 6.0}}] * (number % 2)
            frames.append({"name": name, "attributes": attributes, "timestamp": 10000, "labels": labels})
        path = root / "bdd100k" / "labels" / f"bdd100k_labels_images_{split}.json"
        path.write_text(json.dumps(frames))


def viper_frames(root: Path) -> None:
    """Six sequences of train and one of val, two frames each; the classes as palette, as grey and as colours."""
    for number in range(14):
        split, sequence = ("val", "051") if number >= 12 else ("train", f"{number // 2 + 1:03d}")
        frame = f"{sequence}_{10 * (number % 2 + 1):05d}"
        image(root / split / "img" / sequence / f"{frame}.jpg", number)
        pixels = np.full((16, 20), ROAD, dtype=np.uint8)
        pixels[:4] = SKY
        pixels[4] = UNLABELLED
        if number % 2:
            pixels[10:14, 3] = CAR
        classes = root / split / "cls" / sequence / f"{frame}.png"
        classes.parent.mkdir(parents=True, exist_ok=True)
        if number % 3 == 2:
            colours = np.array([viper.CLASSES.get(number, ("", 0))[1] for number in range(32)])[pixels]
            rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)
            Image.fromarray(rgb).save(classes)
        else:
            labels = Image.fromarray(pixels)
            if number % 3:
                labels = labels.convert("P")
            labels.save(classes)


def chexpert(root: Path) -> None:
    top = root / "CheXpert-v1.0-small"
    header = (
        "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
        "Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
        "Support Devices"
    )
    lines: dict[str, list[str]] = {"train": [header], "valid": [header]}
    for number in range(24):
        split = "train" if number < 20 else "valid"
        name = f"{split}/patient{number // 2 + 1:05d}/study1/view{number % 2 + 1}_frontal.jpg"
        image(top / name, number)
        marks = [f"{('1.0', '0.0', '-1.0', '')[(number // 2 + place) % 4]}" for place in range(14)]
        lines[split].append(f"CheXpert-v1.0-small/{name},Female,50,Frontal,AP,{','.join(marks)}")
    for split, rows in lines.items():
        (top / f"{split}.csv").write_text("\n".join(rows) + "\n")


def chest_xray_kids(root: Path) -> None:
    top = root / "chest_xray"
    for number in range(30):
        pair, view = divmod(number, 2)
        image(top / "train" / "PNEUMONIA" / f"person{pair + 1}_bacteria_{number}.jpeg", number)
        image(top / "train" / "NORMAL" / f"IM-{pair + 115:04d}-{view + 1:04d}.jpeg", number + 100)
    image(top / "val" / "NORMAL" / "NORMAL2-IM-1427-0001.jpeg", 200)
    image(top / "val" / "PNEUMONIA" / "person1946_bacteria_4874.jpeg", 201)
    for number in range(4):
        image(top / "test" / "NORMAL" / f"NORMAL-{1003233 + number}-0001.jpeg", 300 + number)
        image(top / "test" / "PNEUMONIA" / f"BACTERIA-{1008087 + number}-0001.jpeg", 400 + number)


def coco(root: Path) -> None:
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train2014", 20), ("val2014", 6)):
        images, things = [], []
        for number in range(1, count + 1):
            name = f"COCO_{split}_{number:012d}.jpg"
            image(root / split / name, number + 100 * (split == "val2014"))
            images.append({"id": number, "file_name": name, "height": 16, "width": 20})
            for kind in (1, 3, 90)[: number % 4]:
                outline = [[1, 2, 4, 2, 4, 6, 1, 6]]
                things.append({"image_id": number, "category_id": kind, "iscrowd": 0, "bbox": [1, 2, 3, 4]})
                things[-1] |= {"segmentation": outline, "area": 12 - kind / 90}
            if number % 4 == 3:
                runs = {"size": [16, 20], "counts": [0, 32, 288]}
                crowd = {"image_id": number, "category_id": 1, "iscrowd": 1, "bbox": [0, 0, 2, 16], "area": 32}
                things.append(crowd | {"segmentation": runs})
        facts = {"info": {}, "images": images, "annotations": things, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(facts))


def pascal_voc(root: Path) -> None:
    """Two images in each split; the first has a dog, the second a difficult dog and a person."""
    for number, (year, split) in enumerate(voc.SETS):
        top = root / "VOCdevkit" / year
        lists = top / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        names = [f"{2 * number + one:06d}" if year == "VOC2007" else f"2008_{2 * number + one:06d}" for one in (0, 1)]
        (top / "Annotations").mkdir(exist_ok=True)
        (top / "SegmentationClass").mkdir(exist_ok=True)
        (top / "ImageSets" / "Segmentation").mkdir(exist_ok=True)
        # The lists of segmentation are others: val of it is the second image that trains classification.
        segmented = {"train": names[:1], "val": names[1:], "test": names[:1]}[split]
        (top / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in segmented))
        for place, name in enumerate(names):
            image(top / "JPEGImages" / f"{name}.jpg", 10 * number + place)
            things = [("dog", place)] + [("person", 0)] * place
            text = "".join(
                f"<object><name>{label}</name><difficult>{hard}</difficult><bndbox><xmin>3</xmin><ymin>2</ymin>"
                "<xmax>12</xmax><ymax>16</ymax></bndbox></object>"
                for label, hard in things
            )
            size = "<size><width>20</width><height>16</height></size>"
            (top / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{text}</annotation>")
            if name in segmented:
                pixels = np.zeros((16, 20), dtype=np.uint8)
                pixels[1:16, 2:12] = 255
                pixels[2:15, 3:11] = 1 + voc.CLASSES.index("dog")
                Image.fromarray(pixels).convert("P").save(top / "SegmentationClass" / f"{name}.png")
        for label in voc.CLASSES:
            marks = {"dog": ("1", "0"), "person": ("-1", "1")}.get(label, ("-1", "-1"))
            text = "".join(f"{name} {mark:>2}\n" for name, mark in zip(names, marks, strict=True))
            (lists / f"{label}_{split}.txt").write_text(text)
        (lists / f"dog_{'test' if split == 'test' else 'trainval'}.txt").touch()


def domainnet(root: Path) -> None:
    """All six domains; class 0 sorts last by its name, as some of the real ones do."""
    for domain in ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"):
        for split, numbers in (("train", range(20)), ("test", range(20, 26))):
            lines = []
            for number in numbers:
                label = ("zebra", "ant")[number % 2]
                name = f"{domain}/{label}/{domain}_{number % 2 + 1:03d}_{number + 1:06d}.jpg"
                image(root / name, number)
                lines.append(f"{name} {number % 2}\n")
            (root / f"{domain}_{split}.txt").write_text("".join(lines))


FOLDERS: dict[str, Callable[[Path], None]] = {
    "resisc": resisc,
    "ucmerced": ucmerced,
    "xview": xview,
    "bdd": bdd,
    "viper": viper_frames,
    "chexpert": chexpert,
    "chest-xray-kids": chest_xray_kids,
    "coco-2014": coco,
    "pascal-voc": pascal_voc,
    "flowers-102": flowers,
    "domainnet": domainnet,
}
"""By the folder below the data root."""


def build(root: Path) -> Path:
    """All of them below a data root."""
    for folder, make in FOLDERS.items():
        make(root / folder)
    return root
