"""`hptctl evaluate linear|knn|finetune|detection|segmentation|show|features|layers`"""

from __future__ import annotations

import typer

from hptctl.commands.evaluate import detection, features, finetune, knn, layers, linear, segmentation, show

app = typer.Typer(
    no_args_is_help=True,
    help="Evaluate a backbone: linear probe, nearest neighbours, finetuning, detection, segmentation.",
)
app.command()(linear.linear)
app.command()(knn.knn)
app.command()(finetune.finetune)
app.command()(detection.detection)
app.command()(segmentation.segmentation)
app.command()(show.show)
app.command()(features.features)
app.command()(layers.layers)
