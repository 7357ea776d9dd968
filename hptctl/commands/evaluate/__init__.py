"""`hptctl evaluate linear|knn|finetune|show|features|layers`"""

from __future__ import annotations

import typer

from hptctl.commands.evaluate import features, finetune, knn, layers, linear, show

app = typer.Typer(no_args_is_help=True, help="Evaluate a backbone: linear probe, nearest neighbours, finetuning.")
app.command()(linear.linear)
app.command()(knn.knn)
app.command()(finetune.finetune)
app.command()(show.show)
app.command()(features.features)
app.command()(layers.layers)
