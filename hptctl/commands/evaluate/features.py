"""`hptctl evaluate features`"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.commands.evaluate.subject import Split, opened
from hptctl.format import count, percent, unbroken

if TYPE_CHECKING:
    from hpt.config import EvaluateConfig
    from hpt.evaluate.embeddings import Embeddings


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
    processes: options.Processes = None,
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

        hptctl evaluate features my-base -d my-images/ --out features.npz --processes 4
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
        from hptctl.charts import svg

        svg.check_figure(draw)
    flags = {"dataset": dataset, "seed": seed, "image_size": image_size, "processes": processes, "device": device}
    config, loaded, data = opened(run, flags | {"precision": precision, "preset": preset}, sets)
    if config.processes > 1:
        from hptctl.runs import launch

        found = launch.embed(config, splits)
    else:
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
        svg.save(drawn, draw)
        result["map"] = str(draw.resolve())
    if as_json:
        console.print_json(result | {"about": about})
        return
    console.say(f"{count(n, 'image')}, {width} features each, of effective rank {result['effective_rank']:.1f}")
    if out is not None:
        console.say(f"features: {out}")
        if out.suffix == ".npz":
            console.say(f"load them: numpy.load({str(out)!r})['features']")
        else:
            console.say(f"load them: pandas.read_parquet({str(out)!r})")
    if draw is not None:
        console.say(f"map: {draw}")


def _drawn(found: Embeddings, config: EvaluateConfig, dataset: str, method: str) -> Any:
    """The map, for `svg.save`: a colour for each of the most frequent classes, and grey for the others."""
    from hpt.evaluate import embeddings
    from hptctl.charts.maps import MOST_CLOUDS, Cloud, plane

    points, shares = embeddings.plane(found.features, method, config.seed)  # type: ignore[arg-type]
    kinds = [
        names[0] if len(names) == 1 else "several classes" if names else "no label" for names in found.label_names()
    ]
    counts = Counter(kind for kind in kinds if kind not in {"several classes", "no label"})
    own = [name for name, _ in counts.most_common(MOST_CLOUDS)]
    rest = len(counts) - len(own)
    clouds = [Cloud(name, [p for p, k in zip(points.tolist(), kinds, strict=True) if k == name]) for name in own]
    groups = {f"{rest} other class{'es' if rest > 1 else ''}": {*counts} - {*own}}
    groups |= {name: {name} for name in ("several classes", "no label")}
    for name, members in groups.items():
        grey = [p for p, kind in zip(points.tolist(), kinds, strict=True) if kind in members]
        if grey:
            clouds.append(Cloud(name, grey, muted=True))
    axes = ("", "")
    if method == "pca":
        axes = tuple(
            f"principal component {i}: {unbroken(percent(s))} of the variance" for i, s in enumerate(shares, 1)
        )  # type: ignore[assignment]
    names = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
    title = f"{count(len(points), 'image')} of {dataset}, features of {config.weights}, {names[method]}"
    return plane(clouds, title, axes)
