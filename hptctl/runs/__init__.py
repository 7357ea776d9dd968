"""Runs: a folder each, which is the truth about it, and the processes that do them.

folder      `runs/<name>/`: made, found, read, locked
record      what the folder records: what a run is, how it goes, what it found
archive     runs as one file that travels
places      the absolute paths in a run's record
weights     what `--weights` may name
launch      a run described and begun, here or under `accelerate launch`
machines    the machines of a run: how they find each other, and what became of the others
children    processes that a command starts: their signals, and their share of devices and cores
worker      what each process of a run executes
signals     Ctrl-C, SIGTERM and a lost terminal
energy      what a run took, where the hardware counts it
classes     an evaluation's tables by class, read back
model_card  what travels with exported weights
"""

from hptctl.runs.folder import (
    RUNS,
    Busy,
    Run,
    all_runs,
    ancestry,
    create,
    find,
    get,
    is_trial,
    last_runs,
    make_runs,
    newest,
    scratch,
    tracked_id,
)
from hptctl.runs.record import Kind, Spec, State, Status

__all__ = [
    "RUNS",
    "Busy",
    "Kind",
    "Run",
    "Spec",
    "State",
    "Status",
    "all_runs",
    "ancestry",
    "create",
    "find",
    "get",
    "is_trial",
    "last_runs",
    "make_runs",
    "newest",
    "scratch",
    "tracked_id",
]
