"""`hptctl evaluate features` and `hptctl evaluate layers`"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig
    from hpt.data.dataset import Dataset
    from hpt.evaluate.embeddings import Embeddings
    from hpt.weights import Loaded

Split = Annotated[str, typer.Option("--split", help="train, val, test or all.")]


def features(
    run: options.RunArgument = None,
    out: Annotated[Path | None, typer.Option("--out", help="The features, as .npz or .parquet.")] = None,
    draw: Annotated[
        Path | None, typer.Option("--map", help="A map of the images in two dimensions, as .svg, .png or .pdf.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="Of the map: pca, tsne or umap (an extra).")] = "pca",
    split: Split = "all",
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    sets: options.Sets = None,
    as_json: options.Json = False,
) -> None:
    """Write a backbone's features of every image, with names and labels, and draw them as a map.

    Examples:

        hptctl evaluate features my-base --out features.npz

        hptctl evaluate features my-base -d digits --out features.parquet --split test

        hptctl evaluate features my-base@500 --map map.svg --method tsne
    """
    from hpt.config import flatten
    from hpt.errors import ConfigError, did_you_mean
    from hpt.evaluate import embeddings
    from hptctl import console

    if out is None and draw is None:
        raise ConfigError("nothing is asked for", "give --out FILE.npz, --map FILE.svg, or both")
    splits = embeddings.splits_of(split)
    if method not in embeddings.METHODS:
        raise ConfigError(
            f"unknown --method '{method}'{did_you_mean(method, embeddings.METHODS)}",
            f"choose one of {', '.join(embeddings.METHODS)}",
        )
    if out is not None:
        embeddings.check_suffix(out)
    if draw is not None:
        from hptctl.charts import svg as charts

        charts.check_figure(draw)
    flags = {"dataset": dataset, "seed": seed, "image_size": image_size, "device": device}
    config, loaded, data = _opened(run, flags | {"precision": precision, "preset": preset}, sets)
    with console.Display() as display:
        found = embeddings.extract(config, data, loaded.state, splits, progress=display.progress)
    n, width = found.features.shape
    about = {
        "weights": config.weights,
        "weights_sha256": loaded.sha256,
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "split_fingerprint": data.split_fingerprint,
        **{key: flatten(config.model_dump(mode="json"))[key] for key in ("backbone", "image_size", "precision")},
    }
    drawn = _drawn(found, config, data.name, method) if draw is not None else None  # before anything is written
    result: dict[str, Any] = {"images": n, "width": width, "effective_rank": embeddings.rank(found)}
    if out is not None:
        embeddings.write(out, found, about)
        result["out"] = str(out.resolve())
    if draw is not None and drawn is not None:
        charts.save(drawn, draw)
        result["map"] = str(draw.resolve())
    if as_json:
        console.print_json(result | {"about": about})
        return
    console.say(f"{n:,} images, {width} features each, of effective rank {result['effective_rank']:.1f}")
    if out is not None:
        console.say(f"features: {out}")
        if out.suffix == ".npz":
            console.say(f"load them: numpy.load({str(out)!r})['features']")
        else:
            console.say(f"load them: pandas.read_parquet({str(out)!r})")
    if draw is not None:
        console.say(f"map: {draw}")


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
        from hptctl.charts import svg as charts

        charts.check_figure(draw)
    flags = {"dataset": dataset, "seed": seed, "image_size": image_size, "device": device, "preset": preset}
    config, first, data = _opened(a, flags, sets)
    second = _weights(b, backbone_of(b))
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
    drift = batch_norm_drift(first.state, second.state) if same else {}
    if draw is not None:
        rows, columns = list(mine), list(theirs)
        values = [[every_pair[x, y] for y in columns] for x in rows]
        charts.save(charts.matrix(values, rows, columns, f"linear CKA: {a} (down), {b} (across)"), draw)
    if as_json:
        console.print_json(
            {"a": a, "b": b, "images": len(drawn)}
            | {"cka": {name: None if math.isnan(value) else value for name, value in cka.items()}}
            | {"batch_norm": {name: vars(each) for name, each in drift.items()}, "map": str(draw) if draw else None}
        )
        return
    console.table(
        f"{a} and {b} on {len(drawn)} images of {data.name}",
        ("layer", ">CKA", *((">BatchNorm drift", ">weights") if same else ())),
        [(name, f"{value:.3f}", *(_of_layer(drift, name) if same else ())) for name, value in cka.items()],
    )
    if not same:
        console.say(f"BatchNorm is not compared: {first.backbone} and {second.backbone} have other layers")
    if draw is not None:
        console.say(f"every pair of layers: {draw}")


def _of_layer(drift: dict[str, Any], name: str) -> tuple[str, str]:
    """The mean over a block's BatchNorm layers of the divergence and of the weights' relative change."""
    inside = [each for key, each in drift.items() if key.startswith(f"{name}.") or (name == "stem" and key == "bn1")]
    return (
        f"{sum(each.kl for each in inside) / len(inside):.3g}",
        f"{sum(each.weight for each in inside) / len(inside):.3g}",
    )


def _opened(run: str | None, flags: dict[str, Any], sets: list[str] | None) -> tuple[EvaluateConfig, Loaded, Dataset]:
    """The configuration, weights and dataset that a command asks for."""
    from hpt.config import EvaluateConfig, resolve
    from hpt.data.dataset import load
    from hptctl import console, runs
    from hptctl.runs.weights import evaluated_defaults

    weights = run or runs.newest().name
    config = resolve(
        EvaluateConfig,
        inherited=evaluated_defaults(weights),
        sets=sets or (),
        flags=flags | {"kind": "knn", "weights": weights},
    )
    loaded = _weights(weights, config.backbone)
    with console.Display() as display:
        side = config.data.side(config.image_size)
        return config, loaded, load(config.dataset, config.data, side=side, progress=display.progress)


def _weights(name: str, backbone: str) -> Loaded:
    from hpt import weights
    from hptctl.runs.weights import find_weights

    return weights.read(find_weights(name)[0], backbone=backbone)


def _drawn(found: Embeddings, config: EvaluateConfig, dataset: str, method: str) -> Any:
    """The map, for `charts.save`: a colour for each of the most frequent classes, and grey for the others."""
    from hpt.evaluate import embeddings
    from hptctl.charts import svg as charts

    points, shares = embeddings.plane(found.features, method, config.seed)  # type: ignore[arg-type]
    kinds = [
        names[0] if len(names) == 1 else "several classes" if names else "no label" for names in found.label_names()
    ]
    counts = Counter(kind for kind in kinds if kind not in {"several classes", "no label"})
    own = [name for name, _ in counts.most_common(charts.MOST_CLOUDS)]
    rest = len(counts) - len(own)
    clouds = [charts.Cloud(name, [p for p, k in zip(points.tolist(), kinds, strict=True) if k == name]) for name in own]
    groups = {f"{rest} other class{'es' if rest > 1 else ''}": {*counts} - {*own}}
    groups |= {name: {name} for name in ("several classes", "no label")}
    for name, members in groups.items():
        grey = [p for p, kind in zip(points.tolist(), kinds, strict=True) if kind in members]
        if grey:
            clouds.append(charts.Cloud(name, grey, muted=True))
    axes = ("", "")
    if method == "pca":
        axes = tuple(f"principal component {i}: {charts.percent(s)} of the variance" for i, s in enumerate(shares, 1))  # type: ignore[assignment]
    names = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
    title = f"{len(points):,} images of {dataset}, features of {config.weights}, {names[method]}"
    return charts.plane(clouds, title, axes)
