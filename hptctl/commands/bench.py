"""`hptctl bench`"""

from __future__ import annotations

from typing import Annotated

import typer

from hptctl import options
from hptctl.format import percent, size, thousands

BAR = 30


def bench(
    dataset: options.Dataset = "shapes",
    strategy: Annotated[str, typer.Option("--strategy", "-s", help="target, hpt or hpt-bn.")] = "hpt",
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images per step.", show_default="256")] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="A ResNet, or timm's name of an image model.", show_default="resnet50"),
    ] = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    sets: options.Sets = None,
    config: options.ConfigFile = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps per repeat.")] = 3,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repeats; the medians are shown.")] = 3,
    as_json: options.Json = False,
) -> None:
    """Measure a pretraining step on this machine and on your images, stage by stage, beside the bare model step.

    Examples:

        hptctl bench --preset tiny --dataset my-images/

        hptctl bench --preset small --dataset my-images/ --backbone vit_tiny_patch16_224
    """
    from hpt.bench import measure
    from hpt.config import PretrainConfig, resolve
    from hpt.data.dataset import load
    from hpt.errors import ConfigError
    from hptctl import console

    flags = {"strategy": strategy, "dataset": dataset, "batch_size": batch_size, "backbone": backbone}
    flags |= {"image_size": image_size, "device": device, "precision": precision, "preset": preset}
    settings = resolve(PretrainConfig, file=config, sets=sets or (), flags=flags)
    if settings.strategy == "base":
        raise ConfigError("strategy base takes no step to measure", "use --strategy hpt")
    with console.Display() as display:
        side = settings.data.side(settings.image_size)
        images = load(settings.dataset, settings.data, side=side, progress=display.progress).pretraining_images()
        found = measure(settings, images, steps=steps, repeats=repeats, progress=display.progress)
    if as_json:
        console.print_json(
            {
                "images_per_second": found.images_per_second,
                "bare_images_per_second": found.bare_images_per_second,
                "ratio_to_bare": found.ratio_to_bare,
                "ratios": found.ratios,
                "processor_ratios": found.processor_ratios,
                "bound": found.bound,
                "images": len(images),
                "seconds_per_step": found.seconds,
                "stages": found.stages,
                "peak_bytes": found.peak_bytes,
                "config": settings.model_dump(mode="json"),
            }
        )
        return
    whole = sum(found.stages.values())
    console.table(
        f"{settings.backbone}, {settings.image_size} px, batch {settings.batch_size}, {settings.strategy}",
        ("stage", ">ms", ">share", ""),
        [
            (stage, f"{1000 * seconds:.0f}", percent(seconds / whole), "█" * round(BAR * seconds / whole))
            for stage, seconds in found.stages.items()
        ],
    )
    height, width = (round(float(side)) for side in images.sizes.mean(axis=0))
    console.say(
        f"{thousands(found.images_per_second)} images/s;"
        f" the bare model step does {thousands(found.bare_images_per_second)}:"
        f" ours takes {found.ratio_to_bare:.3f} times as long (repeats differ by {percent(found.spread)});"
        f" peak memory {size(found.peak_bytes)}"
    )
    console.say(
        f"On these {thousands(len(images))} images, on average {height} x {width} in the cache,"
        f" a step is bound by {found.bound}."
    )
