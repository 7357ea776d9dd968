"""`hptctl report`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the page.")] = Path("report.html"),
    experiment: Annotated[
        str | None, typer.Option("--experiment", help="One MLflow experiment; all of the store if left out.")
    ] = None,
) -> None:
    """Compare strategies across datasets on one self-contained HTML page.

    Example:

        hptctl report --out report.html
    """
    from hptctl import console
    from hptctl.report import page

    made = page.render(experiment, out)
    datasets = f"{made.datasets} dataset{'s' * (made.datasets != 1)}"
    console.say(f"{made.path}: {datasets}, {made.runs} runs, {made.bytes / 1024:,.0f} KiB")
