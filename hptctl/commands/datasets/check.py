"""`hptctl datasets check`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.format import count, thousands

if TYPE_CHECKING:
    from hpt.data.check import CheckResult

NAMED = 8
"""Images or pairs named on the screen; --json has all."""
SHOWN, TILE = 8, 192
"""Pairs on the contact sheet, and the side of an image there."""


def check(
    dataset: options.DatasetArgument,
    near: Annotated[
        float, typer.Option("--near", help="Correlation of thumbnails that makes near duplicates; 1: only equal files.")
    ] = 0.99,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where to draw the pairs that were found.", show_default=True)
    ] = Path("check.png"),
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="List what leaks, so that runs leave it out of train and val.")
    ] = False,
    split_seed: Annotated[int | None, typer.Option("--split-seed", help="data.split_seed of the runs.")] = None,
    sets: options.Sets = None,
    data_root: options.DataRoot = None,
    as_json: options.Json = False,
) -> None:
    """The leak guard: unreadable, odd, repeated and leaking images, absent classes, counts that are not as published;
    boxes that are outside, empty or there twice, and masks that do not fit.

    A leak is an image that is, or nearly is, in two splits; the exit code is then 1. Every image is read once.

    Examples:

        hptctl datasets check my-images/

        hptctl datasets check flowers --quarantine --out flowers.png

        hptctl datasets check my-boxes/ --json
    """
    from hpt.data import check as guard
    from hpt.data import quarantine as lists
    from hpt.data.names import find, name_of
    from hpt.errors import ConfigError
    from hptctl import console
    from hptctl.charts import contact_sheet
    from hptctl.commands.datasets import targets
    from hptctl.commands.datasets.list_info import data_config

    contact_sheet.check_path(out)
    if not 0.9 <= near <= 1:
        raise ConfigError(f"--near {near:g} is not between 0.9 and 1", "0.99 is usual; lower finds look-alikes")
    config = data_config(
        dataset, [*(sets or ()), *([f"data.split_seed={split_seed}"] if split_seed is not None else [])]
    )
    found = find(dataset)
    place = lists.place(found)
    before = lists.read(place)
    with console.Display() as display:
        report = guard.check(found, config, left_out=before, near=near, progress=display.progress)
    annotated = targets.read(dataset, config.model_copy(update={"max_unreadable": 1.0}), config.side(224))
    sheet = _draw(name_of(found), report, out)
    written = quarantine and bool(report.leaks)
    if written:
        lists.write(place, before | report.to_leave_out())
    if as_json:
        facts = _facts(name_of(found), report, len(before), sheet, place if written else None)
        console.print_json(facts | annotated.for_scripts(targets.doubtful))
    else:
        _show(name_of(found), report, len(before), near)
        for each in annotated.usable:
            targets.show_doubts(each)
        if sheet:
            console.say(f"{sheet} shows {min(SHOWN, len(report.leaks) + len(report.repeats))} of the pairs")
        if written:
            console.say(f"{place}: {count(len(report.to_leave_out()), 'image')} that runs now leave out")
        elif report.leaks:
            console.say("--quarantine lists them, so that runs leave the copies in train and val out")
    if report.leaks and not written:
        raise typer.Exit(1)


def _show(name: str, report: CheckResult, left_out: int, near: float) -> None:
    from hptctl import console

    sizes = ", ".join(f"{thousands(len(rows))} {split}" for split, rows in report.splits.items())
    console.say(f"{name}: {count(len(report.names), 'image')} ({sizes}), {len(report.classes)} classes")
    leaks = report.leaks
    exact = sum(pair.exact for pair in leaks)
    heights, widths = report.sizes.T
    odd_modes = ", ".join(f"{thousands(many)} {mode}" for mode, many in report.modes.items())
    rows = [
        ("unreadable", len(report.unreadable), _some(f"{image} ({why})" for image, why in report.unreadable)),
        ("leaks, equal files", exact, _pairs(report, [pair for pair in leaks if pair.exact])),
        (f"leaks, near ({near:g})", len(leaks) - exact, _pairs(report, [pair for pair in leaks if not pair.exact])),
        ("repeats in a split", len(report.repeats), _some(f"{n} {s}" for s, n in _by_split(report.repeats, report))),
        ("equal, other labels", len(report.contradictions), _pairs(report, report.contradictions)),
        ("absent classes", sum(map(len, report.absent.values())), _some(_absent(report))),
        ("not as published", len(report.miscounted), _some(_miscounted(report))),
        ("odd", len(report.odd), _some(f"{image} ({why})" for image, why in report.odd)),
    ]
    console.table("", ("what", ">found", "which"), [(what, thousands(many), which) for what, many, which in rows])
    if report.levels:
        before, kept = map(thousands, report.levels)
        console.say(f"grey levels: {kept} of {before} survive (median); {report.form.in_words()}")
    console.say(f"sizes {widths.min()} x {heights.min()} to {widths.max()} x {heights.max()} px, modes {odd_modes}")
    if left_out:
        console.say(f"its quarantine list leaves {count(left_out, 'image')} out, here as in runs")
    verdict = f"{count(len(leaks), 'image')} leak{'s' if len(leaks) == 1 else ''}" if leaks else "nothing leaks"
    console.say(f"{verdict} between train, val and test")


def _draw(name: str, report: CheckResult, out: Path) -> str | None:
    """The contact sheet of the pairs, leaks first; None where there are none."""
    from hpt import preview
    from hptctl.charts import contact_sheet

    pairs = [*report.leaks, *report.repeats][:SHOWN]
    if not pairs:
        return None
    title = f"{name}: {len(report.leaks)} leaks, {len(report.repeats)} repeats in a split"
    place = contact_sheet.layout(title, len(pairs), 2, TILE)
    rows = []
    with report.source.open() as read:
        for pair in pairs:
            both = (pair.first, pair.second)
            first, second = (preview.in_square(read(report.names[row]), TILE, report.form) for row in both)
            above, below = (f"{report.where[row]} {report.names[row].rpartition('/')[2]}" for row in both)
            kind = "equal" if pair.exact else f"{pair.likeness:.4f}"
            rows.append(contact_sheet.SheetRow(image=first, tiles=[second], caption=(above, f"{kind} {below}")))
    contact_sheet.write(contact_sheet.draw(title, ("one", "the other"), rows, place), out)
    return str(out)


def _facts(name: str, report: CheckResult, left_out: int, sheet: str | None, written: Path | None) -> dict[str, Any]:
    from hptctl.commands.datasets.list_info import pixel_facts

    def pairs(found: Any) -> list[dict[str, Any]]:
        return [
            {
                "first": report.names[pair.first],
                "first_split": report.where[pair.first],
                "second": report.names[pair.second],
                "second_split": report.where[pair.second],
                "correlation": round(pair.likeness, 5),
                "exact": pair.exact,
            }
            for pair in found
        ]

    return {
        "name": name,
        "images": {split: len(rows) for split, rows in report.splits.items()},
        "unreadable": [list(each) for each in report.unreadable],
        "left_out": left_out,
        "leaks": pairs(report.leaks),
        "repeats": pairs(report.repeats),
        "contradictions": pairs(report.contradictions),
        "absent_classes": {split: list(names) for split, names in report.absent.items()},
        "not_as_published": {key: {"found": f, "published": p} for key, (f, p) in report.miscounted.items()},
        "odd": [list(each) for each in report.odd],
        "modes": dict(report.modes),
        "levels": dict(zip(("in_files", "in_pixels"), report.levels, strict=True)) if report.levels else None,
        "pixels": pixel_facts(report.form),
        "notes": list(report.notes),
        "sheet": sheet,
        "quarantine": str(written) if written else None,
    }


def _pairs(report: CheckResult, pairs: Any) -> str:
    return _some(f"{_at(report, pair.first)} = {_at(report, pair.second)}" for pair in pairs)


def _at(report: CheckResult, row: int) -> str:
    name, split = report.names[row], report.where[row]
    return name if name.startswith(f"{split}/") else f"{name} ({split})"


def _by_split(pairs: Any, report: CheckResult) -> list[tuple[str, int]]:
    from collections import Counter

    return Counter(report.where[pair.first] for pair in pairs).most_common()


def _absent(report: CheckResult) -> list[str]:
    return [f"{name} in {split}" for split, names in report.absent.items() for name in names]


def _miscounted(report: CheckResult) -> list[str]:
    return [
        f"{thousands(found)} {key} instead of {thousands(published)}"
        for key, (found, published) in report.miscounted.items()
    ]


def _some(texts: Any) -> str:
    texts = list(texts)
    return "; ".join(texts[:NAMED]) + (f"; {len(texts) - NAMED} more" if len(texts) > NAMED else "")
