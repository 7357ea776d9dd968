"""`hptctl datasets list|info|prepare|check|stats|preview|where|cache`"""

from __future__ import annotations

import typer

from hptctl.commands.datasets import cache, catalog, check, preview

app = typer.Typer(no_args_is_help=True, help="What is known of datasets.")
app.command("list")(catalog.list_datasets)
app.command()(catalog.info)
app.command()(catalog.prepare)
app.command()(check.check)
app.command()(catalog.stats)
app.command()(preview.preview)
app.command()(catalog.where)
app.add_typer(cache.app, name="cache")
