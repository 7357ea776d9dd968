"""`hptctl datasets list|info|prepare|check|stats|preview|pack|where|cache`"""

from __future__ import annotations

import typer

from hptctl.commands.datasets import cache, check, list_info, pack, prepare, preview, stats, where

app = typer.Typer(no_args_is_help=True, help="What is known of datasets.")
app.command("list")(list_info.list_datasets)
app.command()(list_info.info)
app.command()(prepare.prepare)
app.command()(check.check)
app.command()(stats.stats)
app.command()(preview.preview)
app.command()(pack.pack)
app.command()(where.where)
app.add_typer(cache.app, name="cache")
