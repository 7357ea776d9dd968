"""`hptctl datasets pack`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options
from hptctl.commands.datasets.cache import BYTES, amount
from hptctl.format import count, size


def pack(
    dataset: options.DatasetArgument,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder, or an address such as s3://bucket/folder.")],
    shard_size: Annotated[
        str, typer.Option("--shard-size", metavar="SIZE", help="The most bytes of a shard, such as 256MiB or 1GiB.")
    ] = "512MiB",
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Pack a dataset into WebDataset shards: its images as their files are, with labels and splits.

    The shards can be named wherever a dataset is, and hold the same images, labels, splits and digests; the library
    webdataset reads them, too. The same files come to the same bytes. A command that was stopped goes on where it was.

    Examples:

        hptctl datasets pack my-images/ my-shards/

        hptctl datasets pack flowers s3://bucket/flowers --shard-size 256MiB

        hptctl pretrain --strategy hpt --dataset s3://bucket/flowers/ --set data.stream=true
    """
    from pathlib import Path

    from hpt.data import pack as packing
    from hpt.data.names import find
    from hpt.data.remote import address_of
    from hpt.errors import ConfigError
    from hptctl import console
    from hptctl.commands.datasets.list_info import data_config

    most = int(amount("--shard-size", shard_size, BYTES, "256MiB or 1GiB"))
    if most < 1 << 16:
        raise ConfigError(f"--shard-size {shard_size} is less than a shard takes", "256MiB is usual, 64KiB the least")
    config = data_config(dataset, sets)
    found = find(dataset)
    place = address_of(out) or Path(out).expanduser().absolute()
    with console.Display() as display:
        done = packing.pack(found, place, config, shard_bytes=most, progress=display.progress)
    if as_json:
        console.print_json(
            {
                "out": str(place),
                "images": done.images,
                "shards": list(done.shards),
                "bytes": done.bytes,
                "kept": done.kept,
                "left_out": [list(each) for each in done.left_out],
                "renamed": done.renamed,
            }
        )
        return
    sizes = ", ".join(f"{many:,} {part}" for part, many in done.images.items())
    console.say(f"{out}: {sizes}, in {count(len(done.shards), 'shard')} of {size(done.bytes)} together")
    if done.kept:
        console.say(f"{count(done.kept, 'shard')} had been written before")
    if done.left_out:
        console.warn(f"{count(len(done.left_out), 'image')} could not be read, such as {done.left_out[0][0]}")
    if done.quarantine:
        console.warn(f"runs on the pack do not see the quarantine list {done.quarantine}")
    console.note(f"next: hptctl datasets info {out}")
