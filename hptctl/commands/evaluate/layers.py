"""`hptctl evaluate layers`"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from hptctl import options
from hptctl.commands.evaluate.subject import Split, opened, read_weights


def layers(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, RUN@STEP, a weights file or a known name.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    draw: Annotated[
        Path | None, typer.Option("--map", help="Every layer of A with every layer of B, as .svg, .png or .pdf.")
    ] = None,
    split: Split = "val",
    images: Annotated[int, typer.Option("--images", min=4, help="Images looked at, drawn by seed.")] = 500,
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    preset: options.Preset = None,
    sets: options.Sets = None,
    as_json: options.Json = False,
) -> None:
    """Compare two backbones layer by layer: linear CKA on the same images, and how far BatchNorm has moved.

    CKA is 1 where a layer says the same of the images in both; drift is the divergence of BatchNorm's running
    statistics (nats, a channel) and the relative change of its weights.

    Examples:

        hptctl evaluate layers my-hpt my-base

        hptctl evaluate layers my-hpt my-base -d digits --map layers.svg
    """
    import numpy as np

    from hpt import layers as alike
    from hpt.errors import DataError
    from hpt.evaluate import embeddings
    from hpt.processes import choose_device
    from hpt.representation import batch_norm_drift
    from hptctl import console
    from hptctl.runs.weights import backbone_of

    splits = embeddings.splits_of(split)
    if draw is not None:
        from hptctl.charts import maps, svg

        svg.check_figure(draw)
    flags = {"dataset": dataset, "seed": seed, "image_size": image_size, "device": device, "preset": preset}
    config, first, data = opened(a, flags, sets)
    second = read_weights(b, backbone_of(b))
    every = np.concatenate([data.splits[name] for name in splits])
    if len(every) < 4:
        raise DataError(f"{data.name} has {len(every)} images in {split}, 4 are needed", "use --split all")
    drawn = np.sort(np.random.default_rng(config.seed).permutation(every)[:images])
    some, where = data.images.subset(drawn), choose_device(config.device)
    with console.Display() as display:
        mine, theirs = (
            alike.activations(each.backbone, each.state, some, config.image_size, where, display.progress)
            for each in (first, second)
        )
    same = first.backbone == second.backbone
    beside = alike.side_by_side(list(mine), list(theirs))
    every_pair = alike.similarity(mine, theirs)  # NaN where a layer has collapsed
    cka = {name: every_pair[pair] for name, pair in beside.items()}
    normalised = same and any(key.endswith(".running_mean") for key in first.state)
    drift = batch_norm_drift(first.state, second.state) if normalised else {}
    if draw is not None:
        rows, columns = list(mine), list(theirs)
        values = [[every_pair[x, y] for y in columns] for x in rows]
        svg.save(maps.matrix(values, rows, columns, f"linear CKA: {a} (down), {b} (across)"), draw)
    if as_json:
        console.print_json(
            {"a": a, "b": b, "images": len(drawn)}
            | {"cka": {name: None if math.isnan(value) else value for name, value in cka.items()}}
            | {"batch_norm": {name: vars(each) for name, each in drift.items()}, "map": str(draw) if draw else None}
        )
        return
    console.table(
        f"{a} and {b} on {len(drawn)} images of {data.name}",
        ("layer", ">CKA", *((">BatchNorm drift", ">weights") if normalised else ())),
        [(name, f"{value:.3f}", *(_of_layer(drift, name) if normalised else ())) for name, value in cka.items()],
    )
    if not same:
        console.say(f"BatchNorm is not compared: {first.backbone} and {second.backbone} have other layers")
    elif not normalised:
        console.say(f"BatchNorm is not compared: a {first.backbone} has none")
    if draw is not None:
        console.say(f"every pair of layers: {draw}")


def _of_layer(drift: dict[str, Any], name: str) -> tuple[str, str]:
    """The mean over a block's BatchNorm layers of the divergence and of the weights' relative change; dashes of a block
    without any."""
    inside = [each for key, each in drift.items() if key.startswith(f"{name}.") or (name == "stem" and key == "bn1")]
    if not inside:
        return "-", "-"
    return (
        f"{sum(each.kl for each in inside) / len(inside):.3g}",
        f"{sum(each.weight for each in inside) / len(inside):.3g}",
    )
