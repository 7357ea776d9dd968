"""Pretraining: build, restore, loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hpt import checkpoint, encoder, remarks
from hpt.base_statistics import estimate_statistics
from hpt.callbacks import SILENT, Callbacks, Watch
from hpt.config import RESNETS, PretrainConfig
from hpt.data.images import Images
from hpt.errors import ConfigError, DataError, HptError, Interrupted
from hpt.methods import method_of, notes
from hpt.milestones import Milestones
from hpt.processes import Processes
from hpt.step import Step
from hpt.strategies import STRATEGIES
from hpt.timing import Pace, Speed
from hpt.views import Views

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a pretraining leaves."""

    backbone: Path
    """`backbone.safetensors`: torchvision's keys without `fc`, or timm's without a classifier."""
    sha256: str
    """Of that file; empty on other processes than the main one."""
    results: dict[str, float]
    """The last figures that were logged."""
    facts: dict[str, str]
    """What the looks on the way favoured, where there were any; the method, where the backbone decides it."""


def pretrain(
    config: PretrainConfig,
    images: Images,
    start: Mapping[str, Tensor] | None,
    folder: Path,
    *,
    processes: Processes | None = None,
    callbacks: Callbacks = SILENT,
    watch: Watch | None = None,
) -> Outcome:
    """Pretrain on `images` and write `backbone.safetensors` into `folder`, which exists.

    A run that was interrupted goes on from the newest checkpoint in `folder`. Of several processes only the main one
    reads and writes there; the others may be on machines that do not have it.

    Args:
        start: the base (the encoder's keys), adapted where the images are not RGB or of another size; None for random
        weights. processes: those of the run, None to join them as the configuration says.
        callbacks: `log` gets metrics every `log_every` steps, on the main process.
        watch: looks at the backbone every `config.probe_interval` steps, on the main process; `config.keep_best` keeps
            the one that it favours, and `config.stop_when_worse` ends the run when it finds it worse than its start.

    Raises:
        Interrupted: `callbacks.stop` said so; a checkpoint of that step is saved.
        HptError: the loss or a feature is no longer finite. ProcessLost: another process is gone.
        DataError: fewer images than one batch, or one image for strategy `base`.
        ConfigError: `keep_best` or `stop_when_worse`, and no `watch`; a size or a pooling that the backbone does not
            have. WeightsError: `start` is of neither RGB images nor such as these.
    """
    processes = processes or Processes(config.processes, config.device)
    if config.keeps_best and config.probe_interval and watch is None and processes.main:
        raise ConfigError("keep_best needs something that looks at the backbone", "pass `watch`")
    backbone = encoder.fresh(config, images.form.channels)
    if start is not None:
        encoder.load(backbone, start, config.backbone, config.data.first_conv)
    milestones = Milestones(config, backbone, folder, watch, callbacks.log)
    if STRATEGIES[config.strategy].trains == "running-statistics":
        if not encoder.batch_norms(backbone):
            logger.info(
                "a %s has no BatchNorm, so there are no statistics to estimate: the base stays as it is",
                config.backbone,
            )
        results = estimate_statistics(
            backbone,
            images,
            processes.device,
            callbacks.progress,
            image_size=config.image_size,
            seed=config.seed,
        )
        steps = 0
    else:
        results = _train(config, backbone, images, folder, processes, callbacks, milestones)
        steps = milestones.finish()
    path = folder / "backbone.safetensors"
    sha256 = milestones.save(path, steps) if processes.main else ""
    facts = milestones.facts()
    if steps and config.backbone not in RESNETS:
        facts["method"] = method_of(config, backbone).name
    return Outcome(path, sha256, results, facts)


