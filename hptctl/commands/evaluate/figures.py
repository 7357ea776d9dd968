"""The figures of an evaluation, as all its commands print them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from hptctl.format import with_spread

if TYPE_CHECKING:
    from hptctl.runs import Run


def print_figures(run: Run, as_json: bool) -> None:
    """Print the figures of a finished evaluation: a table and what they rest on, or JSON."""
    from hpt.config import DENSE
    from hptctl import console

    spec, status = run.spec(), run.status()
    if as_json:
        console.print_json(
            {
                "name": run.name,
                "folder": str(run.path.resolve()),
                "source": spec.source,
                "dataset": spec.tags.dataset,
            }
            | {"results": status.results, "facts": status.facts.text()}
        )
        return
    results, facts = status.results, status.facts
    parts = [part for part in ("val", "test") if facts.images_of(part) is not None]

    def cell(part: str, metric: str) -> str:
        return with_spread(results.get(f"{part}/{metric}"), results.get(f"{part}/{metric}_std"))

    metrics = [key.removeprefix("val/") for key in results if key.startswith("val/") and not key.endswith("_std")]
    metrics.sort(key=lambda key: key != facts.metric)  # the one that chose leads
    console.table(
        f"{spec.kind} of {spec.source or spec.tags.weights} on {spec.tags.dataset}",
        ("metric", *(f">{part}" for part in parts)),
        [(metric, *(cell(part, metric) for part in parts)) for metric in metrics],
    )
    images = " and ".join(f"{facts.images_of(part)} {part}" for part in parts)
    chose = "" if spec.kind == "knn" else f"; {facts.metric} on val chose {facts.chosen}"
    trained = "images" if spec.kind in DENSE else "labels"
    console.say(f"{facts.labels_used} training {trained}, {images} images{chose}")
    for part in parts:
        if left_out := facts.left_out(part):
            console.say(f"classes that {part} leaves out, for want of images with and without them: {left_out}")
    console.say(f"class by class: hptctl evaluate show {shlex.quote(run.name)}")
