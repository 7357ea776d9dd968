"""The command of a sweep: has its trials done by workers, shows how it goes, has the winner tested.

It trains nothing itself, so that nothing it does waits for a trial, and a worker that is killed takes nothing along.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from contextlib import closing
from typing import TYPE_CHECKING

from hpt.errors import TIME_IS_UP, Interrupted, RunError
from hpt.files import write_text
from hptctl import console, deadline, runs, tracking
from hptctl.runs import Busy, Run, launch
from hptctl.runs.children import child_processes
from hptctl.runs.record import Facts
from hptctl.sweep.board import Board
from hptctl.sweep.folder import address, home, plan_of
from hptctl.sweep.plan import COMMON
from hptctl.sweep.queue import ENDED, Queue, Reaper, best
from hptctl.sweep.winner import Winner
from hptctl.sweep.workers import Workers

if TYPE_CHECKING:
    from hptctl.tracking import Tracker

POLL_SECONDS = 0.5


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
    launch.say_what_is_not_followed()
    plan = plan_of(sweep)
    with closing(Queue(sweep.name, sweep.path, plan, address(plan, url))) as queue:
        conductor = SweepConductor(sweep, queue, workers or plan.workers, timeout)
        try:
            with sweep.working():
                sweep.start()
                try:
                    conductor.conduct(retry)
                except BaseException as error:
                    sweep.write_failure(error)
                    raise
        except Busy:
            if plan.storage is None:
                raise
            console.note(f"another command conducts '{sweep.name}' here: this one adds its workers")
            conductor.add_workers()


class SweepConductor:
    """One command's part in a sweep, which may have others in other folders and on other machines."""

    def __init__(self, sweep: Run, queue: Queue, workers: int, timeout: float | None) -> None:
        self.sweep, self.queue, self.workers = sweep, queue, workers
        self.deadline = time.time() + timeout if timeout is not None else None
        self.board = Board(sweep.name)
        self.tracker: Tracker | None = None
        self._ended = 0

    def conduct(self, retry: bool) -> None:
        """Do what this folder's one conductor does: lead where the sweep began, help elsewhere."""
        if self.queue.url is None or self.queue.shared("home") in (None, home(self.sweep)):
            with tracking.tracked(self.sweep, at_once=True) as tracker:
                self._lead(tracker, retry)
        else:
            self._help()

    def add_workers(self) -> None:
        """Help another command that conducts the sweep in this very folder, until that has tested the winner."""
        self._do_trials()
        while self.sweep.status().state == "running":
            time.sleep(POLL_SECONDS)

    def _lead(self, tracker: Tracker, retry: bool) -> None:
        self.tracker = tracker
        self.queue.share("mlflow", {"uri": tracking.place(), "id": runs.tracked_id(self.sweep)})
        if retry:
            self.queue.retry()
        self._do_trials()
        if self._late():
            self.queue.drop_waiting("not begun before the timeout")
        winner = self._winner()
        if winner is None:
            reason = next((trial.reason for trial in self.queue.trials() if trial.reason), "")
            again = f"mend that, then `hptctl sweep retry {shlex.quote(self.sweep.name)}`"
            raise RunError(f"no trial was completed: {reason}", again)
        if winner.is_here():
            winner.test()
        elif not winner.wait_for_test():
            raise RunError(
                f"the winner's run lies on {winner.trial.worker} in {winner.trial.folder}, and was not tested there",
                "give the command there once more, then --resume here",
            )
        results, facts = winner.outcome()
        self._draw()
        tracker.log(results, len(self.queue.trials()) + 1)
        self._finish(results, facts)

    def _help(self) -> None:
        self._link_parent()
        self._do_trials()
        winner = self._winner()
        if winner is not None and winner.is_here() and not winner.is_beside(self.queue.shared("home")):
            winner.test()
        if winner is not None and winner.wait_for_test():
            self._finish(*winner.outcome())
        else:
            self._finish({}, Facts())

    def _do_trials(self) -> None:
        """Have workers do trials, until none is left that waits or that another worker might give back.

        Raises:
            Interrupted: a signal came, or the time is up, and the trials under way were given back.
        """
        with child_processes(self.workers) as children, self.board:
            workers, reaper = Workers(self.sweep, self.queue, children, self.deadline), Reaper(self.queue)
            while True:
                for what in reaper():
                    console.warn(what)
                counts = self.queue.counts()
                time_is_up = TIME_IS_UP if workers.time_is_up else deadline.passes_in(0.0)
                waiting = counts.get("waiting", 0) if not (self._late() or time_is_up) else 0
                workers.start(waiting)
                self._look()
                if not (children.running or waiting or (counts.get("running") and not time_is_up)):
                    break
                workers.see_off(children.wait(POLL_SECONDS))
                if children.stop():
                    break
            self._look()
        left = counts.get("waiting", 0) + counts.get("running", 0)
        if stop := children.stop() or (time_is_up if left and not self._late() else 0):
            again = shlex.join([*launch.resume_words(self.sweep), *deadline.words()])
            raise Interrupted(stop, f"sweep '{self.sweep.name}' was stopped", f"go on with `hptctl {again}`")

    def _late(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline

    def _look(self) -> None:
        """Show the state of the trials, and log the best value so far to the sweep's tracked run."""
        trials = self.queue.trials()
        self.board.show(trials)
        ended, found = sum(trial.state in ENDED for trial in trials), best(trials)
        if self.tracker is not None and found is not None and found.value is not None and ended > self._ended:
            self.tracker.log({"best_val": found.value}, ended)
            self._ended = ended

    def _winner(self) -> Winner | None:
        found = best(self.queue.trials())
        return Winner(self.queue, self.sweep.path, found) if found is not None else None

    def _draw(self) -> None:
        from hptctl.sweep.plots import draw  # matplotlib takes a second

        draw(self.sweep, self.queue)

    def _finish(self, results: dict[str, float], facts: Facts) -> None:
        shutil.rmtree(self.sweep.path / COMMON, ignore_errors=True)
        self.sweep.write_status(state="finished", ended=time.time(), results=results, facts=facts)

    def _link_parent(self) -> None:
        """Where this machine tracks in the same store, have its trials name the parent run that is there."""
        parent = self.queue.shared("mlflow") or {}
        if parent.get("id") and parent["uri"] and parent["uri"] == tracking.place():
            known = {"uri": parent["uri"], "run_id": parent["id"], "params": True, "state": "RUNNING"}
            known |= {"sent": {}, "facts": {}, "artifacts": {}}
            write_text(self.sweep.path / "tracking.json", json.dumps(known))
