"""Do what is missing of a study by jobs of a cluster: all that is ready at once, as arrays, looked after in the queue.

The command on the login node may be ended at any time, and given again: what it had sent is written down (`Jobs`), and
what is done it finds as every study does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from hpt.errors import TIME_IS_UP, HptError, Interrupted, UserError
from hptctl import console, deadline, runs
from hptctl.cluster.jobs import Ended, Job, Jobs, in_words, task_of
from hptctl.cluster.schedulers import Place
from hptctl.format import count
from hptctl.runs import Run
from hptctl.runs.signals import Pending, held_back
from hptctl.study import look
from hptctl.study.conductor import StudyConductor, StudyOutcome
from hptctl.study.definition import Cell
from hptctl.study.import_runs import point_here
from hptctl.study.materials import Recorded
from hptctl.study.progress import Progress

TICK_SECONDS = 0.5
"""Between two looks at the folders of runs; the queue is asked less often."""
COLUMNS = ("cell", "where")


class ClusterConductor(StudyConductor):
    """Sends the cells that are ready, and takes up again those whose jobs are lost."""

    looks = False

    def __init__(
        self,
        study: Run,
        progress: Progress,
        cells: Sequence[Cell],
        *,
        sent: Jobs,
        detach: bool,
        retry: bool,
        command: str,
    ) -> None:
        """`sent` are the study's jobs; with `detach` what is ready is sent and nothing waited for."""
        super().__init__(study, progress, cells, retry=retry, command=command)
        self.sent, self.detach = sent, detach
        self.doing: dict[str, Cell] = {}
        """Cells whose jobs were sent, by their runs' folders."""
        self._said = ""

    def _outcome(self) -> StudyOutcome:
        outcome = super()._outcome()
        if not self.doing:
            return outcome
        return StudyOutcome(outcome.done, (), tuple(cell.id for cell in self.doing.values()))

    def _do(self) -> None:
        with held_back() as stop, console.LiveTable() as table:
            self._adopt()
            self._look(stop)
            point_here(self.progress, self.cells)
            self._adopt()
            while True:
                self._raise_if_stopped(stop)
                self.sent.look()
                self._take_ended()
                self._send_ready()
                if self.detach or not self.doing:
                    return
                self._show(table)
                time.sleep(TICK_SECONDS)

    def _adopt(self) -> None:
        """Take on the jobs that an earlier command sent for these cells."""
        for cell in self.cells:
            found = self.progress[cell.id]
            key = (runs.RUNS / found.run).as_posix()
            if found.run and found.state != "done" and key in self.sent:
                self.doing[key] = cell
                self.tried.append(cell.id)

    def _look(self, stop: Pending) -> None:
        """Have a job look at what the cells rest on; while others of the study are in the queue, what was found before
        they were sent holds."""
        found, task = self.progress.materials, look.task_of(self.study, self.cells)
        assert isinstance(found, Recorded)
        found.read()
        if not (found.where and self.doing):
            if task.key not in self.sent:
                self.sent.send([task])
            console.note(f"{in_words(self.sent[task.key], None)} to look at the images and weights first")
            shown = None
            while task.key in self.sent:
                self._raise_if_stopped(stop)
                self.sent.look()
                place = self.sent.places.get(task.key)
                if place is not None and shown != (shown := (place.state, place.reason)):
                    console.note(in_words(self.sent[task.key], place))
                self._take_ended()
                time.sleep(TICK_SECONDS)
            found.read()
        self.progress.look_again()

    def _take_ended(self) -> None:
        for over in self.sent.ended():
            cell = self.doing.pop(over.key, None)
            if cell is not None:
                self._settle(cell, over.why)
                if not over.why and (found := self.progress[cell.id]).state != "done":
                    self._settle(cell, found.why or self._why_not_done(cell, over))
            elif over.why:  # the look, or a cell that was not asked for
                raise (UserError if over.user else HptError)(over.why)

    def _why_not_done(self, cell: Cell, over: Ended) -> str:
        """Why a run that has finished is not the cell's."""
        used = Run(runs.RUNS / over.key.rpartition("/")[2]).status().facts.precision
        planned = self.progress.materials.precision(cell.config)
        if used != planned:
            return (
                f"its run was computed in {used} on its node, and would have been in {planned} on the first one: name"
                " one kind of node in [cluster], or --set precision"
            )
        return "its run found other images or weights than the job that looked at them first"

    def _send_ready(self) -> None:
        begun: list[tuple[Cell, Run]] = []
        for cell in self.cells:
            if len(begun) < self.sent.room and self._ready(cell) and (run := self._begin(cell)) is not None:
                begun.append((cell, run))
        self.sent.send([task_of(run) for _, run in begun])
        self.doing |= {run.path.as_posix(): cell for cell, run in begun}

    def _in_time(self, cell: Cell) -> bool:
        return True  # the time that was given is this command's, not the jobs'

    def _raise_if_stopped(self, stop: Pending) -> None:
        if signum := stop() or (TIME_IS_UP if deadline.passes_in(0.0) else 0):
            raise self._interrupted(signum)

    def _interrupted(self, signum: int) -> Interrupted:
        stopped = super()._interrupted(signum)
        ids = [id for key in self.doing if key in self.sent and (id := self.sent[key].id) is not None]
        if ids:
            stopped.what += (
                f"; {count(len(ids), 'job')} of it go on (`{self.sent.scheduler.words_to_end(ids)}` ends them)"
            )
        return stopped

    def _show(self, table: console.LiveTable) -> None:
        """A live table on a terminal, elsewhere a line when something has changed."""
        places = {cell.id: (self.sent[key], self.sent.places.get(key)) for key, cell in self.doing.items()}
        done = sum(self.progress[cell.id].state == "done" for cell in self.cells)
        said = f"{done} of {count(len(self.cells), 'cell')} done; {summary(places)}"
        if table.live:
            table.show(f"{self.study.name}: {said}", COLUMNS, [(id, in_words(*at)) for id, at in places.items()])
        elif said != self._said:
            console.note(said)
        self._said = said


def summary(places: Mapping[str, tuple[Job, Place | None]]) -> str:
    """`5 run, 3 wait (Priority)`"""
    known = [place for _, place in places.values() if place is not None]
    waiting = [place for place in known if place.waits]
    reasons = Counter(place.reason for place in waiting if place.reason)
    parts = [f"{len(known) - len(waiting)} run"] if len(known) > len(waiting) else []
    if waiting:
        parts.append(f"{len(waiting)} wait" + (f" ({', '.join(reasons)})" if reasons else ""))
    if left := len(places) - len(known):
        parts.append(f"{left} sent")
    return ", ".join(parts)