def _train(
    config: PretrainConfig,
    backbone: nn.Module,
    images: Images,
    folder: Path,
    processes: Processes,
    callbacks: Callbacks,
    milestones: Milestones,
) -> dict[str, float]:
    # ---- build
    method = method_of(config, backbone)
    moco = method.build(backbone, config)
    train = Step(config, moco, processes, method)
    log = remarks.explaining(config, callbacks.log) if method.name == "moco-v2" else callbacks.log
    if processes.main:
        for note in notes(config, backbone, method, len(images)):
            logger.info("note: %s", note)

    # ---- restore
    first, results = 0, dict[str, float]()
    if (saved := processes.of_main(lambda: checkpoint.newest(folder / "checkpoints"))) is not None:
        moco.load_state_dict(saved["moco"])
        train.optimizer.load_state_dict(saved["optimizer"])
        milestones.load_state_dict(saved["kept"])
        first, results = int(saved["step"]), saved["results"]
        logger.info("going on from step %d of %d", first, config.steps)
    done, worse = first, bool(processes.largest(int(milestones.worse_at is not None)))

    speed, pace = Speed(config.batch_size, first), Pace(callbacks.stop)

    def save(step: int) -> None:
        state = {"moco": moco.state_dict(), "optimizer": train.optimizer.state_dict(), "results": results}
        checkpoint.save(folder / "checkpoints", step, state | {"kept": milestones.state_dict()})
        milestones.prune()

    def on_main(act: Callable[[int], None], step: int) -> None:
        processes.average_(train.running)
        if processes.main:
            act(step)
        processes.wait()

    # ---- loop
    if first == 0 and milestones.due(0):
        with speed.paused(), pace.apart("look"):
            on_main(milestones, 0)
    rest = range(first, first if worse else config.steps)
    with Views(config, images, rest, processes) as views:
        for step in rest:
            if images.streamed:
                _refuse_lost(views, step, processes, lambda step: on_main(save, step) if step > first else None)
            lr, moco.momentum = method.lr(step, config), method.momentum(step, config)
            loss, ranked_first = train(views(step), lr)

            done = step + 1
            signum = processes.largest(pace()) if done % processes.look_every == 0 else 0
            planned = done % config.checkpoint_every == 0 or done == config.steps
            saving, planned_line = planned or bool(signum), planned or done == 1 or done % config.log_every == 0
            if saving or planned_line:  # what is saved has been looked at
                processes.average_([loss, ranked_first])
                results = {"loss": loss.item(), "contrastive_top1": ranked_first.item(), "lr": lr}  # waits for a GPU
                results["images_per_second"] = speed(done)
                _refuse_divergence(results["loss"], done)
                if processes.main and planned_line:  # not where it stops, which no unbroken run would log
                    log(results, done)
            callbacks.progress(done, config.steps, "training")
            if milestones.due(done):
                with speed.paused(), pace.apart("look"):
                    on_main(milestones, done)
                worse = config.stop_when_worse and bool(processes.largest(int(milestones.worse_at is not None)))
                saving = saving or worse
            if saving:
                with pace.apart("save"):
                    on_main(save, done)
            if worse:
                break
            if signum and done < config.steps:
                raise Interrupted(signum, f"stopped at step {done} of {config.steps}; its checkpoint is saved")
    train.finish(done)
    return results | milestones.seen


def _refuse_lost(views: Views, step: int, processes: Processes, save: Callable[[int], None]) -> None:
    """Save, and raise a DataError, where the next step's images cannot be read: before the step, since half of one
    leaves a state that no unbroken run has."""
    lost = views.lost()
    if not processes.largest(int(lost is not None)):
        return
    save(step)
    what = lost.what if isinstance(lost, HptError) else str(lost or "another process cannot read its images")
    fix = (lost.fix if isinstance(lost, HptError) else None) or "bring them back, and go on"
    raise DataError(f"{what}; the checkpoint of step {step} is saved", f"{fix} by --resume")


def _refuse_divergence(loss: float, step: int) -> None:
    """An HptError where the loss is not a number, or infinite."""
    if not loss < float("inf"):
        raise HptError(
            f"the loss is {loss} at step {step}",
            "lower optimizer.lr, or use --precision fp32; the last checkpoint is kept",
        )
