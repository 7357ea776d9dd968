"""A process that does a sweep's trials, one after the other: `python -m hptctl.sweep.worker SWEEP-FOLDER NUMBER`.

It reads the images and the base weights once. A trial's finetunings, probes or pretrainings are runs with folders of
their own, as if they had been started alone, so that one that was interrupted anywhere goes on from its checkpoint,
and one that had ended has only to be told to the storage.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpt import waiting
from hpt.callbacks import RESUMABLE
from hpt.config import UNTRAINED, EvaluateConfig, PretrainConfig
from hpt.errors import HptError, Interrupted, Pruned, RunError
from hpt.evaluate import Common
from hpt.evaluate.labels import check_labels
from hptctl import console, deadline, runs
from hptctl.console import Display
from hptctl.format import percent
from hptctl.runs import Run, launch, worker
from hptctl.runs.children import end_with_command
from hptctl.runs.launch import Origin
from hptctl.runs.signals import Pending, held_back
from hptctl.runs.worker import Materials
from hptctl.secrets import mask_tracebacks
from hptctl.sweep.folder import plan_of
from hptctl.sweep.plan import COMMON, LOOKS, Plan
from hptctl.sweep.queue import BEAT_SECONDS, Claim, Queue, patiently
from hptctl.sweep.space import SCHEDULE, Choice, in_words
from hptctl.sweep.storage import STORAGE_VARIABLE
from hptctl.sweep.workers import DEADLINE_VARIABLE

LOST = -1
"""Stands in place of a signal's number where the trial is no longer this worker's."""
IDLE_SECONDS = 0.5


def main() -> None:
    """Run the worker process."""
    mask_tracebacks()
    with held_back() as stop:
        end_with_command()
        waiting.begin()
        console.show_library_notes()
        sweep, number = Run(Path(sys.argv[1])), int(sys.argv[2])
        try:
            Worker(sweep, number, stop).work()
        except HptError as error:
            console.error(str(error))
            sys.exit(error.exit_code)


class Worker:
    """Claims trials until there are none, and none that another worker might give back."""

    def __init__(self, sweep: Run, number: int, signals: Pending) -> None:
        self.sweep, self.plan = sweep, plan_of(sweep)
        self.name = f"{socket.gethostname()}/{number}"
        self.signals = signals
        self.materials = Materials(lambda config: common(sweep, self.plan, config))
        url = os.environ.get(STORAGE_VARIABLE) or self.plan.storage
        self.queue = Queue(sweep.name, sweep.path, self.plan, url)
        self.deadline = float(os.environ.get(DEADLINE_VARIABLE, "inf"))
        self._lead = 0.0
        """Seconds that a trial took to come to its training."""
        self._begun: float | None = None
        self.claim: Claim | None = None
        self.lost = False
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def work(self) -> None:
        """Do trials until none is left.

        Raises:
            Interrupted: the trial under way was given back. DataError, RunError: what every trial rests on is missing,
            or is not what the sweep's other machines have.
        """
        self._check_materials()
        while not (stop := self.stop(self._lead)):
            in_time = time.time() < self.deadline
            self.claim = self.queue.claim(self.name, runs.RUNS) if in_time else None
            if self.claim is not None:
                self._do(self.claim)
                self.claim = None
            elif self.queue.counts().get("running"):
                time.sleep(IDLE_SECONDS)  # one of these may be given back
            else:
                return
        raise Interrupted(stop, "stopped")

    def stop(self, seconds: float) -> int:
        """The signal that came, TIME_IS_UP where the time given passes in so many seconds, LOST where the trial is
        another worker's now, or 0."""
        return self.signals() or (LOST if self.lost else 0) or deadline.passes_in(seconds)

    def trains(self) -> None:
        """The trial has come to its training, whose state is saved where it is stopped."""
        if self._begun is not None:
            self._lead, self._begun = max(self._lead, time.monotonic() - self._begun), None

    def _do(self, claim: Claim) -> None:
        self.lost, self._begun = False, time.monotonic()
        try:
            params = claim.params()
            console.note(f"trial {claim.number}: {in_words(params)}")
            values = [self._value(claim, params, repeat) for repeat in range(self.plan.repeats)]
        except Interrupted as interrupted:
            if interrupted.signum == LOST:
                console.warn(f"trial {claim.number} was given to another worker while this one was not heard of")
                return
            if claim.holds():
                patiently(lambda: self.queue.give_back(claim.number), lambda: 0, seconds=30)
            raise
        except Pruned as pruned:
            reason = str(pruned)
            self._end(claim, lambda: claim.prune(reason))
        except Exception as error:  # one failed trial does not stop the others
            reason = str(error) if isinstance(error, HptError) else f"{type(error).__name__}: {error}"
            console.warn(f"trial {claim.number}: {reason}")
            self._end(claim, lambda: claim.fail(reason))
        else:
            value = statistics.fmean(values)
            self._end(claim, lambda: claim.complete(value))
        self.lost = False

    def _end(self, claim: Claim, tell: Callable[[], None]) -> None:
        """Tell the storage how the trial ended, unless it was another's in the meantime."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            patiently(tell, self.signals)
        except (ValueError, UpdateFinishedTrialError) as error:
            console.warn(f"trial {claim.number} was ended by another worker: {error}")

    def _value(self, claim: Claim, params: dict[str, Any], repeat: int) -> float:
        """The objective of one seed; the figures of a run that is finished are not computed again."""
        config = self.plan.config(params, repeat)
        seed = f"-seed{config.seed}" if self.plan.repeats > 1 else ""
        name = f"{self.sweep.name}-trial{claim.number}{seed}"
        if isinstance(config, PretrainConfig):
            pretraining = self._run(claim, config, name)
            self._execute(pretraining, claim, prunes=repeat == 0)
            evaluation = self.plan.evaluation(pretraining.name)
            run = self._run(claim, evaluation, f"{name}-{evaluation.kind}")
        else:
            run = self._run(claim, config, name)
        known = claim.noted("runs") or []
        if run.name not in known:
            claim.note("runs", [*known, run.name])
        self._execute(run, claim, prunes=repeat == 0 and self.plan.pretrain is None)
        status = run.status()
        if repeat == 0:
            claim.note("mlflow_run_id", runs.tracked_id(run))
            claim.note("metric", status.facts.metric)
        return status.results[f"val/{status.facts.metric}"]

    def _run(self, claim: Claim, config: PretrainConfig | EvaluateConfig, name: str) -> Run:
        """The run of that name where it belongs to this trial, or else a new one."""
        found = runs.find(name)
        if found is not None and found.spec().parent == self.sweep.name:
            begun = found.spec().config == launch.pinned(config)
            if begun and found.status().state not in {"failed", "pruned"}:
                return found
        spec = self.sweep.spec()
        origin = Origin(spec.command, spec.experiment, parent=self.sweep.name, trial=claim.number)
        if isinstance(config, PretrainConfig):
            return launch.create_pretraining(config, origin, suggestion=name)
        return launch.create_evaluation(config, origin, suggestion=name)

    def _execute(self, run: Run, claim: Claim, *, prunes: bool) -> None:
        if run.status().state != "finished":
            worker.work(run, materials=self.materials, watcher=TrialWatcher(self, claim, prunes))

    def _check_materials(self) -> None:
        """Check that the images can be evaluated, and that images and weights are those of the other machines."""
        base = self.plan.base
        dataset = self.materials.dataset(base, Display(silent=True))
        judged = base if isinstance(base, EvaluateConfig) else EvaluateConfig(**_judge(base, self.plan))
        check_labels(dataset, judged)
        dataset.split("val")
        seen = {"images": dataset.fingerprint, "split": dataset.split_fingerprint}
        if base.weights is not None and self.sweep.spec().tags.strategy != UNTRAINED:
            seen["weights"] = self.materials.weights_of(self.sweep, base).sha256
        for key, here in seen.items():
            there = self.queue.shared(key)
            if there is None:
                self.queue.share(key, here)
            elif there != here:
                raise RunError(
                    f"the {key} of sweep '{self.sweep.name}' are not the same on {socket.gethostname()} as where it"
                    " began",
                    "copy them from there",
                )

    def _beat(self) -> None:
        """Beside the work, keep the claim, and notice when it is lost."""
        last = 0.0
        while True:
            time.sleep(0.5)
            claim = self.claim
            if claim is None or time.monotonic() - last < BEAT_SECONDS:
                continue
            last = time.monotonic()
            try:
                if not claim.beat() and self.claim is claim and not self._ended(claim):
                    self.lost = True
            except Exception as error:  # a storage that is away for a while costs no trial
                console.warn(f"the storage does not answer: {error}")

    def _ended(self, claim: Claim) -> bool:
        """Whether this worker has just ended the trial itself."""
        return self.queue.storage.get_trial(claim.id).state.is_finished()


def common(sweep: Run, plan: Plan, config: EvaluateConfig) -> Common | None:
    """What a trial shares with those that differ from it in their schedule alone; None where there are none, as where
    values are drawn from a range."""
    dimension = next((each for each in plan.space.dimensions.values() if each.field == SCHEDULE), None)
    if not isinstance(dimension, Choice) or plan.space.ranges():
        return None
    rest = config.model_dump(mode="json")
    del rest["finetune"]["schedule"]
    key = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]
    return Common(sweep.path / COMMON / key, dimension.values)


class TrialWatcher:
    """Reports a trial's figures on val to the pruner on its way, and passes signals on."""

    def __init__(self, owner: Worker, claim: Claim, prunes: bool) -> None:
        self.owner, self.claim, self.prunes = owner, claim, prunes
        self.total = 0

    def progress(self, done: int, total: int, what: str) -> None:
        """Take down the length of the trial."""
        if what in RESUMABLE:
            self.owner.trains()
            self.total = total

    def stop(self, seconds: float) -> int:
        """As `Worker.stop`."""
        return self.owner.stop(seconds)

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Report a figure on val, where there is one; may raise Pruned."""
        looks = [value for key, value in metrics.items() if key.startswith(("val_curve", "probe/knn_"))]
        if not looks or not self.total or not self.prunes:
            return
        from optuna.exceptions import StorageInternalError

        tenth = LOOKS * step // self.total
        try:
            stop = self.claim.look(max(looks), tenth)
        except StorageInternalError:  # away for a while: this look is not judged
            return
        if stop:
            raise Pruned(f"pruned at {percent(tenth / LOOKS, 0)} of its length, val {percent(max(looks))}")


def _judge(base: PretrainConfig, plan: Plan) -> dict[str, Any]:
    return {"kind": plan.objective, "weights": "", "dataset": base.dataset}


if __name__ == "__main__":
    main()
