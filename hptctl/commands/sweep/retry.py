"""`hptctl sweep retry`"""

from __future__ import annotations

from hptctl import options
from hptctl.commands.sweep.results import Sweep, print_trials
from hptctl.commands.sweep.search import Storage, Timeout, Workers, positive_workers, seconds


def retry(
    sweep: Sweep,
    workers: Workers = None,
    timeout: Timeout = None,
    time_limit: options.For = None,
    storage: Storage = None,
    as_json: options.Json = False,
) -> None:
    """Do a sweep's failed trials once more, with the values that they had; those that ended well stay.

    Example:

        hptctl sweep retry sweep-my-base
    """
    from hptctl import console
    from hptctl.sweep import conductor
    from hptctl.sweep import folder as sweeps
    from hptctl.sweep.queue import failed

    found = sweeps.get(sweep)
    limit, workers = seconds(timeout), positive_workers(workers)
    if not failed(sweeps.trials(found, storage)):
        console.note(f"no trial of '{found.name}' has failed, or each was done again")
    else:
        conductor.run_sweep(found, workers=workers, timeout=limit, url=storage, retry=True)
    print_trials(found, as_json)
