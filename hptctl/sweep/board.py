"""The live view of a sweep: what its command shows while trials are done."""

from __future__ import annotations

from collections.abc import Sequence

from hptctl import console
from hptctl.format import duration, percent
from hptctl.sweep.plan import LOOKS
from hptctl.sweep.queue import ENDED, Trial
from hptctl.sweep.queue import best as best_of
from hptctl.sweep.space import in_words

COLUMNS = (">trial", "point", ">done", ">val", "state", "worker")


class Board:
    """How a sweep goes: a live table on a terminal, elsewhere a line for each trial that begins or ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._states: dict[int, str] = {}
        self._states_known = False  # what had ended before is no news
        self._live = console.LiveTable()

    def __enter__(self) -> Board:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(*error)

    def show(self, trials: Sequence[Trial]) -> None:
        """Show the state of the trials."""
        ended = [trial for trial in trials if trial.state in ENDED]
        best = best_of(trials)
        total = len({trial.slot for trial in trials})
        counts = f"{len(ended)} of {total} trials ended"
        if best is not None:
            counts += f", best val {percent(best.value or 0.0)} ({in_words(best.params)})"
        if self._live.live:
            self._live.show(f"{self.name}: {counts}", COLUMNS, [_row(trial) for trial in _interesting(trials, best)])
            return
        for trial in trials:
            if trial.state == "running" and not (trial.worker and trial.params):
                continue  # its worker is still drawing its point
            known = self._states.get(trial.number, "" if self._states_known else trial.state)
            if trial.state not in {known, "waiting"}:
                console.note(_line(trial) + (f"; {counts}" if trial.state in ENDED else ""))
            self._states[trial.number] = trial.state
        self._states_known = True


def _interesting(trials: Sequence[Trial], best: Trial | None) -> list[Trial]:
    """The trials under way, the best one, and the last that ended: as many as fit a terminal."""
    running = [trial for trial in trials if trial.state == "running"]
    last = sorted((t for t in trials if t.state in ENDED and t is not best), key=lambda t: t.ended or 0.0)[-8:]
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
