"""`hptctl datasets where`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hptctl import options


def where(
    dataset: Annotated[str | None, typer.Argument(help="A name of the catalogue.")] = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Say where data lies: the catalogue's datasets, your own rows, decoded images; or one dataset.

    Examples:

        hptctl datasets where

        hptctl datasets where flowers
    """
    from hpt.data import quarantine
    from hpt.data.names import find, place_of
    from hpt.data.own_rows import own_file
    from hpt.data.packed import is_packed
    from hpt.data.remote import Place
    from hpt.user_folders import cache_folder, data_folder
    from hptctl import console

    places: dict[str, Place]
    if dataset is None:
        places = {"data_root": data_folder(), "own_rows": own_file(), "cache": cache_folder()}
    else:
        found = find(dataset)
        places = {"images": place_of(found), "quarantine": quarantine.place(found)}
    if as_json:
        console.print_json({name: str(path) for name, path in places.items()})
        return
    for name, path in places.items():
        missing = isinstance(path, Path) and not path.exists() and not is_packed(path)
        console.say(f"{name.replace('_', ' ')}: {path}{' (missing)' if missing else ''}")
