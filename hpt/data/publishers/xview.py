"""xView: satellite scenes, and one GeoJSON file of all objects.

    train_images/100.tif
    xView_train.geojson     features with image_id, type_id and bounds_imcoords "xmin,ymin,xmax,ymax"

Layout: https://xviewdataset.org, and github.com/DIUx-xView/data_utilities wv_util.py; type names from its
xview_class_labels.txt. The classes of the published validation images are withheld.

Chips are never written: `Scenes` cuts them while the cache is built.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpt.data.decode import ppm
from hpt.data.folder import Folder
from hpt.data.listing import Listing, Read, Split, Unreadable
from hpt.data.publishers.annotations import damaged, read_json
from hpt.errors import DataError

CHIP = 300
"""Side in pixels: the default of the publisher's own `chip_image`. What is left at the right and below is dropped."""
COVERED = 0.25
"""A chip has an object's class when it holds this share of the object, or the object this share of the chip, so that
slivers do not count and large sites do."""
MOST_FREQUENT = 36
"""The publication trains on 36 of the 60 types and does not say which; these are the ones with most objects."""
TYPES = {
    int(number): name
    for number, name in re.findall(
        r"(\d+) ([^,\n]+)",
        """
11 Fixed-wing Aircraft, 12 Small Aircraft, 13 Passenger/Cargo Plane, 15 Helicopter, 17 Passenger Vehicle,
18 Small Car, 19 Bus, 20 Pickup Truck, 21 Utility Truck, 23 Truck, 24 Cargo Truck,
25 Truck Tractor w/ Box Trailer, 26 Truck Tractor, 27 Trailer, 28 Truck Tractor w/ Flatbed Trailer,
29 Truck Tractor w/ Liquid Tank, 32 Crane Truck, 33 Railway Vehicle, 34 Passenger Car, 35 Cargo/Container Car,
36 Flat Car, 37 Tank car, 38 Locomotive, 40 Maritime Vessel, 41 Motorboat, 42 Sailboat, 44 Tugboat, 45 Barge,
47 Fishing Vessel, 49 Ferry, 50 Yacht, 51 Container Ship, 52 Oil Tanker, 53 Engineering Vehicle, 54 Tower crane,
55 Container Crane, 56 Reach Stacker, 57 Straddle Carrier, 59 Mobile Crane, 60 Dump Truck, 61 Haul Truck,
62 Scraper/Tractor, 63 Front loader/Bulldozer, 64 Excavator, 65 Cement Mixer, 66 Ground Grader, 71 Hut/Tent,
72 Shed, 73 Building, 74 Aircraft Hangar, 76 Damaged Building, 77 Facility, 79 Construction Site, 83 Vehicle Lot,
84 Helipad, 86 Storage Tank, 89 Shipping container lot, 91 Shipping Container, 93 Pylon, 94 Tower
""",
    )
}
"""Names by type_id, the publisher's."""
Boxes = npt.NDArray[np.float64]
"""[n, 4] xmin, ymin, xmax, ymax in pixels of the scene."""


@dataclass(frozen=True)
class Scenes:
    """Chips by scene, row and column: `train_images/100/02-03` is cut from `train_images/100.tif`."""

    root: Path

    def stamp(self, names: Iterable[str]) -> Iterator[str]:
        scenes = sorted({_scene(name) for name in names})
        yield f"chips of {CHIP}"
        yield from Folder(self.root).stamp(scenes)

    @contextmanager
    def open(self) -> Iterator[Read]:
        lock = Lock()

        @lru_cache(maxsize=2)  # chips come scene by scene, and a scene takes 30 to 70 MB
        def scene(name: str) -> npt.NDArray[np.uint8]:
            try:
                with Image.open(self.root / name) as image:
                    return np.asarray(image.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise Unreadable(getattr(error, "strerror", None) or str(error)) from None

        def read(name: str) -> bytes:
            with lock:
                pixels = scene(_scene(name))
            row, column = (int(part) for part in name.rpartition("/")[2].split("-"))
            return ppm(pixels[row * CHIP : (row + 1) * CHIP, column * CHIP : (column + 1) * CHIP])

        yield read


def read_objects(folder: Path) -> dict[str, tuple[Boxes, npt.NDArray[np.int64]]]:
    """The boxes and types of all objects of each scene, by its file's name."""
    path = folder / "xView_train.geojson"
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    types: dict[str, list[int]] = defaultdict(list)
    try:
        for feature in read_json(path)["features"]:
            facts = feature["properties"]
            if facts["bounds_imcoords"]:
                boxes[facts["image_id"]].append([float(number) for number in facts["bounds_imcoords"].split(",")])
                types[facts["image_id"]].append(int(facts["type_id"]))
        return {scene: (np.array(boxes[scene]).reshape(-1, 4), np.array(types[scene])) for scene in boxes}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"no {error}" if isinstance(error, KeyError) else error) from None


def read(folder: Path) -> Listing:
    """The chips of every labelled scene, to be cut into train, val and test by scene."""
    objects = read_objects(folder)
    counts = Counter(number for _, kinds in objects.values() for number in kinds.tolist() if number in TYPES)
    chosen = sorted(number for number, _ in counts.most_common(MOST_FREQUENT))
    images: dict[str, tuple[Split, list[str]]] = {}
    for scene in sorted(objects):
        try:
            with Image.open(folder / "train_images" / scene) as image:
                width, height = image.size
        except FileNotFoundError:
            continue  # the publisher's file names one scene that it does not ship
        except OSError as error:
            raise damaged(folder / "train_images" / scene, error) from None
        corners, kinds = objects[scene]
        for row in range(height // CHIP):
            for column in range(width // CHIP):
                here = np.unique(kinds[covers(corners, column * CHIP, row * CHIP)]).tolist()
                name = f"train_images/{Path(scene).stem}/{row:02d}-{column:02d}"
                images[name] = ("train", [TYPES[number] for number in here if number in TYPES])
    if not images:
        raise DataError(
            f"{folder} holds no scene that xView_train.geojson names", "put the folder train_images beside that file"
        )
    listing = Listing.multi_label(Scenes(folder), images, [TYPES[number] for number in chosen])
    return listing.grouped(lambda name: name.rpartition("/")[0])


def covers(boxes: Boxes, left: int, top: int) -> npt.NDArray[np.bool_]:
    """[n] which boxes a chip shows enough of."""
    shared = _shared(boxes, left, top)
    area = np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1)
    shown: npt.NDArray[np.bool_] = (shared >= COVERED * np.minimum(area, CHIP**2)) & (shared > 0)
    return shown


def shows(boxes: Boxes, left: int, top: int) -> npt.NDArray[np.bool_]:
    """[n] which boxes a chip shows any of."""
    return _shared(boxes, left, top) > 0


def _shared(boxes: Boxes, left: int, top: int) -> npt.NDArray[np.float64]:
    """[n] the pixels of each box that a chip shows."""
    wide = np.minimum(boxes[:, 2], left + CHIP) - np.maximum(boxes[:, 0], left)
    high = np.minimum(boxes[:, 3], top + CHIP) - np.maximum(boxes[:, 1], top)
    shared: npt.NDArray[np.float64] = np.maximum(wide, 0) * np.maximum(high, 0)
    return shared


def _scene(name: str) -> str:
    return f"{name.rpartition('/')[0]}.tif"
