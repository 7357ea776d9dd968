"""`hptctl advise`"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hptctl import options
from hptctl.format import size

if TYPE_CHECKING:
    from hptctl.advice.measured import Measured
    from hptctl.advice.steps import Step


def advise(
    dataset: options.DatasetArgument,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            "-b",
            help="What adaptation starts from: weights as --weights of `pretrain` takes them.",
            show_default="that of the adaptation",
        ),
    ] = None,
    adapted: Annotated[
        list[str] | None,
        typer.Option(
            "--adapted",
            "-a",
            metavar="RUN",
            help="A finished pretraining, RUN@STEP or any weights; repeatable. Those on these images if left out.",
        ),
    ] = None,
    head: Annotated[
        str, typer.Option("--kind", help="What learns from the labels: linear (a ridge head) or knn.")
    ] = "linear",
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Draws of the labels at each number of them.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The advice as a page, .html.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="Of weights that do not say.", show_default=False)
    ] = None,
    metric: options.Metric = None,
    seed: options.Seed = None,
    image_size: options.ImageSize = None,
    device: options.Device = None,
    precision: options.Precision = None,
    preset: options.Preset = None,
    sets: options.Sets = None,
    as_json: options.Json = False,
) -> None:
    """What is adaptation worth on these images, in labels, and what should be done next?

    With labels: figures on val against the number of training labels, of the base and of what was adapted, on the same
    draws of labels; how many labels with the one do what all do with the other. Test images are left alone. Without
    labels: copies, the rank of features, the distance from the base's domain; a gain is never foretold.

    Examples:

        hptctl advise my-images/

        hptctl advise my-images/ --adapted my-hpt --out advice.html

        hptctl advise digits --base my-base --adapted my-hpt --adapted my-hpt@50 --kind knn

        hptctl advise my-images/ --base timm:resnet50.a1_in1k --json
    """
    from hpt.errors import ConfigError, did_you_mean
    from hpt.evaluate.label_efficiency import HEADS
    from hptctl import console
    from hptctl.advice import backbones
    from hptctl.advice.measured import measured
    from hptctl.advice.steps import steps
    from hptctl.study.at_hand import REAL, kind_here

    if head not in HEADS:
        raise ConfigError(f"unknown --kind '{head}'{did_you_mean(head, HEADS)}", f"choose one of {', '.join(HEADS)}")
    if out is not None:
        _check(out)
    flags = {"metric": metric, "seed": seed, "image_size": image_size, "device": device}
    opened = backbones.opened(
        backbones.Asked(
            dataset=dataset,
            base=base,
            adapted=list(dict.fromkeys(adapted or ())),
            backbone=backbone,
            default_base=REAL[kind_here(device or "auto")],
            flags=flags | {"precision": precision, "preset": preset},
            sets=sets or (),
        )
    )
    for note in opened.notes:
        console.note(f"note: {note}")
    found = measured(opened, head, seeds)
    following = tuple(steps(found))
    if out is not None:
        _write(found, following, out)
    if as_json:
        from hptctl.advice.document import document

        console.print_json(document(found, following) | {"out": str(out.resolve()) if out is not None else None})
        return
    _show(found, following)
    if out is not None:
        console.say(f"\n{out}: {size(out.stat().st_size)}")


def _check(out: Path) -> None:
    from hpt.errors import ConfigError

    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"an advice cannot be written as '{out.name}'", "end --out in .html; --json is for scripts")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"the folder {out.parent} does not exist", "make it, or choose another --out")


def _write(found: Measured, following: Sequence[Step], out: Path) -> None:
    from hpt.files import write_text
    from hptctl.advice import page
    from hptctl.report.page import of_template

    write_text(out, of_template("advice.html.j2", page.build(found, following, options.command_line())))


def _show(found: Measured, following: Sequence[Step]) -> None:
    from hptctl import console
    from hptctl.advice import words

    for line in words.answer(found):
        console.say(line)
    for worth in found.worths:
        console.table(
            f"\n{worth.backbone.name}, {found.metric} on val", words.COLUMNS, [words.row(found, r) for r in worth.rungs]
        )
    if found.curves is not None and not found.worths:
        rows = [words.base_row(found, rung) for rung in range(len(found.curves.rungs))]
        console.table(f"\nthe base, {found.metric} on val", (">labels", ">base (95 %)"), rows)
    if found.curves is not None:
        console.say(words.method(found))
    console.table("\nThe images, without labels", ("what", "found"), list(words.images(found)))
    if costs := list(words.costs(found)):
        console.table("\nWhat it cost", ("what", "took"), costs)
    console.say("\nNext:")
    for number, step in enumerate(following, 1):
        console.say(f"{number}. {step.why}")
        for command in step.commands:
            console.say(f"   {command}")
    for line in words.caveats(found):
        console.note(f"note: {line}")
