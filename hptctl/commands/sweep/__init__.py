"""`hptctl sweep finetune|linear|detection|segmentation|pretrain|retry|list|show|best|export`"""

from __future__ import annotations

import typer

from hptctl.commands.sweep import detection, finetune, linear, pretrain, results, retry, segmentation

app = typer.Typer(
    no_args_is_help=True, help="Search a space of configurations with Optuna, by several processes and machines."
)
app.command()(finetune.finetune)
app.command()(linear.linear)
app.command()(detection.detection)
app.command()(segmentation.segmentation)
app.command()(pretrain.pretrain)
app.command()(retry.retry)
app.command("list")(results.list_sweeps)
app.command()(results.show)
app.command()(results.best)
app.command()(results.export)
