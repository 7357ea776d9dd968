"""A model card: what a backbone is made of and what it was measured to do, as Markdown that travels with the file."""

from __future__ import annotations

from hpt.errors import RunError
from hptctl import __version__, runs
from hptctl.runs import Run


def card(run: Run, step: int | None, line: str) -> str:
    """The card of a pretraining's backbone, or of the one that it kept after some steps; `line` loads it in Python."""
    spec, status = run.spec(), run.status()
    config, facts, tags = spec.config, status.facts, spec.tags
    steps = step if step is not None else int(facts.get("kept_step", tags["steps"]))
    chain = [run, *runs.ancestry(run)]
    rows = {
        "architecture": config["backbone"],
        "strategy": config["strategy"],
        "pretrained on": f"{tags['dataset']}, {facts.get('images', '?')} images of train and val, without labels",
        "steps": f"{steps:,} of {int(tags['steps']):,}, batch {config['batch_size']}, {config['image_size']} px",
        "started from": " <- ".join([each.spec().tags.get("weights", "random weights") for each in chain]),
        "preset, seed": f"{config['preset']}, {config['seed']}",
        "normalisation": f"mean {facts.get('mean', '?')}, std {facts.get('std', '?')}, by channel",
        "hardware": facts.get("hardware", ""),
        "weights (sha256)": facts.get(f"backbone_sha256_at_{step}" if step is not None else "backbone_sha256", ""),
        "images (fingerprint)": facts.get("data_fingerprint", ""),
        "made by": f"hptctl {tags.get('version', __version__)} {tags.get('commit', '')}".strip(),
        "made again by": f"`{spec.command}`",
    }
    out = [f"# {run.name}" + (f" after {step:,} steps" if step is not None else ""), ""]
    out += ["A backbone for images, adapted by self-supervised pretraining (MoCo-v2, arXiv 2103.12718).", ""]
    out += ["| | |", "|---|---|", *(f"| {key} | {_cell(str(value))} |" for key, value in rows.items()), ""]
    out += ["```python", line, "```", "", "Input: RGB in [0, 1], normalised as above; output: pooled features.", ""]
    figures = _figures(run, steps)
    out += ["## Figures", "", *(figures or ["None was measured yet: `hptctl evaluate linear " + run.name + "`"]), ""]
    out += [
        "## Licence",
        "",
        f"The weights derive from the images of {tags['dataset']} and from the weights that they started from. Whether",
        "you may pass them on depends on the licences of both.",
        "",
    ]
    return "\n".join(out)


def normalisation(run: Run) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the images that a backbone was pretrained on, by channel, in [0, 1].

    Raises:
        RunError: a run that did not record them.
    """
    facts = run.status().facts
    if "mean" not in facts:
        raise RunError(f"run '{run.name}' has no record of its images' normalisation", "pretrain it again")
    mean, std = ([float(value) for value in facts[key].split()] for key in ("mean", "std"))
    return mean, std


def _figures(run: Run, steps: int) -> list[str]:
    """A row for each finished evaluation of the backbone, the newest of a kind last."""
    rows = []
    for each in runs.all_runs():
        spec, status = each.spec(), each.status()
        mine = spec.source_folder == str(run.path.resolve()) and spec.tags.get("steps") == str(steps)
        if not mine or status.state != "finished" or "metric" not in status.facts or runs.is_trial(each):
            continue
        metric, results = status.facts["metric"], status.results
        if f"test/{metric}" in results:
            spread = results.get(f"test/{metric}_std")
            test = f"{100 * results[f'test/{metric}']:.1f} %" + (f" ± {100 * spread:.1f}" if spread is not None else "")
            labels, images = status.facts["labels_used"], status.facts["test_images"]
            rows.append(f"| {spec.kind} | {_cell(spec.tags['dataset'])} | {labels} | {metric} | {test} | {images} |")
    return (
        ["| evaluation | dataset | labels | metric | test | test images |", "|---|---|---|---|---|---|", *rows]
        if rows
        else []
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
