"""The trial that val chose: where its runs are, its test, which is computed once, and its figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hptctl import runs, tracking
from hptctl.runs import Run
from hptctl.runs.record import Facts, recorded
from hptctl.sweep.plan import chosen
from hptctl.sweep.queue import GRACE_SECONDS, Queue, Trial, machine

POLL_SECONDS = 0.5


class Winner:
    """The best trial of a sweep."""

    def __init__(self, queue: Queue, sweep: Path, trial: Trial) -> None:
        """`sweep` is the folder of the sweep itself."""
        self.queue, self.trial = queue, trial
        # A folder with its journal may have been moved since; of a database the trial knows where its machine works.
        place = sweep.parent if queue.url is None else Path(trial.folder)
        self.runs = [Run(place / name) for name in trial.runs]

    def is_here(self) -> bool:
        """Whether its runs can be read from this machine."""
        return all((run.path / "run.json").is_file() for run in self.runs)

    def is_beside(self, home: str | None) -> bool:
        """Whether its runs lie beside the folder of the machine that began the sweep (`folder.home`), which tests them
        itself."""
        folder = Path(self.trial.folder)
        return home is not None and home.startswith(machine()) and Path(home.partition(":")[2]).parent == folder

    def test(self) -> None:
        """Compute its test figures where they are missing, and tell the sweep's other machines."""
        from hptctl.runs import worker

        for run in self.runs:
            if not any(key.startswith("test/") for key in run.status().results):
                worker.test(run)
                tracking.carry(run)
        results, facts = self.outcome()
        self.queue.share("outcome", {"trial": self.trial.number, "results": results, "facts": facts.text()})

    def wait_for_test(self) -> bool:
        """Whether another machine, which has the winner's runs, tests it before long."""
        end = time.monotonic() + GRACE_SECONDS
        while (self.queue.shared("outcome") or {}).get("trial") != self.trial.number:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def outcome(self) -> tuple[dict[str, float], Facts]:
        """Its figures, as means over its seeds, and the facts of the choice."""
        if not self.is_here():
            there = self.queue.shared("outcome")
            return dict(there["results"]), Facts.model_validate(there["facts"])
        first, plan = self.runs[0], self.queue.plan
        facts = first.status().facts
        facts.winner, facts.chosen = first.name, chosen(self.trial.params)
        started_from = facts.weights_sha256 if plan.pretrain is None else _started_from(first)
        facts.fingerprint = plan.fingerprint(
            data=recorded(facts.data_fingerprint, "its images"),
            split=recorded(facts.split_fingerprint, "its split"),
            weights=started_from or "",
            precision=facts.precision or "",  # runs of 0.1.0 did not record it
        )
        results = [run.status().results for run in self.runs]
        if len(results) > 1:
            facts.seeds = len(results)
        return _mean(results), facts


def _started_from(evaluation: Run) -> str | None:
    """The sha256 of what a trial's pretraining began with; None for random weights."""
    return next(runs.ancestry(evaluation)).status().facts.weights_sha256


def _mean(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of each figure, and their standard deviations over seeds where there are several."""
    if len(results) == 1:
        return dict(results[0])
    out = {}
    for key in results[0]:
        values = [each[key] for each in results if key in each]
        if not key.endswith("_std"):
            out[key] = statistics.fmean(values)
            out[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return out
