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
    study: Annotated[
        str | None, typer.Option("--study", help="One study of this folder: `hptctl runs list --kind study`.")
    ] = None,
) -> None:
    """Compare strategies across datasets on one self-contained HTML page.

    Examples:

        hptctl report --out report.html

        hptctl report --study quick
    """
    from hptctl import console
    from hptctl.report import page

    only = None
    if study is not None:
        from hptctl import study as conducting

        only = conducting.run_ids(study)
    made = page.render(experiment, out, only)
    datasets = f"{made.datasets} dataset{'s' * (made.datasets != 1)}"
    console.say(f"{made.path}: {datasets}, {made.runs} runs, {made.bytes / 1024:,.0f} KiB")
