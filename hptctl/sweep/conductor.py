"""The command of a sweep: starts its workers, gives back the trials of dead ones, shows how it goes, tests the winner.

It trains nothing itself, so that nothing it does waits for a trial, and a worker that is killed takes nothing along.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from hpt import cores
from hpt.errors import HptError, Interrupted, RunError
from hptctl import console, runs, tracking
from hptctl.format import duration, percent
from hptctl.runs import Busy, Run, launch
from hptctl.runs.record import Facts, recorded
from hptctl.runs.signals import Pending, held_back
from hptctl.sweep.folder import address, home, plan_of
from hptctl.sweep.plan import COMMON, LOOKS, Plan, chosen
from hptctl.sweep.queue import GRACE_SECONDS, Queue, Reaper, Trial, machine
from hptctl.sweep.queue import best as best_of
from hptctl.sweep.space import in_words
from hptctl.sweep.storage import STORAGE_VARIABLE

if TYPE_CHECKING:
    from hptctl.tracking import Tracker

POLL_SECONDS = 0.5
SHUTDOWN_SECONDS = 120.0
"""What workers get to save their trials before they are killed."""
CRASHES = 3
"""Workers that may end before they do a trial; after that the fault is not a trial's."""
FINISHED = {"complete", "pruned", "fail"}


def run_sweep(
    sweep: Run, *, workers: int | None = None, timeout: float | None = None, url: str | None = None, retry: bool = False
) -> None:
    """Do the trials that nobody has done or is doing, then test the winner; a sweep that was stopped goes on.

    `workers` are processes on this machine (as many as the sweep began with, if None); after `timeout` seconds no trial
    is begun; `retry` enqueues what failed once more. Where another command works on the sweep in this folder, this one
    adds its workers, provided that the storage is a database.

    Raises:
        Interrupted: the trials under way were given back. RunError: every trial failed, or the storage is away.
    """
    plan = plan_of(sweep)
    with closing(Queue(sweep.name, sweep.path, plan, address(plan, url))) as queue:
        conduct = _Conductor(sweep, plan, queue, workers or plan.workers, timeout)
        try:
            with sweep.working():
                sweep.start()
                _conduct(sweep, conduct, queue, retry)
        except Busy:
            if plan.storage is None:
                raise
            console.note(f"another command conducts '{sweep.name}' here: this one adds its workers")
            conduct.help(beside=True)


def _conduct(sweep: Run, conduct: _Conductor, queue: Queue, retry: bool) -> None:
    try:
        if queue.url is None or queue.shared("home") in (None, home(sweep)):
            with tracking.tracked(sweep, at_once=True) as tracker:
                conduct.lead(tracker, retry)
        else:
            conduct.help()
    except BaseException as error:
        sweep.write_failure(error)
        raise


