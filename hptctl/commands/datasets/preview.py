"""`hptctl datasets preview`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hptctl import options

if TYPE_CHECKING:
    from hpt.data.pixel_format import PixelFormat


def preview(
    dataset: options.DatasetArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the picture.")] = Path("preview.png"),
    images: Annotated[int, typer.Option("--images", help="Images: rows of the sheet.")] = 8,
    views: Annotated[int, typer.Option("--views", help="Random views of each.")] = 4,
    policy: options.Policy = None,
    image_size: options.ImageSize = None,
    seed: options.Seed = None,
    split: Annotated[str, typer.Option("--split", help="train, val or test.")] = "train",
    channels: Annotated[
        str | None,
        typer.Option(
            "--channels", metavar="R,G,B", help="Channels shown as red, green and blue.", show_default="0,1,2"
        ),
    ] = None,
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """Draw a contact sheet (PNG): images as cached, their boxes or masks, their test view, and views as pretraining
    draws them.

    Examples:

        hptctl datasets preview digits

        hptctl datasets preview my-images/ --policy crop-only --image-size 64 --out crops.png

        hptctl datasets preview my-boxes/ --split test --images 12 --views 1
    """
    from hpt import preview
    from hpt.augment import suited
    from hpt.config import PretrainConfig, resolve
    from hpt.data.dataset import load
    from hpt.data.listing import class_names
    from hpt.errors import ConfigError
    from hptctl import console
    from hptctl.charts import contact_sheet
    from hptctl.commands.datasets import targets

    for option, number in (("--images", images), ("--views", views)):
        if number < 1:
            raise ConfigError(f"{option} {number} leaves nothing to show", "give 1 or more")
    contact_sheet.check_path(out)
    augment = {"policy": policy} if policy is not None else None
    flags = {"strategy": "target", "dataset": dataset, "image_size": image_size, "seed": seed, "augment": augment}
    config = resolve(PretrainConfig, sets=sets or (), flags=flags)
    size = config.image_size
    with console.Display() as display:
        data = load(dataset, config.data, side=config.data.side(size), progress=display.progress)
    annotated = targets.read(dataset, config.data, config.data.side(size)).usable
    three = _three(channels, data.images.form)
    chosen = preview.choose(data, split, images, config.seed)
    words = f"{config.augment.policy}: {suited(config.augment, data.images.form.colours).in_words()}"
    title = f"{data.name}, {split}, views of {size} px, seed {config.seed}. Policy {words}"
    place = contact_sheet.layout(title, len(chosen), views + 2 + len(annotated), size)
    shown = data.images.subset(chosen)
    rows = [
        contact_sheet.SheetRow(
            image=seen.cached,
            tiles=[seen.centre, *seen.views],
            caption=(
                class_names(data, index),
                f"{seen.cached.shape[1]} × {seen.cached.shape[0]} px",
            ),
            targets=[targets.drawn(each, index, seen.cached, place.side) for each in annotated],
        )
        for index, seen in zip(chosen.tolist(), preview.look(shown, config, views, three), strict=True)
    ]
    names = [targets.WHAT[each.task] for each in annotated]
    headings = ("in the cache", *names, "test view", *(f"view {number}" for number in range(1, views + 1)))
    contact_sheet.write(contact_sheet.draw(title, headings, rows, place), out)
    if as_json:
        console.print_json(
            {
                "path": str(out.resolve()),
                "augment": config.augment.model_dump(mode="json"),
                "images": list(shown.names),
                "classes": [row.caption[0] for row in rows],
                "targets": {each.task: list(each.classes) for each in annotated},
            }
        )
        return
    console.say(f"{out}: {len(rows)} {split} images of {data.name}, {views} views each of {size} px")
    console.say(f"policy {words}")


def _three(text: str | None, form: PixelFormat) -> tuple[int, int, int] | None:
    """The channels to show, by number or name, of those that a run sees."""
    from hpt.errors import ConfigError, did_you_mean

    if text is None:
        return None
    names = [name.casefold() for name in form.names]
    parts = [part.strip().casefold() for part in text.split(",")]
    found = [int(part) if part.isdecimal() else names.index(part) if part in names else -1 for part in parts]
    if len(found) != 3 or not all(0 <= each < form.channels for each in found):
        wrong = next((part for part, at in zip(parts, found, strict=True) if not 0 <= at < form.channels), "")
        hint = did_you_mean(wrong, form.names) if wrong and form.names else ""
        raise ConfigError(
            f"--channels {text} does not name three channels{hint}",
            f"give three of {', '.join(form.names) or f'0 to {form.channels - 1}'}, for example --channels 0,0,0",
        )
    return found[0], found[1], found[2]
