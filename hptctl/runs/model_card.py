"""A model card: what a backbone or a classifier is made of and what it was measured to do, as Markdown that travels
with the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpt.errors import RunError
from hptctl import __version__, runs
from hptctl.format import count, thousands, with_spread
from hptctl.runs import Run
from hptctl.runs.record import Facts, recorded

_HEAD = ["| evaluation | dataset | labels | metric | test | test images |", "|---|---|---|---|---|---|"]


def of_backbone(run: Run, step: int | None, line: str) -> str:
    """The card of a pretraining's backbone, or of the one that it kept after some steps; `line` loads it in Python."""
    spec, facts = run.spec(), run.status().facts
    config, tags, stored = spec.config, spec.tags, facts.text()
    steps = step if step is not None else _steps(run)
    done = f"{thousands(steps)} of {thousands(recorded(tags.steps, 'its steps'))}"
    rows = {
        "architecture": config["backbone"],
        "strategy": config["strategy"],
        "pretrained on": f"{tags.dataset}, {stored.get('images', '?')} images of train and val, without labels",
        "steps": f"{done}, batch {config['batch_size']}, {config['image_size']} px",
        "weights (sha256)": (facts.backbone_sha256_at.get(step) if step is not None else facts.backbone_sha256) or "",
    }
    method = {"moco-v3": "MoCo-v3"}.get(facts.method or "", "MoCo-v2")
    return _page(
        run,
        f"{run.name} after {count(step, 'step')}" if step is not None else run.name,
        f"A backbone for images, adapted by self-supervised pretraining ({method}, arXiv 2103.12718).",
        rows,
        line,
        "pooled features",
        _figures(run, steps) or ["None was measured yet: `hptctl evaluate linear " + run.name + "`"],
    )


def of_classifier(run: Run, classes: Sequence[str], line: str) -> str:
    """The card of a finetuning that tells these classes apart; `line` loads it in Python."""
    spec, facts = run.spec(), run.status().facts
    config, tags = spec.config, spec.tags
    tune = config["finetune"]
    rows = {
        "architecture": config["backbone"],
        "classes": f"{len(classes)}, in the order of the logits: {', '.join(classes)}",
        "finetuned on": f"{tags.dataset}, {facts.labels_used} labelled images",
        "schedule": f"lr {tune['lr']:g}, {tune['schedule']}, {config['image_size']} px",
        "chosen": f"{facts.chosen}, by {facts.metric} on val",
    }
    row = _row(run)
    return _page(
        run,
        run.name,
        "A classifier of images, finetuned from a backbone (arXiv 2103.12718).",
        rows,
        line,
        "logits",
        [*_HEAD, row] if row else ["Its test images were left alone."],
    )


def for_hub(card: str, *, classifies: bool) -> str:
    """A card with the head that the Hugging Face hub reads: which library loads the model, and for which task."""
    task = "image-classification" if classifies else "image-feature-extraction"
    return f"---\nlibrary_name: timm\npipeline_tag: {task}\ntags:\n- timm\n- {task}\n---\n\n{card}"


def normalisation(run: Run) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the images that a backbone was pretrained on, by channel, in [0, 1].

    Raises:
        RunError: a run that did not record them.
    """
    facts = run.status().facts
    if facts.mean is None or facts.std is None:
        raise RunError(f"run '{run.name}' has no record of its images' normalisation", "pretrain it again")
    return list(facts.mean), list(facts.std)


def _page(
    run: Run, title: str, what: str, about: Mapping[str, object], line: str, output: str, figures: Sequence[str]
) -> str:
    spec, facts = run.spec(), run.status().facts
    config, tags, stored = spec.config, spec.tags, facts.text()
    chain = [run, *runs.ancestry(run)]
    rows = dict(about) | {
        "started from": " <- ".join([each.spec().tags.weights or "random weights" for each in chain]),
        "preset, seed": f"{config['preset']}, {config['seed']}",
        "normalisation": f"mean {stored.get('mean', '?')}, std {stored.get('std', '?')}, by channel",
        **({"pixels": facts.pixels} if facts.pixels else {}),
        "hardware": facts.hardware or "",
        "images (fingerprint)": facts.data_fingerprint or "",
        "made by": f"hptctl {tags.version or __version__} {tags.commit or ''}".strip(),
        "made again by": f"`{spec.command}`",
    }
    out = [f"# {title}", "", what, ""]
    out += ["| | |", "|---|---|", *(f"| {key} | {_cell(str(value))} |" for key, value in rows.items()), ""]
    out += [
        "```python",
        line,
        "```",
        "",
        f"Input: {_input(facts)} in [0, 1], normalised as above; output: {output}.",
        "",
    ]
    out += ["## Figures", "", *figures, ""]
    out += [
        "## Licence",
        "",
        f"The weights derive from the images of {tags.dataset} and from the weights that they started from. Whether",
        "you may pass them on depends on the licences of both.",
        "",
    ]
    return "\n".join(out)


def _input(facts: Facts) -> str:
    channels = len(facts.mean or (0, 0, 0))
    if channels == 3 and not facts.pixels:
        return "RGB"
    return f"{channels} channel{'' if channels == 1 else 's'} (see pixels above)"


def _steps(run: Run) -> int:
    """Behind the backbone that a pretraining ended with."""
    kept = run.status().facts.kept_step
    return recorded(run.spec().tags.steps, "its steps") if kept is None else kept


def _figures(run: Run, steps: int) -> list[str]:
    """A row for each finished evaluation of the backbone, the newest of a kind last."""
    rows = []
    for each in runs.all_runs():
        spec = each.spec()
        mine = spec.source_folder == str(run.path.resolve()) and spec.tags.steps == steps
        if mine and not runs.is_trial(each) and (row := _row(each)):
            rows.append(row)
    return [*_HEAD, *rows] if rows else []


def _row(run: Run) -> str:
    """The test figure of an evaluation; empty where there is none."""
    spec, status = run.spec(), run.status()
    metric, results = status.facts.metric, status.results
    if status.state != "finished" or f"test/{metric}" not in results:
        return ""
    test = with_spread(results[f"test/{metric}"], results.get(f"test/{metric}_std"))
    labels, images = status.facts.labels_used, status.facts.test_images
    return f"| {spec.kind} | {_cell(spec.tags.dataset or '')} | {labels} | {metric} | {test} | {images} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