class _Conductor:
    def __init__(self, sweep: Run, plan: Plan, queue: Queue, workers: int, timeout: float | None) -> None:
        self.sweep, self.plan, self.queue, self.workers = sweep, plan, queue, workers
        self.deadline = time.time() + timeout if timeout is not None else None
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.crashes = 0
        self.reaper = Reaper(queue)
        self.board = _Board(plan, sweep.name)
        self.tracker: Tracker | None = None

    def lead(self, tracker: Tracker, retry: bool) -> None:
        """Conduct the sweep where it began."""
        self.tracker = tracker
        self.queue.share("mlflow", {"uri": os.environ.get("MLFLOW_TRACKING_URI"), "id": runs.tracked_id(self.sweep)})
        if retry:
            self.queue.retry()
        self._do_trials()
        if self._late():
            self.queue.drop_waiting("not begun before the timeout")
        self._finish(tracker)

    def help(self, *, beside: bool = False) -> None:
        """Add workers to a sweep that began elsewhere; `beside` another command in this very folder."""
        if not beside:
            self._link_parent()
        self._do_trials()
        if beside:
            while self.sweep.status().state == "running":  # the other command tests the winner
                time.sleep(POLL_SECONDS)
            return
        results: dict[str, float] = {}
        facts = Facts()
        if (best := best_of(self.queue.trials())) is not None:
            if self._is_here(best) and not _in_reach(best, self.queue.shared("home")):
                self._test(best)
            if self._tested(best):
                results, facts = self._outcome(best)
        self._end(results, facts)

    # ---- trials

    def _do_trials(self) -> None:
        with held_back() as stop, self.board:
            try:
                while self._go_on(stop):
                    self._look()
                    time.sleep(POLL_SECONDS)
            except BaseException:  # a second signal does not wait
                for process in self.processes.values():
                    process.kill()
                raise
            self._look()
        if stop():
            again = shlex.join(launch.resume_words(self.sweep))
            raise Interrupted(stop(), f"sweep '{self.sweep.name}' was stopped", f"go on with `hptctl {again}`")

    def _go_on(self, stop: Pending) -> bool:
        """Start, mourn and stop workers; whether there is anything left to wait for."""
        for number, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[number]
                if process.returncode and not stop():
                    self._mourn(number, process)
        if stop():
            self._stop_workers()
            return False
        for what in self.reaper():
            console.warn(what)
        counts = self.queue.counts()
        waiting = counts.get("waiting", 0) if not self._late() else 0
        for number in range(1, self.workers + 1):
            if number not in self.processes and len(self.processes) < waiting:
                self.processes[number] = self._start(number)
        return bool(self.processes or waiting or counts.get("running"))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        from hptctl.sweep.worker import DEADLINE_VARIABLE

        environment = os.environ | _share_of(number, self.workers)
        if self.queue.url is not None:  # not among the arguments, which everybody can read
            environment[STORAGE_VARIABLE] = self.queue.url
        if self.deadline is not None:
            environment[DEADLINE_VARIABLE] = str(self.deadline)
        command = [sys.executable, "-m", "hptctl.sweep.worker", str(self.sweep.path), str(number)]
        with self._log_of(number).open("ab") as log:
            # A session of its own: a Ctrl-C at the terminal reaches this process alone, which passes it on.
            return subprocess.Popen(
                command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _mourn(self, number: int, process: subprocess.Popen[bytes]) -> None:
        """A worker ended that should not have."""
        died = process.returncode < 0
        held = self._held_by(process)
        how = f"killed by {signal.Signals(-process.returncode).name}" if died else f"exit code {process.returncode}"
        last = _last_line(self._log_of(number))
        if not held:
            self.crashes += 1
            if not died or self.crashes >= CRASHES:
                why = last.removeprefix("error: ")
                if process.returncode == RunError.exit_code:  # what the user can mend
                    self._stop_workers()
                    raise RunError(why)
                if self.crashes >= CRASHES:
                    self._stop_workers()
                    raise HptError(f"its workers end before they do anything ({how}): {why}", self._see(number))
        for trial in held:
            console.warn(f"worker {number} was {how}: {self.queue.give_back(trial.number, death=how)}")

    def _see(self, number: int) -> str:
        return f"see {self._log_of(number)}"

    def _log_of(self, number: int) -> Path:
        return self.sweep.path / f"worker-{socket.gethostname()}-{number}.log"

    def _stop_workers(self) -> None:
        for process in self.processes.values():
            process.terminate()
        end = time.monotonic() + SHUTDOWN_SECONDS
        while any(process.poll() is None for process in self.processes.values()):
            if time.monotonic() > end:
                for process in self.processes.values():
                    process.kill()
            time.sleep(0.1)
        for process in self.processes.values():  # one that died of the signal gave nothing back
            for trial in self._held_by(process):
                self.queue.give_back(trial.number)
        self.processes.clear()

    def _held_by(self, process: subprocess.Popen[bytes]) -> list[Trial]:
        """The trial that a worker of ours had claimed when it ended."""
        host = f"{socket.gethostname()}/"
        running = [trial for trial in self.queue.trials() if trial.state == "running"]
        return [trial for trial in running if trial.pid == process.pid and trial.worker.startswith(host)]

    def _late(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def _look(self) -> None:
        """Show where the trials stand; the best so far, by trials that have ended, is in the parent's history."""
        trials = self.queue.trials()
        self.board.show(trials)
        if self.tracker is None:
            return
        ended = sum(trial.state in FINISHED for trial in trials)
        best = best_of(trials)
        if best is not None and best.value is not None and ended > self.board.logged:
            self.tracker.log({"best_val": best.value}, ended)
            self.board.logged = ended

    def _link_parent(self) -> None:
        """Where this machine tracks in the same store, trials name the parent that is there."""
        import json

        from hpt.files import write_text

        parent = self.queue.shared("mlflow") or {}
        if parent.get("id") and parent["uri"] and parent["uri"] == os.environ.get("MLFLOW_TRACKING_URI"):
            known = {"uri": parent["uri"], "run_id": parent["id"], "params": True, "state": "RUNNING"}
            known |= {"sent": {}, "facts": {}, "artifacts": {}}
            write_text(self.sweep.path / "tracking.json", json.dumps(known))

    # ---- the winner

    def _finish(self, tracker: Tracker) -> None:
        best = best_of(self.queue.trials())
        if best is None:
            reasons = dict.fromkeys(trial.reason for trial in self.queue.trials() if trial.reason)
            first = next(iter(reasons), "")
            again = f"mend that, then `hptctl sweep retry {shlex.quote(self.sweep.name)}`"
            raise RunError(f"no trial was completed: {first}", again)
        if self._is_here(best):
            self._test(best)
        elif not self._tested(best):
            raise RunError(
                f"the winner's run lies on {best.worker} in {best.folder}, and was not tested there",
                "give the command there once more, then --resume here",
            )
        results, facts = self._outcome(best)
        _draw(self.sweep, self.plan, self.queue)
        tracker.log(results, len(self.queue.trials()) + 1)
        self._end(results, facts)

    def _end(self, results: dict[str, float], facts: Facts) -> None:
        shutil.rmtree(self.sweep.path / COMMON, ignore_errors=True)
        self.sweep.write_status(state="finished", ended=time.time(), results=results, facts=facts)

    def _test(self, best: Trial) -> None:
        """Compute the winner's test figures, once."""
        from hptctl.runs import worker

        for name in best.runs:
            run = Run(self._folder(best) / name)
            if not any(key.startswith("test/") for key in run.status().results):
                worker.test(run)
                tracking.carry(run)
        figures, facts = self._outcome(best)
        self.queue.share("outcome", {"trial": best.number, "results": figures, "facts": facts.text()})

    def _tested(self, best: Trial) -> bool:
        """Whether another machine, which has the winner's runs, tests it before long."""
        end = time.monotonic() + GRACE_SECONDS
        while (self.queue.shared("outcome") or {}).get("trial") != best.number:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _folder(self, trial: Trial) -> Path:
        """Where a trial's runs lie; a folder with its journal may have been moved since."""
        return self.sweep.path.parent if self.queue.url is None else Path(trial.folder)

    def _is_here(self, trial: Trial) -> bool:
        """Whether a trial's runs can be read from this machine."""
        return all((self._folder(trial) / name / "run.json").is_file() for name in trial.runs)

    def _outcome(self, best: Trial) -> tuple[dict[str, float], Facts]:
        """The winner's figures, means over its seeds; and what was chosen."""
        if not self._is_here(best):
            there = self.queue.shared("outcome")
            return dict(there["results"]), Facts.model_validate(there["facts"])
        winners = [Run(self._folder(best) / name) for name in best.runs]
        facts = winners[0].status().facts
        facts.winner, facts.chosen = winners[0].name, chosen(best.params)
        started_from = facts.weights_sha256 if self.plan.pretrain is None else _started_from(winners[0])
        facts.fingerprint = self.plan.fingerprint(
            data=recorded(facts.data_fingerprint, "its images"),
            split=recorded(facts.split_fingerprint, "its split"),
            weights=started_from or "",
        )
        results = [run.status().results for run in winners]
        if len(results) > 1:
            facts.seeds = len(results)
        return _mean(results), facts


def _started_from(evaluation: Run) -> str | None:
    """The sha256 of what a trial's pretraining began with; None for random weights."""
    return next(runs.ancestry(evaluation)).status().facts.weights_sha256


def _mean(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of each figure, and their standard deviations over seeds where there are several."""
    if len(results) == 1:
        return dict(results[0])
    out = {}
    for key in results[0]:
        values = [each[key] for each in results if key in each]
        if not key.endswith("_std"):
            out[key] = statistics.fmean(values)
            out[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return out


def _in_reach(trial: Trial, owner: str | None) -> bool:
    """Whether a trial's runs lie in the folder of the machine that began the sweep, which tests them itself."""
    return (
        owner is not None and Path(owner.partition(":")[2]).parent == Path(trial.folder) and owner.startswith(machine())
    )


def _share_of(number: int, workers: int) -> dict[str, str]:
    """Environment of one of several workers: a GPU in turn, or a share of the cores."""
    if gpus := _gpus():
        return {"CUDA_VISIBLE_DEVICES": gpus[(number - 1) % len(gpus)]}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores.usable() // workers)))}


def _gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name and name != "-1"]
    if not list(Path("/dev").glob("nvidia[0-9]*")):  # asking torch costs seconds
        return []
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"


def _draw(sweep: Run, plan: Plan, queue: Queue) -> None:
    """The plots among the sweep's artifacts; one that cannot be drawn costs a warning."""
    from hptctl.charts import sweep as sweep_charts
    from hptctl.sweep.samplers import importances

    folder = sweep.path / "artifacts"
    folder.mkdir(exist_ok=True)
    points = [
        sweep_charts.DrawnTrial(t.number, t.state, t.params, t.value, t.worker, t.started, t.ended)
        for t in queue.trials()
    ]
    log = [name for name, d in plan.space.dimensions.items() if getattr(d, "log", False)]
    sweep_charts.write(folder, points, list(plan.space.dimensions), importances(queue.study), log=log)


class _Board:
    """How a sweep goes: a live table on a terminal, elsewhere a line for each trial that begins or ends."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.plan, self.name = plan, name
        self.logged = 0
        self._states: dict[int, str] = {}
        self._states_known = False  # what had ended before is no news
        self._live = console.LiveTable()

    def __enter__(self) -> _Board:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(*error)

    def show(self, trials: Sequence[Trial]) -> None:
        """Where the trials stand."""
        ended = [trial for trial in trials if trial.state in FINISHED]
        done = [trial for trial in trials if trial.value is not None]
        best = max(done, key=lambda trial: trial.value or 0.0, default=None)
        total = len({trial.slot for trial in trials})
        counts = f"{len(ended)} of {total} trials ended"
        if best is not None:
            counts += f", best val {percent(best.value or 0.0)} ({in_words(best.params)})"
        if self._live.live:
            self._live.show(f"{self.name}: {counts}", COLUMNS, [_row(trial) for trial in _interesting(trials, best)])
            return
        for trial in trials:
            if trial.state == "running" and not (
                trial.worker and trial.params
            ):  # its worker is still drawing its point
                continue
            known = self._states.get(trial.number, "" if self._states_known else trial.state)
            if trial.state not in {known, "waiting"}:
                console.note(_line(trial) + (f"; {counts}" if trial.state in FINISHED else ""))
            self._states[trial.number] = trial.state
        self._states_known = True


COLUMNS = (">trial", "point", ">done", ">val", "state", "worker")


def _interesting(trials: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """What is under way, the best, and what ended last: as much as fits a terminal."""
    running = [trial for trial in trials if trial.state == "running"]
    last = sorted((t for t in trials if t.state in FINISHED and t is not best), key=lambda t: t.ended or 0.0)[-8:]
    return [*([best] if best is not None else []), *reversed(last), *running]


def _row(trial: Trial) -> tuple[str, ...]:
    look = max(trial.looks, default=0)
    share = "" if trial.state == "complete" else percent(look / LOOKS, 0)
    val = trial.value if trial.value is not None else trial.looks.get(look)
    return str(trial.number), in_words(trial.params), share, percent(val), trial.state, trial.worker.rpartition("/")[2]


def _line(trial: Trial) -> str:
    what = f"trial {trial.number} ({in_words(trial.params)})" if trial.params else f"trial {trial.number}"
    if trial.state == "running":
        return f"{what} begins on {trial.worker}"
    if trial.state == "complete":
        took = duration((trial.ended or 0.0) - (trial.started or 0.0))
        return f"{what}: val {percent(trial.value or 0.0)} in {took}"
    return f"{what}: {trial.reason}" if trial.state == "pruned" else f"{what} failed: {trial.reason}"
