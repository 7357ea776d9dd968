"""`hptctl evaluate linear|knn|finetune|show|features|layers`"""

from __future__ import annotations

import typer

from hptctl.commands.evaluate import features, kinds, show

app = typer.Typer(no_args_is_help=True, help="Evaluate a backbone: linear probe, nearest neighbours, finetuning.")
app.command("linear")(kinds.linear)
app.command("knn")(kinds.knn)
app.command()(kinds.finetune)
app.command()(show.show)
app.command()(features.features)
app.command()(features.layers)
