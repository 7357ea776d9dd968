"""The user's own rows of the catalogue, in a TOML file.

# <data root>/catalog.toml
[my-xrays]
title = "Our clinic's x-rays"
path = "xrays.csv"                # whatever --dataset takes: a folder, zip file, list, shards, tables or an address
group = 'patient\\d+'              # what a cut must not divide, found in an image's name
shares = {val = 0.1, test = 0.3}  # of what is cut; and whatever else `hpt.data.row.Description` declares
"""

from __future__ import annotations

import glob
import re
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationError

from hpt import toml_file
from hpt.callbacks import Progress
from hpt.config import DataConfig, problems
from hpt.data.archive import Archive
from hpt.data.listing import Listing
from hpt.data.packed import packed_place
from hpt.data.paths import list_path
from hpt.data.remote import Place, address_of, is_pattern, path_of
from hpt.data.row import CatalogRow, Description
from hpt.errors import DataError
from hpt.user_folders import data_folder


def _check_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"'{text}' is not a regular expression: {error}") from None
    return text


def _check_place(text: str) -> str:
    try:
        if address_of(text) is not None:
            packed_place(text)  # which refuses other files than shards and tables
        else:
            path_of(text)
    except DataError as error:
        raise ValueError(str(error)) from None
    return text


class OwnRow(Description):
    """A row of the user's own: a description, and where the images are."""

    path: Annotated[str, AfterValidator(_check_place)]
    """The folder, zip file, list, shards or tables of images, or their address; a path is relative to the folder of the
    TOML file."""
    group: Annotated[str, AfterValidator(_check_pattern)] | None = None
    """A regular expression that finds in an image's name what no cut may divide, such as the patient."""

    def of_catalog(self, name: str, root: Path) -> CatalogRow:
        """The same as a row of the catalogue, whose one file is not for a program to fetch."""
        place: Place = address_of(self.path) or root / path_of(self.path)
        archives: tuple[Archive, ...] = ()
        if isinstance(place, Path) and not is_pattern(place.name):
            file = glob.escape(place.name)
            archives = (Archive(file, gives=(file,)),)
        said = self.model_dump(exclude={"path", "group"})
        said |= {"title": self.title or f"the images of {place}", "note": self.note or f"a row of {own_file()}"}
        return CatalogRow(
            name=name,
            folder=str(place.parent) if isinstance(place, Path) else "",
            archives=archives,
            read=partial(_read, place, self.group),
            path=place,
            **said,
        )


def own_file() -> Path:
    """The file of the user's rows, whether it exists or not."""
    return data_folder() / "catalog.toml"


def own_rows(taken: Container[str]) -> dict[str, CatalogRow]:
    """The user's rows, none of which may have a name that is taken.

    Raises:
        DataError: the file is not TOML, or rows in it are wrong: all problems at once.
    """
    file = own_file()
    tables = toml_file.read(file, "the file of your datasets", error=DataError, absent={})
    found: dict[str, CatalogRow] = {}
    wrong: list[str] = []
    for name, values in tables.items():
        if name in taken:
            wrong.append(f"'{name}' is taken: give the row another name")
        elif not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            wrong.append(f"'{name}' is not a name: use small letters, digits and . _ -")
        elif not isinstance(values, dict):
            wrong.append(f"'{name}' is not a table: begin the row with [{name}]")
        else:
            try:
                found[name] = OwnRow.model_validate(values).of_catalog(name, file.parent)
            except ValidationError as error:
                wrong.append(f"[{name}]: {'; '.join(problems(OwnRow, error))}")
    if wrong:
        raise DataError(f"{file}: {'; '.join(wrong)}")
    return found


def _read(
    place: Place, group: str | None, _: Path, config: DataConfig | None = None, progress: Progress | None = None
) -> Listing:
    listing = list_path(place, config, progress)
    if group is None:
        return listing
    pattern = re.compile(group)

    def find_group(name: str) -> str:
        found = pattern.search(name)
        if found is None:
            raise DataError(f"{name} of {place} has no group '{group}'", f"correct the group in {own_file()}")
        return found[0]

    return listing.grouped(find_group)
