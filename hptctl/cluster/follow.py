"""One run as a job, waited for."""

from __future__ import annotations

import time
from collections import deque

from hpt.errors import TIME_IS_UP, HptError, Interrupted, UserError
from hptctl import console, deadline
from hptctl.cluster.jobs import Jobs, Task, in_words
from hptctl.runs.signals import Pending, held_back

TICK_SECONDS = 0.5


def follow(task: Task, jobs: Jobs, *, detach: bool, again: str) -> bool:
    """Have a job do a run, one that was sent already or a new one, and return when it has finished; with `detach` at
    once. Whether it has finished. `again` is the command that waits for it again.

    Raises:
        Interrupted: by a signal, or the time given is up; the job goes on. HptError: what went wrong.
    """
    with held_back() as stop:
        if task.key in jobs:
            jobs.look()
        if task.key not in jobs:
            try:
                jobs.send([task])
            except HptError as error:
                task.run.write_failure(error)  # a new one gives its name back
                raise
        console.note(f"{in_words(jobs[task.key], jobs.places.get(task.key))}; it writes {jobs.folder}")
        if detach:
            return False
        return _waited(task, jobs, stop, again)


def _waited(task: Task, jobs: Jobs, stop: Pending, again: str) -> bool:
    shown = ""
    with console.Display() as display:
        while not (signum := stop() or (TIME_IS_UP if deadline.passes_in(0.0) else 0)):
            jobs.look()
            for over in jobs.ended():
                if over.why:
                    raise (UserError if over.user else HptError)(over.why)
                return True
            if task.key in jobs.places and (state := jobs.places[task.key].state) != shown:
                shown = state
                console.note(in_words(jobs[task.key], jobs.places[task.key]))
            _show(task, display)
            time.sleep(TICK_SECONDS)
    job = jobs[task.key]
    end = jobs.scheduler.words_to_end([job.id]) if job.id is not None else ""
    raise Interrupted(
        signum, f"job {job.id} goes on without this command (`{end}` ends it)", f"wait for it again with `{again}`"
    )


def _show(task: Task, display: console.Display) -> None:
    """The run's newest figures, as it would show them here."""
    total = int(task.run.spec().config.get("steps") or 0)
    if total and (newest := deque(task.run.metrics(), maxlen=1)):
        (line,) = newest
        display.metrics({key: value for key, value in line.items() if key not in {"step", "time"}})
        display.progress(int(line["step"]), total, "training")
