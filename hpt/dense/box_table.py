"""Tables of boxes: a line an object.

path,xmin,ymin,xmax,ymax,label          also x1,y1,x2,y2, or x,y,width,height; optional: split, difficult
1.jpg,10,20,30,40,cat
2.jpg,,,,,                              an image without objects
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from hpt.data.annotation_files import (
    LABEL_COLUMNS,
    LARGEST,
    PATH_COLUMNS,
    Head,
    Places,
    box_columns,
    path_of,
    rows_of,
    split_of_file,
)
from hpt.data.left_out import counted
from hpt.data.listing import Note
from hpt.dense.annotated_boxes import AnnotatedBoxes, image_boxes, named
from hpt.errors import DataError

ENOUGH = 0.5
"""The share of a table's images that must be there."""


def read(files: Sequence[str], images: Collection[str], head: Head) -> AnnotatedBoxes:
    """The boxes of images that tables name; corners as pixels from 0.

    Raises:
        DataError: a number is none, or most images are not there.
    """
    resolve = Places(images)
    boxes: dict[str, list[tuple[float, float, float, float]]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}
    there: set[str] = set()
    absent: set[str] = set()
    for file in files:
        for number, row in enumerate(rows_of(head(file, LARGEST)), start=2):
            columns = list(row)
            found = box_columns(columns)
            path = path_of(row)
            if not path:
                raise DataError(
                    f"{file}, line {number} names no image", f"add a column {' or '.join(PATH_COLUMNS[:3])}"
                )
            image = resolve(path, split_of_file(file), file)
            if image is None:
                absent.add(path)
                continue
            there.add(image)
            values = [row[columns[place]] for place in found[0]] if found else []
            if not any(values):
                continue
            label = next((row[key] for key in LABEL_COLUMNS if row.get(key) and row[key] != path), "object")
            try:
                left, top, right, bottom = (float(value) for value in values)
            except ValueError:
                raise DataError(
                    f"{file}, line {number}: '{','.join(values)}' are no four numbers", "correct or remove the line"
                ) from None
            if found and found[1]:
                right, bottom = left + right, top + bottom
            elif row.get("width", "").isdecimal() and row.get("height", "").isdecimal():
                sizes[image] = (int(row["height"]), int(row["width"]))
            boxes[image].append((left, top, right, bottom))
            names[image].append(label)
    if len(absent) > (1 - ENOUGH) * (len(absent) + len(there)):
        raise DataError(
            f"{len(absent):,} of {len(absent) + len(there):,} images of {', '.join(files)} are not there: "
            f"{named(sorted(absent))}",
            "put the images beside it, under the names that it has",
        )
    notes = []
    if absent:
        notes.append(Note(f"{counted(len(absent), 'image')} of the table are not there: {named(sorted(absent))}"))
    classes = tuple(sorted({name for some in names.values() for name in some}))
    at = {name: i for i, name in enumerate(classes)}
    shares = all(-1 <= value <= 2 for some in boxes.values() for box in some for value in box)
    return AnnotatedBoxes(
        classes,
        {
            image: image_boxes(boxes[image], [at[name] for name in names[image]], size=sizes.get(image), shares=shares)
            for image in sorted(there)
        },
        notes,
    )
