"""`hptctl runs list|show|sync|export|import`"""

from __future__ import annotations

import typer

from hptctl.commands.runs import records, travel

app = typer.Typer(no_args_is_help=True, help="List and show the runs of this folder, and bring them to another one.")
app.command("list")(records.list_runs)
app.command()(records.show)
app.command()(records.sync)
app.command("export")(travel.export_runs)
app.command("import")(travel.import_runs)
