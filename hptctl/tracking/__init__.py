"""MLflow, and only here.

store       where the tracking store is, and what is in it
kept        the runs that ended there long ago, so that not all are asked for each time
push        carries a run's metrics from its folder to the store
registry    a backbone as a model of the store's registry
embedder    that model's code, which MLflow keeps with it
"""

from hptctl.tracking.push import Tracker, arrive, carry, sync, tracked
from hptctl.tracking.store import (
    Record,
    StoreWatch,
    check_store,
    client,
    histories,
    place,
    read_anew,
    read_runs,
    uri,
)

__all__ = [
    "Record",
    "StoreWatch",
    "Tracker",
    "arrive",
    "carry",
    "check_store",
    "client",
    "histories",
    "place",
    "read_anew",
    "read_runs",
    "sync",
    "tracked",
    "uri",
]
