"""`hptctl weights list|fetch|inspect|convert|export`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options

if TYPE_CHECKING:
    from hptctl.runs import Run

app = typer.Typer(no_args_is_help=True, help="Look into weights, and take them to other programs.")

Layout = Annotated[
    str, typer.Option("--layout", help="torchvision, timm, moco, detectron2, huggingface (a folder) or onnx.")
]
Source = Annotated[
    str,
    typer.Argument(metavar="WEIGHTS", help="A file, a run, RUN@STEP, a known name, timm:NAME or hf-hub:ORG/NAME."),
]
Network = Annotated[
    str | None,
    typer.Option("--backbone", help="Which network a file is of that does not say: timm's name of an image model."),
]


@app.command("list")
def list_weights(as_json: options.Json = False) -> None:
    """List the known base weights, and which of them are on this machine.

    Example:

        hptctl weights list
    """
    from hpt.known_weights import KNOWN
    from hptctl import console

    rows = [(name, known, known.path.exists()) for name, known in KNOWN.items()]
    if as_json:
        keys = ("url", "size", "backbone", "source", "note", "mean", "std")
        console.print_json(
            [
                {"name": name, "here": here, "file": str(known.path)}
                | {key: getattr(known, key) for key in keys}
                | {"checksum": f"{known.checksum.algorithm}:{known.checksum.digest}"}
                for name, known, here in rows
            ]
        )
        return
    console.table(
        "",
        ("name", "backbone", "here", "what"),
        [(name, known.backbone, "yes" if here else "no", known.note) for name, known, here in rows],
    )
    for mean, std in dict.fromkeys((known.mean, known.std) for known in KNOWN.values()):
        names = ", ".join(name for name, known in KNOWN.items() if (known.mean, known.std) == (mean, std))
        console.say(f"{names}: images normalised by mean {_channels(mean)}, std {_channels(std)}")
    console.say("`hptctl weights fetch NAME` downloads one; a run fetches what it needs by itself")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A known name: `hptctl weights list`.")], as_json: options.Json = False
) -> None:
    """Download known weights into the cache, checked; a download that broke off goes on.

    Example:

        hptctl weights fetch moco-v2-800ep
    """
    from hpt.errors import WeightsError, did_you_mean
    from hpt.known_weights import KNOWN, locate
    from hpt.weights import read
    from hptctl import console

    with console.Display() as display:
        file = locate(name, progress=display.progress)
    if file is None:
        known = ", ".join(KNOWN)
        raise WeightsError(f"no known weights are called '{name}'{did_you_mean(name, KNOWN)}", f"choose {known}")
    loaded = read(file, backbone=KNOWN[name].backbone)
    if as_json:
        console.print_json({"name": name, "file": str(file), "sha256": loaded.sha256})
        return
    console.say(loaded.summary())
    console.say(f"file: {file}")


@app.command()
def inspect(
    weights: Source,
    backbone: Network = None,
    allow_partial: options.AllowPartial = False,
    as_json: options.Json = False,
) -> None:
    """Say what a weights file holds: dialect, architecture, which tensors match, and whether BatchNorm looks sane.

    Nothing in the file is executed. What could not be loaded is refused with the first differences, exit code 2.

    Examples:

        hptctl weights inspect my-weights.pth

        hptctl weights inspect my-base --json

        hptctl weights inspect timm:vit_small_patch14_dinov2.lvd142m

        hptctl weights inspect their-vit.pth --backbone vit_small_patch16_224
    """
    from hpt.weights import read
    from hptctl import console
    from hptctl.runs.weights import find_weights

    loaded = read(find_weights(weights)[0], backbone=backbone, allow_partial=allow_partial)
    odd = loaded.oddities()
    if as_json:
        keys = (
            "backbone",
            "image_size",
            "dialect",
            "sha256",
            "matched",
            "expected",
            "missing",
            "unexpected",
            "ignored",
        )
        console.print_json({"file": str(loaded.path)} | {key: getattr(loaded, key) for key in keys} | {"oddities": odd})
        return
    rows: list[tuple[str, str]] = [
        ("file", str(loaded.path)),
        ("dialect", loaded.dialect),
        ("architecture", loaded.backbone + (f", for {loaded.image_size} px" if loaded.image_size else "")),
        ("matched", f"{loaded.matched} of {loaded.expected} tensors"),
    ]
    for name in ("missing", "unexpected", "ignored"):
        keys_ = getattr(loaded, name)
        rows.append(
            (name, f"{len(keys_)}: {', '.join(keys_[:3])}{', ...' if len(keys_) > 3 else ''}" if keys_ else "none")
        )
    normalised = any(key.endswith(".running_mean") for key in loaded.state)
    rows.append(("BatchNorm", "; ".join(odd) or ("its statistics look sane" if normalised else "none")))
    rows.append(("sha256", loaded.sha256))
    console.table("", ("", ""), rows)


@app.command()
def convert(
    weights: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: .safetensors, .pth, .pkl or .onnx.")],
    backbone: Network = None,
    layout: Layout = "torchvision",
    allow_partial: options.AllowPartial = False,
    as_json: options.Json = False,
) -> None:
    """Write any weights in the layout of another program, and print the line of Python that loads them there.

    Examples:

        hptctl weights convert my-weights.pth backbone.safetensors

        hptctl weights convert my-base backbone.pkl --layout detectron2

        hptctl weights convert their-vit.pth vit.onnx --backbone vit_small_patch16_224 --layout onnx
    """
    from hpt import export as exporting
    from hpt.weights import read
    from hptctl import console
    from hptctl.runs.weights import find_weights

    chosen = exporting.get(layout)
    exporting.check_path(chosen, out)
    loaded = read(find_weights(weights)[0], backbone=backbone, allow_partial=allow_partial)
    about = {"backbone": loaded.backbone, "from": loaded.sha256, "layout": layout}
    if loaded.image_size is not None:
        about["image_size"] = str(loaded.image_size)
    exported = exporting.Exported(loaded.state, loaded.backbone, image_size=loaded.image_size)
    line = exporting.write(exported, chosen, out, about)
    if as_json:
        console.print_json({"file": str(out.resolve()), "layout": layout, "load": line, "backbone": loaded.backbone})
        return
    console.say(f"{out}: {loaded.backbone}, {layout}")
    console.say(line)


@app.command()
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A pretraining, RUN@STEP, a finetuning or a sweep of them.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The file.", show_default="RUN.safetensors, as the layout has it")
    ] = None,
    layout: Layout = "torchvision",
    register: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME", help="Also MLflow's registry: a model that embeds images."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push", metavar="ORG/NAME", help="Also to the Hugging Face hub, by your token there (HF_TOKEN)."
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository there public.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a run's backbone for other programs, with a model card beside it (data, steps, figures, licences).

    Of a finetuning, or of the winner of a sweep, it is the classifier, whose classes the card names in order.

    Examples:

        hptctl weights export my-base

        hptctl weights export sweep-my-base --out classifier.pth

        hptctl weights export my-base@500 --out backbone.pth --layout timm

        hptctl weights export my-base --register my-embedder

        hptctl weights export my-base --layout huggingface --out my-base-hf

        hptctl weights export my-base --layout huggingface --push my-name/my-base

        hptctl weights export my-base --layout onnx --out backbone.onnx
    """
    from hpt import export as exporting
    from hpt.architectures import hub
    from hpt.errors import ConfigError, RunError
    from hpt.evaluate import MODEL
    from hpt.evaluate.finetune import read_head
    from hpt.files import write_text
    from hpt.weights import read
    from hptctl import console
    from hptctl.runs import model_card
    from hptctl.runs.weights import absent, find_weights, step_of

    chosen = exporting.get(layout)
    path = out or Path(f"{run.replace('@', '-step-')}{chosen.suffixes[0]}")
    exporting.check_path(chosen, path)
    if push is not None and layout != exporting.HUGGINGFACE:
        raise ConfigError("--push uploads a folder of the hub", f"add --layout {exporting.HUGGINGFACE}")
    if public and push is None:
        raise ConfigError("--public says of what repository", "add --push ORG/NAME")
    if push is not None:
        hub.check_push(push)
    finetuned = _finetuned(run)
    if finetuned is not None and register is not None:
        raise ConfigError("--register takes a model that embeds images, not a classifier", "name the pretraining")
    file, source = find_weights(run) if finetuned is None else (finetuned.path / MODEL, finetuned)
    if not file.exists() and finetuned is not None:
        raise absent(finetuned)
    if source is None:
        raise RunError(f"'{run}' is not a run", f"`hptctl weights convert {run} OUT` converts any file")
    loaded = read(file)
    state, classes = loaded.state, list[str]()
    if finetuned is not None:
        head, classes = read_head(file)
        state = {**state, **head}
    about = {"backbone": loaded.backbone, "run": run, "from": loaded.sha256, "layout": layout}
    if loaded.image_size is not None:
        about["image_size"] = str(loaded.image_size)
    config, facts = source.spec().config, source.status().facts
    if register is not None and config.get("pooling") == "both":
        raise ConfigError("timm has no pooling of both class token and patches", "use --layout onnx")
    exported = exporting.Exported(
        state,
        loaded.backbone,
        image_size=int(config["image_size"]),
        pooling=config.get("pooling", "own"),
        normalisation=(facts.mean, facts.std) if facts.mean and facts.std else None,
        labels=classes,
    )
    line = exporting.write(exported, chosen, path, about)
    if push is not None:
        line = f"model = timm.create_model({hub.HUB + push!r}, pretrained=True)"
    folder = layout == exporting.HUGGINGFACE
    beside = path / "README.md" if folder else path.with_suffix(".md")
    if finetuned is not None:
        card = model_card.of_classifier(source, classes, line)
    else:
        card = model_card.of_backbone(source, step_of(file), line)
    write_text(beside, model_card.for_hub(card, classifies=bool(classes)) if folder else card)
    made: dict[str, Any] = {"file": str(path.resolve()), "layout": layout, "load": line, "card": str(beside.resolve())}
    if register is not None:
        from hptctl.tracking import registry

        mean, std = model_card.normalisation(source)
        about_model = {"backbone": loaded.backbone, "mean": mean, "std": std}
        about_model |= {"image_size": config["image_size"], "pooling": config.get("pooling", "own")}
        made["registered"] = registry.register(register, source, state, about_model, card)
    pushed = hub.push(path, push, public=public) if push is not None else None
    if pushed is not None:
        made["pushed"] = pushed._asdict()
    if as_json:
        console.print_json(made)
        return
    console.say(f"{path}: {loaded.backbone}, {layout}; card: {beside}")
    console.say(f"{pushed}: {line}" if pushed is not None else line)
    if register is not None:
        console.say(f"registered: {made['registered']}")
        console.say(
            f"load it: mlflow.pyfunc.load_model({made['registered']!r}).predict(images)  # [n, 3, H, W] in [0, 1]"
        )


def _finetuned(name: str) -> Run | None:
    """The finetuning that a name means: a run's own, or the winner of a sweep; None where it is neither."""
    from hpt.errors import RunError
    from hptctl import runs

    run = runs.find(name)
    if run is not None and run.spec().kind == "sweep":
        status = run.status()
        if status.state != "finished":
            raise RunError(f"sweep '{run.name}' is not finished ({status.state})", "its winner is not known yet")
        run = runs.find(status.facts.winner or "")
    if run is None or run.spec().kind != "finetune":
        return None
    if (state := run.status().state) != "finished":
        raise RunError(f"run '{run.name}' is not finished ({state})", f"`hptctl evaluate finetune --resume {run.name}`")
    return run


def _channels(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
