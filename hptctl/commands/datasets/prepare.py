"""`hptctl datasets prepare`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options
from hptctl.commands.datasets.list_info import row_facts
from hptctl.format import count


def prepare(
    dataset: Annotated[str, typer.Argument(help="A name of the catalogue.")],
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Get a dataset: download what its licence lets a program download, unpack it, and check what came.

    What a person must fetch is said step by step; put it where it says, and run this again. A download that broke off
    goes on where it stopped.

    Examples:

        hptctl datasets prepare flowers

        hptctl datasets prepare chexpert --data-root /data
    """
    from hpt.data.names import find, place_of
    from hpt.data.row import CatalogRow
    from hpt.errors import DataError
    from hptctl import console

    row = find(dataset)
    if not isinstance(row, CatalogRow):
        raise DataError(f"{dataset} is not a name of the catalogue", "a folder, zip file or list needs no preparing")
    with console.Display() as display:
        row.prepare(display.progress)
        what = row.missing()
        if what is None:
            listing = row.listing(display.progress)
    if what is not None:
        for number, step in enumerate(row.by_hand(), start=1):
            console.note(f"{number}. {step}")
        raise DataError(f"{row.name} is not here: {what} is missing in {row.place}", "do these steps")
    if as_json:
        console.print_json(row_facts(row) | {"path": str(place_of(row)), "images": len(listing.names)})
        return
    lies = place_of(row) if row.archives or row.path is not None else "embedded"
    console.say(f"{row.name} is ready: {count(len(listing.names), 'image')} of {len(listing.classes)} classes, {lies}")
    console.note(f"next: hptctl datasets check {row.name}")
