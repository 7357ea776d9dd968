"""Optuna, and only here: sweeps over finetuning's learning rates and schedules.

A sweep is a run of its own (the parent in MLflow), and its folder holds Optuna's storage, so that the two cannot part.
Its cells are our own list, each enqueued once, since Optuna's grid sampler repeats cells when several workers run. Val
chooses; test is computed once, for the winner.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt.config import EvaluateConfig, check, merge
from hpt.errors import ConfigError, HptError, Interrupted, RunError
from hptctl import console, launch, runs, tracking
from hptctl.runs import Run

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Space:
    """What a sweep varies: every pair is a cell."""

    lr: tuple[float, ...]
    schedule: tuple[str, ...]

    def cells(self) -> list[dict[str, Any]]:
        """The grid, in order."""
        return [{"lr": lr, "schedule": schedule} for lr, schedule in itertools.product(self.lr, self.schedule)]


# The protocol's grid and, for the smaller presets, what a laptop can do of it.
SPACES = {
    "paper": Space((0.01, 0.001), ("2500-steps", "90-epochs")),
    "small": Space((0.01, 0.001), ("500-steps", "10-epochs")),
    "tiny": Space((0.01, 0.001), ("60-steps", "5-epochs")),
}


@dataclass(frozen=True)
class Trial:
    """A trial as scripts and tables see it."""

    number: int
    state: str
    params: dict[str, Any]
    value: float | None
    run: str | None
    mlflow_run_id: str | None
    reason: str


def create_protocol(
    config: EvaluateConfig,
    *,
    name: str | None,
    experiment: str,
    parent: str | None = None,
    suggestion: str | None = None,
) -> Run:
    """A sweep over the protocol's learning rates and schedules, in their preset's size."""
    space = SPACES[config.preset]
    return create(config, space, name=name, experiment=experiment, parent=parent, suggestion=suggestion)


def configs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The finetunings that a sweep over the protocol's space comes to."""
    return [cell_config(config, cell) for cell in SPACES[config.preset].cells()]


def create(
    config: EvaluateConfig,
    space: Space,
    *,
    name: str | None,
    experiment: str,
    parent: str | None = None,
    suggestion: str | None = None,
) -> Run:
    """A sweep's run folder, nothing started; `parent` is the study that asked for it.

    Raises:
        ConfigError: a cell that finetuning would refuse. RunError: a sweep of that name exists.
    """
    if not space.cells():
        raise ConfigError("the sweep's space is empty", "give --lr and --schedule one value or more")
    for cell in space.cells():
        cell_config(config, cell)
    config, tags, source = launch.describe_evaluation(config)
    return runs.create(
        "sweep",
        name,
        suggestion or f"sweep-{source.name if source else Path(config.weights).stem}",
        experiment=experiment,
        command=launch.command_line(),
        config={"evaluate": config.model_dump(mode="json"), "space": asdict(space)},
        **launch.as_source(source),
        parent=parent,
        tags=tags,
    )


def run_sweep(sweep: Run) -> None:
    """Do the cells that have no result yet, then test the winner; a sweep that was stopped goes on.

    Raises:
        Interrupted: the trial under way was given back. RunError: every cell failed.
    """
    spec = sweep.spec()
    base = EvaluateConfig.model_validate(spec.config["evaluate"])
    space = Space(**{key: tuple(values) for key, values in spec.config["space"].items()})
    with sweep.working():
        sweep.start()
        with tracking.tracked(sweep, at_once=True) as tracker:
            try:
                study = _study(sweep)
                _enqueue_missing(study, space)
                _do_trials(sweep, study, base, space, tracker)
                figures, facts = _test_winner(sweep, study)
            except BaseException as error:
                sweep.write_failure(error)
                raise
            tracker.log(figures, len(study.trials) + 1)
            sweep.write_status(state="finished", ended=time.time(), results=figures, facts=facts)


