"""What `--weights` may name, found: a run, one of its backbones, a known base, a file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from hpt import kept_backbones, step_files
from hpt.config import RESNETS, UNTRAINED, PretrainConfig
from hpt.errors import RunError, WeightsError, did_you_mean
from hptctl import runs
from hptctl.runs import Run

if TYPE_CHECKING:
    from hpt.weights import Loaded


def find_weights(text: str) -> tuple[Path, Run | None]:
    """The file of a run, of a run after some of its steps (`RUN@500`), of a known base or a name of the Hugging Face
    hub (fetched when it is not in the cache), or a file itself; and the run, if any.

    Raises:
        WeightsError: none of these. RunError: the run has no backbone yet, or kept none after so many steps.
    """
    if is_untrained(text):
        raise WeightsError(
            f"'{UNTRAINED}' is a network that was never trained, which is evaluated and nothing else",
            "strategy target starts from random weights; others need a file, a run or a known name",
        )
    run = runs.find(text)
    name, _, step = text.rpartition("@")
    if run is None and step.isdecimal() and (on_its_way := runs.find(name)) is not None:
        return _backbone_after(on_its_way, int(step)), on_its_way
    if run is not None:
        spec, status = run.spec(), run.status()
        if spec.kind != "pretrain":
            raise RunError(f"run '{run.name}' is a {spec.kind} run and has no backbone", "name a pretraining")
        if not run.backbone.exists():
            if status.state == "finished":
                raise absent(run)
            raise RunError(
                f"run '{run.name}' is not finished ({status.state})",
                f"go on with `hptctl pretrain --resume {run.name}`",
            )
        return run.backbone.resolve(), run
    if (file := Path(text)).is_file():
        return file.resolve(), _run_of(file.resolve())
    from hpt.architectures import hub
    from hpt.known_weights import KNOWN, locate
    from hptctl.console import Display

    if hub.is_named(text):
        return hub.locate(text), None
    with Display() as display:
        known = locate(text, progress=display.progress)
    if known is not None:
        return known, None
    names = [UNTRAINED, *KNOWN, *(run.name for run in runs.all_runs())]
    raise WeightsError(
        f"there are no weights '{text}'{did_you_mean(text, names)}",
        f"give a file, a run, timm:NAME, hf-hub:ORG/NAME, or one of {', '.join(KNOWN)}",
    )


def absent(run: Run) -> RunError:
    """What is said where a finished run's weights are asked for that are not in its folder."""
    host, here = run.status().host, socket.gethostname()
    where = f" (it ran on {host})" if host not in {"", here} else ""
    return RunError(
        f"the weights of run '{run.name}' are not here{where}",
        "export it there with its weights and import it again, or make them again in a new run",
    )


def has_its_backbones(run: Run) -> bool:
    """Whether the backbones that a run made are in its folder, by its record."""
    facts = run.status().facts
    files = [kept_backbone(run, step) for step in facts.backbone_sha256_at]
    return all(file.exists() for file in [*files, *([run.backbone] if facts.backbone_sha256 else [])])


def saved_steps(run: Run) -> int:
    """Steps after which the newest checkpoint of a run was saved; 0 where none is in its folder."""
    return max(step_files.steps(run.path / "checkpoints", step_files.checkpoint_name), default=0)


def is_untrained(text: str) -> bool:
    """Whether a text stands for a network that was never trained (`hpt.floor`).

    Raises:
        WeightsError: a run or a file has that name, so that either could be meant.
    """
    if text != UNTRAINED:
        return False
    for path in (runs.RUNS / text / "run.json", Path(text) / "run.json", Path(text)):
        if path.is_file():
            where = path.parent if path.name == "run.json" else path
            raise WeightsError(
                f"'{text}' means a network that was never trained, but {where} has that name too",
                f"rename {where}, or name its path to mean it: ./{where}",
            )
    return True


def is_weights(text: str) -> bool:
    """Whether a text that names no run names weights: some that are known, the hub's, a file, `RUN@500`, or a network
    that was never trained."""
    from hpt.architectures import hub
    from hpt.known_weights import KNOWN

    name, _, step = text.rpartition("@")
    on_its_way = step.isdecimal() and runs.find(name) is not None
    return is_untrained(text) or on_its_way or hub.is_named(text) or text in KNOWN or Path(text).is_file()


