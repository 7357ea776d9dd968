"""A sweep's trials in Optuna, as a queue that several processes and machines work on.

Every trial of a sweep is enqueued once, when its study is made: a grid's cells with their values, the others as empty
slots that the sampler fills when a worker claims them. So no number of workers does a cell twice or a trial too many
(Optuna's grid sampler repeats cells, and `ask` with nothing enqueued makes trials).

A claim is atomic (WAITING to RUNNING), and is a lease: the worker that holds it writes a beat now and then. A claim
whose process is dead or whose beat has stopped is given back (RUNNING to WAITING), number, values, checkpoint and all;
a worker that was only asleep finds its claim gone at its next beat and lets go. Optuna's own heartbeats would fail the
trial and enqueue a copy, need a SQL database, and beat only inside `study.optimize`.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt.errors import RunError
from hptctl.sweep.plan import LOOKS, Plan, refuse_other
from hptctl.sweep.space import Choice, Range
from hptctl.sweep.storage import claims_lock, open_journal, open_sql

if TYPE_CHECKING:
    import optuna

BEAT_SECONDS = 15.0
GRACE_SECONDS = 90.0
"""Seconds without a beat after which a claim of another machine is given up."""
HOLD_SECONDS = 2.0
"""Seconds for which the process of a claim must be gone: the trial may be changing hands at this moment."""
READY_SECONDS = 60.0
DEATHS = 3
"""Workers that may die of a trial before it counts as failed."""
ENDED = {"complete", "pruned", "fail"}
"""States of a trial that has ended."""
PLAN = "plan"
"""The attribute of the study that is written last: once it is there, every trial is enqueued."""


@dataclass(frozen=True)
class Trial:
    """A trial as scripts and tables see it."""

    number: int
    state: str
    """One of waiting, running, complete, pruned and fail."""
    params: dict[str, Any]
    value: float | None
    """The objective on val; None unless the trial is complete."""
    run: str | None
    """Name of its run: of several seeds the first, of a pretraining the evaluation."""
    mlflow_run_id: str | None
    reason: str
    """Why it failed or was pruned."""
    slot: int = 0
    """Which of the sweep's points it is: a trial that is done again is another trial of the same slot."""
    runs: tuple[str, ...] = ()
    """Names of all its runs that have the objective, by seed."""
    worker: str = ""
    """Name of the worker that works on it, or did last."""
    pid: int = 0
    """Number of that worker's process."""
    folder: str = ""
    """The folder of its runs, on that worker's machine."""
    started: float | None = None
    """When it began, in seconds since 1970."""
    ended: float | None = None
    """When it ended, in seconds since 1970."""
    looks: dict[int, float] = field(default_factory=dict)
    """The figure on val at tenths of its length."""
    metric: str = ""
    """Name of the figure that is the objective."""


