"""The run folder of a sweep: how it is made and found, and the trials that its storage holds."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hpt.config import EvaluateConfig, PretrainConfig
from hpt.errors import RunError
from hptctl import runs
from hptctl.format import weights_name
from hptctl.runs import Run, launch
from hptctl.runs.launch import Origin
from hptctl.secrets import HIDDEN
from hptctl.sweep.plan import Plan, protocol, refuse_other
from hptctl.sweep.queue import Queue, Trial, machine
from hptctl.sweep.storage import STORAGE_VARIABLE, shown


def create_protocol(config: EvaluateConfig, origin: Origin, *, suggestion: str | None = None, look: bool = True) -> Run:
    """Make the run folder of a sweep over the protocol's space; `look` as `launch.create_pretraining` has it."""
    return create(protocol(config), origin, suggestion=suggestion, look=look)


def create(
    plan: Plan,
    origin: Origin,
    *,
    name: str | None = None,
    suggestion: str | None = None,
    url: str | None = None,
    look: bool = True,
) -> Run:
    """Make a sweep's run folder, and its trials in the storage, none of them begun. Where the storage at `url` has the
    sweep already, make this machine's folder of it: the machine joins. `look` as `launch.create_pretraining` has it.

    Raises:
        RunError: a sweep of that name exists here, or was made by another configuration; the storage cannot be used.
    """
    base = plan.base
    if isinstance(base, PretrainConfig):
        base, tags, source = launch.describe_pretraining(base, look=look)
        about = f"{base.strategy}-{tags.dataset}"
        plan = plan.model_copy(update={"pretrain": base.model_dump(mode="json")})
    else:
        base, tags, source = launch.describe_evaluation(base, look=look)
        about = source.name if source else Path(weights_name(base.weights)).stem
        plan = plan.model_copy(update={"evaluate": base.model_dump(mode="json")})
    here = runs.find(name) if name else None
    if here is not None and here.spec().kind == "sweep":
        refuse_other(plan_of(here), plan, here.name, "here")
        if url is not None and plan_of(here).storage == plan.storage:
            return here
    if url is not None:
        origin = replace(origin, command=origin.command.replace(url, shown(url)))
        Queue("", Path(), plan, url).close()  # a storage that cannot be used leaves no folder
    sweep = runs.create("sweep", name, suggestion or f"sweep-{about}", **launch.spec_of(plan, tags, source, origin))
    try:
        with closing(Queue(sweep.name, sweep.path, plan, url)) as queue:
            if queue.create():
                queue.share("home", home(sweep))
    except BaseException:
        shutil.rmtree(sweep.path)
        raise
    return sweep


def home(sweep: Run) -> str:
    """The machine and path of a sweep's folder, as other machines know it.

    The machine that began the sweep has its parent run in MLflow, and tests the winner where it can reach its runs.
    """
    return f"{machine()}:{sweep.path.resolve()}"


def get(name: str) -> Run:
    """The sweep of that name; a RunError when there is none."""
    sweep = runs.get(name)
    if sweep.spec().kind != "sweep":
        raise RunError(f"run '{sweep.name}' is a {sweep.spec().kind} run, not a sweep", "see `hptctl sweep list`")
    return sweep


def all_sweeps() -> list[Run]:
    """Every sweep of the working folder, the oldest first."""
    return [run for run in runs.all_runs() if run.spec().kind == "sweep"]


def plan_of(sweep: Run) -> Plan:
    """The plan of a sweep.

    Raises:
        RunError: this version cannot read it.
    """
    return sweep.config(Plan)


def address(plan: Plan, url: str | None = None) -> str | None:
    """The address of a sweep's database; None where the trials are in a journal file."""
    if plan.storage is None:
        return None
    known = plan.storage if HIDDEN not in plan.storage else None
    return url or known or os.environ.get(STORAGE_VARIABLE) or plan.storage


def trials(sweep: Run, url: str | None = None) -> list[Trial]:
    """Every trial of a sweep, by number; `url` is the address of its database, needed where it has a password.

    Raises:
        RunError: the storage cannot be used, or has no such sweep.
    """
    plan = plan_of(sweep)
    with closing(Queue(sweep.name, sweep.path, plan, address(plan, url))) as queue:
        return queue.trials()