def would_fetch(text: str) -> bool:
    """Whether `find_weights` would download what a text names: a known base that the cache does not hold yet."""
    from hpt.architectures import hub
    from hpt.known_weights import KNOWN

    if hub.is_named(text):
        return hub.kept(text) is None
    if text not in KNOWN or runs.find(text) is not None or Path(text).is_file():
        return False
    return not KNOWN[text].path.exists()


def step_of(file: Path) -> int | None:
    """The step of a backbone that a pretraining kept on its way; None for other files."""
    step = file.stem.removeprefix("step-")
    return (
        int(step)
        if file.parent.name == kept_backbones.FOLDER and step.isdecimal() and _run_of(file) is not None
        else None
    )


def kept_backbone(run: Run, step: int) -> Path:
    """Where the backbone that a pretraining kept after some steps lies."""
    return kept_backbones.path_of(run.path, step)


def _backbone_after(run: Run, step: int) -> Path:
    file = kept_backbone(run, step)
    if not file.exists():
        if step in run.status().facts.backbone_sha256_at:
            raise absent(run)
        kept = kept_backbones.steps_of(run.path)
        have = f"it has those after {', '.join(map(str, kept))}" if kept else "pretrain with --save-at to keep some"
        raise RunError(f"run '{run.name}' kept no backbone after {step} steps", have)
    return file.resolve()


def evaluated_defaults(weights: str, asked: str | None = None) -> dict[str, object]:
    """What an evaluation takes over from the pretraining it evaluates, or from the weights file, which may need to be
    told its backbone; nothing of a network that was never trained, which has the preset's backbone unless another one
    is `asked` for."""
    if is_untrained(weights):
        return {}
    _, source = find_weights(weights)
    if source is None:
        return {"backbone": backbone_of(weights, asked)}
    config = source.config(PretrainConfig)
    fields = {"backbone", "pooling", "image_size", "preset", "dataset", "device", "precision", "data"}
    taken = config.model_dump(include=fields)
    for field in ("stream", "stream_buffer"):  # which are of pretrainings alone
        del taken["data"][field]
    return taken


def backbone_of(weights: str, asked: str | None = None) -> str:
    """The architecture of a run, of a known base (which is not fetched for it), or of a file: where that does not say,
    the one that is `asked` for, which its tensors then have to fit.

    Raises:
        WeightsError: there are no such weights, or they do not tell.
    """
    from hpt.architectures import hub
    from hpt.known_weights import KNOWN

    run = runs.find(weights)
    if run is None and weights in KNOWN:
        return KNOWN[weights].backbone
    if run is not None and run.spec().kind == "pretrain":  # its weights may be elsewhere
        return str(run.spec().config["backbone"])
    if run is None and hub.is_named(weights) and (named := hub.architecture(weights)) is not None:
        return named
    file, source = find_weights(weights)
    if source is not None:
        return str(source.spec().config["backbone"])
    # A part of a backbone tells its architecture too; whether a part will do is asked when its tensors are.
    wanted = None if asked in RESNETS else asked
    return read_weights(file, backbone=wanted, allow_partial=True).backbone


_read: dict[tuple[Path, int, int], Loaded] = {}
"""What this process has read, by file, size and time; the last two, since a ResNet-50 takes 100 MB."""


def read_weights(file: Path, *, backbone: str | None = None, allow_partial: bool = False) -> Loaded:
    """`hpt.weights.read`, once in a process as long as the file stays: a command asks for the architecture, then for
    weights that fit, and its run for the tensors.

    Raises:
        WeightsError: as `hpt.weights.read`.
    """
    from hpt import weights

    try:
        stat = file.stat()
    except OSError:
        return weights.read(file, backbone=backbone, allow_partial=allow_partial)  # which says what is wrong
    key = file.resolve(), stat.st_size, stat.st_mtime_ns
    known = _read.get(key)
    if known is not None and backbone in (None, known.backbone) and (allow_partial or known.whole):
        return known
    found = weights.read(file, backbone=backbone, allow_partial=allow_partial)
    _read.pop(key, None)
    _read[key] = found
    while len(_read) > 2:
        del _read[next(iter(_read))]
    return found


def _run_of(file: Path) -> Run | None:
    """The pretraining whose backbone a file is, its last or one that it kept on its way."""
    run = runs.find(str(file.parent.parent if file.parent.name == kept_backbones.FOLDER else file.parent))
    own = run is not None and (file.parent.name == kept_backbones.FOLDER or run.backbone.resolve() == file)
    return run if own and run is not None and run.spec().kind == "pretrain" else None