def best(trials: Iterable[Trial]) -> Trial | None:
    """The complete trial with the highest objective; of equal ones the first."""
    done = [trial for trial in trials if trial.value is not None]
    return max(done, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def failed(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that failed and were not done again."""
    newest = {trial.slot: trial for trial in trials}
    return [trial for trial in newest.values() if trial.state == "fail"]


def machine() -> str:
    """This machine's name in claims: several machines may have one host name."""
    return f"{socket.gethostname()}-{uuid.getnode():x}"


def process_named(pid: int) -> dict[str, Any]:
    """A process of this machine as claims name it: a process number is used again, with another time of birth."""
    return {"machine": machine(), "pid": pid, "born": _born(pid)}


class Queue:
    """The trials of one sweep."""

    def __init__(self, name: str, folder: Path, plan: Plan, url: str | None) -> None:
        """Open the storage: the journal in `folder`, or the SQL database at `url`; nothing is made in it yet."""
        _quiet()
        self.name, self.plan, self.url = name, plan, url
        self.storage, self.close = open_journal(folder) if url is None else open_sql(url)
        self._study: optuna.Study | None = None

    # ---- the study

    def create(self) -> bool:
        """Make the study with all its trials, or wait for the process that makes it; True where it was made here.

        Raises:
            RunError: a sweep of that name was made by another configuration, or its making was cut short.
        """
        import optuna

        try:
            study = optuna.create_study(storage=self.storage, study_name=self.name, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            self._join()
            return False
        cells = self.plan.space.cells() if self.plan.sampler == "grid" else [{}] * self.plan.trials
        for slot, cell in enumerate(cells):
            study.enqueue_trial(self._encode(cell), user_attrs={"slot": slot})
        study.set_user_attr(PLAN, self.plan.model_dump(mode="json"))
        return True

    def _join(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while PLAN not in self.study.user_attrs:
            if any("slot" not in trial.user_attrs for trial in self.study.get_trials(deepcopy=False)):
                raise RunError(f"the storage has a study '{self.name}' that is no sweep", "choose another --name")
            if time.monotonic() > end:
                raise RunError(f"the making of sweep '{self.name}' was cut short", "choose another --name")
            time.sleep(0.2)
        refuse_other(Plan.model_validate(self.study.user_attrs[PLAN]), self.plan, self.name, "in that storage")

    @property
    def study(self) -> optuna.Study:
        """The study in the storage.

        Raises:
            RunError: the storage has none of that name.
        """
        import optuna

        if self._study is None:
            from hptctl.sweep.samplers import pruner_of

            try:
                self._study = optuna.load_study(storage=self.storage, study_name=self.name, pruner=pruner_of(self.plan))
            except KeyError:
                where = self.plan.storage or "its folder"
                raise RunError(f"there is no sweep '{self.name}' in {where}", "check --storage and the name") from None
        return self._study

    def share(self, key: str, value: Any) -> None:
        """Tell the other machines of the sweep a value."""
        self.study.set_user_attr(key, value)

    def shared(self, key: str) -> Any:
        """The value that a machine of the sweep told the others; None where none did."""
        return self.study.user_attrs.get(key)

    # ---- looking

    def trials(self) -> list[Trial]:
        """Every trial, by number."""
        return [self._view(trial) for trial in self.study.get_trials(deepcopy=False)]

    def counts(self) -> dict[str, int]:
        """The number of trials in each state."""
        out: dict[str, int] = {}
        for trial in self.study.get_trials(deepcopy=False):
            out[trial.state.name.lower()] = out.get(trial.state.name.lower(), 0) + 1
        return out

    def _view(self, trial: optuna.trial.FrozenTrial) -> Trial:
        attrs = trial.user_attrs
        state = trial.state.name.lower()
        claim = attrs.get("claim", {})
        fixed = trial.params or trial.system_attrs.get("fixed_params", {})
        names = tuple(attrs.get("runs", ()))
        return Trial(
            number=trial.number,
            state=state,
            params=self._decode(fixed),
            value=trial.value if state == "complete" else None,
            run=names[0] if names else None,
            mlflow_run_id=attrs.get("mlflow_run_id"),
            reason=attrs.get("reason", ""),
            slot=attrs.get("slot", trial.number),
            runs=names,
            worker=claim.get("worker", ""),
            pid=claim.get("pid", 0),
            folder=claim.get("folder", ""),
            started=trial.datetime_start.timestamp() if trial.datetime_start else None,
            ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
            looks=dict(trial.intermediate_values),
            metric=attrs.get("metric", ""),
        )

    # ---- giving back

    def give_back(self, number: int, *, death: str = "") -> str:
        """Let another worker go on with a running trial, or fail it after `DEATHS` workers died of it; the decision in
        words."""
        from optuna.trial import TrialState

        id = self._id(number)
        if death:
            deaths = [*self.storage.get_trial(id).user_attrs.get("deaths", ()), death]
            self.storage.set_trial_user_attr(id, "deaths", deaths)
            if len(deaths) >= DEATHS:
                self.storage.set_trial_user_attr(id, "reason", f"its worker died {len(deaths)} times ({death})")
                self.storage.set_trial_state_values(id, TrialState.FAIL)
                return f"trial {number} has failed, as {len(deaths)} workers died of it"
        self.storage.set_trial_state_values(id, TrialState.WAITING)
        return f"trial {number} goes on in another"

    def retry(self) -> list[int]:
        """Enqueue the slots that failed once more, with the values that they had; the numbers of the failed trials."""
        again = failed(self.trials())
        for trial in again:
            self.study.enqueue_trial(self._encode(trial.params), user_attrs={"slot": trial.slot})
        return [trial.number for trial in again]

    def drop_waiting(self, reason: str) -> int:
        """Fail the trials that nobody has begun; their number."""
        from optuna.trial import TrialState

        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        for trial in waiting:
            id = self._id(trial.number)
            self.storage.set_trial_user_attr(id, "reason", reason)
            self.storage.set_trial_state_values(id, TrialState.FAIL)
        return len(waiting)

    # ---- working

    def claim(self, worker: str, folder: Path) -> Claim | None:
        """Claim the first waiting trial for a worker; None when there is none."""
        import optuna
        from optuna.trial import TrialState

        with claims_lock(self.url):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                id = self._id(trial.number)
                try:
                    mine = self.storage.set_trial_state_values(id, TrialState.RUNNING)
                except optuna.exceptions.UpdateFinishedTrialError:
                    continue
                if mine:
                    token = uuid.uuid4().hex
                    claim = {"token": token, "worker": worker, "folder": str(folder.resolve())}
                    self.storage.set_trial_user_attr(id, "claim", claim | process_named(os.getpid()))
                    return Claim(self, id, trial.number, token)
        return None

    def _id(self, number: int) -> int:
        id: int = self.storage.get_trial_id_from_study_id_trial_number(self._study_id(), number)
        return id

    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def _encode(self, params: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for name, value in params.items():
            dimension = self.plan.space.dimensions[name]
            if isinstance(dimension, Choice):
                value = dict(zip(map(repr, dimension.values), dimension.encoded(), strict=True))[repr(value)]
            out[name] = value
        return out

    def _decode(self, params: dict[str, Any]) -> dict[str, Any]:
        out = {}
        for name, dimension in self.plan.space.dimensions.items():
            if name in params:
                value = params[name]
                if isinstance(dimension, Choice):
                    value = dict(zip(map(repr, dimension.encoded()), dimension.values, strict=True))[repr(value)]
                out[name] = value
        return out


class Claim:
    """A trial that this process works on."""

    def __init__(self, queue: Queue, id: int, number: int, token: str) -> None:
        from optuna.trial import Trial as OptunaTrial

        self.queue, self.id, self.number, self._token = queue, id, number, token
        self._trial = OptunaTrial(queue.study, id)
        self.looked = max(queue.storage.get_trial(id).intermediate_values, default=0)
        """Tenths of its length that are reported already: a trial that goes on has some."""

    def params(self) -> dict[str, Any]:
        """The trial's point, drawn now or at an earlier claim."""
        from hptctl.sweep.samplers import sampler_of

        self.queue.study.sampler = sampler_of(self.queue.plan, self.noted("slot"))
        drawn = {}
        for name, dimension in self.queue.plan.space.dimensions.items():
            if isinstance(dimension, Choice):
                drawn[name] = self._trial.suggest_categorical(name, dimension.encoded())
            elif isinstance(dimension, Range) and dimension.whole:
                drawn[name] = self._trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
            else:
                drawn[name] = self._trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)
        return self.queue._decode(drawn)

    def note(self, key: str, value: Any) -> None:
        """Write something down with the trial."""
        self.queue.storage.set_trial_user_attr(self.id, key, value)

    def noted(self, key: str) -> Any:
        """What was written down with the trial, also by an earlier worker."""
        return self.queue.storage.get_trial(self.id).user_attrs.get(key)

    def holds(self) -> bool:
        """Whether the trial is still this process's."""
        from optuna.trial import TrialState

        trial = self.queue.storage.get_trial(self.id)
        return trial.state == TrialState.RUNNING and trial.user_attrs.get("claim", {}).get("token") == self._token

    def beat(self) -> bool:
        """Say that the trial is being worked on; False where it is no longer this process's."""
        if not self.holds():
            return False
        self.note("beat", time.time())
        return True

    def look(self, value: float, tenth: int) -> bool:
        """Report the figure on val at a tenth of the trial's length, which stands for earlier tenths without a report;
        True where the pruner says to stop."""
        for each in range(self.looked + 1, min(tenth, LOOKS) + 1):
            self._trial.report(value, each)
        if tenth <= self.looked:
            return False
        self.looked = tenth
        return tenth < LOOKS and self._trial.should_prune()

    def complete(self, value: float) -> None:
        """End the trial with its objective."""
        self.queue.study.tell(self.number, value)

    def prune(self, reason: str) -> None:
        """End the trial as one that the pruner stopped."""
        from optuna.trial import TrialState

        self.note("reason", reason)
        self.queue.study.tell(self.number, state=TrialState.PRUNED)

    def fail(self, reason: str) -> None:
        """End the trial as one that could not be done."""
        from optuna.trial import TrialState

        self.note("reason", reason)
        self.queue.study.tell(self.number, state=TrialState.FAIL)


class Reaper:
    """Gives back the trials of dead workers of every machine, by the time that it has seen pass itself: the clocks of
    machines differ."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._seen: dict[int, tuple[tuple[str, float], float]] = {}

    def __call__(self) -> list[str]:
        """Give back the trials whose workers are gone; what became of each, in words."""
        from optuna.trial import TrialState

        given = []
        now = time.monotonic()
        for trial in self.queue.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            claim = trial.user_attrs.get("claim", {})
            sign = (claim.get("token", ""), trial.user_attrs.get("beat", 0.0))
            before, since = self._seen.get(trial.number, (None, now))
            here = claim.get("machine") == machine()
            lives = here and _born(claim["pid"]) == claim["born"]
            if lives or before != sign:
                self._seen[trial.number] = (sign, now)
                continue
            if now - since > (HOLD_SECONDS if here else GRACE_SECONDS):
                worker = claim.get("worker", "its worker")
                why = f"the process of {worker} died" if here else f"{worker} was heard of no more"
                given.append(f"{why}: {self.queue.give_back(trial.number, death=why)}")
        return given


def patiently(act: Callable[[], object], stop: Callable[[], int], *, seconds: float = 600.0) -> None:
    """Do something with a storage, which may be out of reach for a while, and try again until it is done."""
    from optuna.exceptions import StorageInternalError

    end, wait = time.monotonic() + seconds, 1.0
    while True:
        try:
            act()
        except StorageInternalError:
            if stop() or time.monotonic() > end:
                raise
            time.sleep(wait)
            wait = min(wait * 2, 30.0)
        else:
            return


def _born(pid: int) -> float | None:
    """When a process of this machine began; None where there is no such process."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