def get(name: str) -> Run:
    """The sweep of that name; a RunError when there is none."""
    sweep = runs.get(name)
    if sweep.spec().kind != "sweep":
        raise RunError(
            f"run '{sweep.name}' is a {sweep.spec().kind} run, not a sweep", "see `hptctl runs list --kind sweep`"
        )
    return sweep


def trials(sweep: Run) -> list[Trial]:
    """Every trial of a sweep, by number."""
    out = []
    for trial in _study(sweep).trials:
        child = runs.find(trial.user_attrs.get("run", ""))
        out.append(
            Trial(
                number=trial.number,
                state=trial.state.name.lower(),
                params=trial.user_attrs["cell"],
                value=trial.value if trial.state.name == "COMPLETE" else None,
                run=child.name if child else None,
                mlflow_run_id=runs.tracked_id(child) if child else None,
                reason=child.status().reason if child else "",
            )
        )
    return out


def cell_config(base: EvaluateConfig, cell: dict[str, Any]) -> EvaluateConfig:
    """The finetuning of one cell, with the test images left alone.

    Raises:
        ConfigError: a value that finetuning refuses.
    """
    return check(EvaluateConfig, merge(base.model_dump(mode="json"), {"finetune": cell, "test": False}))


def _study(sweep: Run) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{(sweep.path / 'optuna.db').resolve()}"
    return optuna.create_study(study_name=sweep.name, storage=storage, direction="maximize", load_if_exists=True)


def _enqueue_missing(study: optuna.Study, space: Space) -> None:
    """Every cell without a result waits once; what a dead process left running has failed."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    taken = [t.user_attrs["cell"] for t in study.get_trials(states=(TrialState.COMPLETE, TrialState.WAITING))]
    for cell in space.cells():
        if cell not in taken:
            study.enqueue_trial(cell, user_attrs={"cell": cell})


def _do_trials(sweep: Run, study: optuna.Study, base: EvaluateConfig, space: Space, tracker: tracking.Tracker) -> None:
    from optuna.trial import TrialState

    total = len(space.cells())
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        trial = study.ask()
        cell = {
            "lr": trial.suggest_categorical("lr", space.lr),
            "schedule": trial.suggest_categorical("schedule", space.schedule),
        }
        done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        console.note(f"cell {done + 1} of {total}: lr {cell['lr']:g}, {cell['schedule']}")
        child = launch.create_evaluation(
            cell_config(base, cell),
            name=None,
            suggestion=f"{sweep.name}-trial{trial.number}",
            experiment=sweep.spec().experiment,
            parent=sweep.name,
        )
        trial.set_user_attr("run", child.name)
        try:
            launch.execute(child)
        except Interrupted as stop:
            study.tell(trial, state=TrialState.FAIL)
            again = f"go on with `hptctl sweep finetune --resume {sweep.name}`"
            raise Interrupted(stop.signum, stop.what, again) from None
        except HptError as error:  # one failed cell does not stop the others
            study.tell(trial, state=TrialState.FAIL)
            console.warn(f"lr {cell['lr']:g}, {cell['schedule']}: {error}")
            continue
        status = child.status()
        study.tell(trial, status.results[f"val/{status.facts['metric']}"])
        tracker.log({"best_val": study.best_value}, trial.number + 1)


def _test_winner(sweep: Run, study: optuna.Study) -> tuple[dict[str, float], dict[str, str]]:
    """The winner's figures with those on test, which are computed here, once; and what was chosen."""
    from optuna.trial import TrialState

    from hptctl import worker

    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        raise RunError("every trial failed", f"see `hptctl sweep show {sweep.name}`")
    winner, cell = runs.get(study.best_trial.user_attrs["run"]), study.best_trial.user_attrs["cell"]
    if not any(key.startswith("test/") for key in winner.status().results):
        worker.test(winner)
        tracking.carry(winner)
    status = winner.status()
    chosen = f"lr={cell['lr']:g} {cell['schedule']}"
    return status.results, status.facts | {"winner": winner.name, "chosen": chosen}
