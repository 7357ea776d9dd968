"""Which storage is safe for a sweep: processes that claim trials from one queue, through each kind.

uv run python benchmarks/sweep_storage.py --processes 8 --trials 200

Each trial is claimed, gets a point and five looks, and is told. Optuna's own storages are measured as they are, and
through hptctl's queue, which the sweeps use.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import Trial, TrialState

from hpt.config import EvaluateConfig
from hptctl.sweep.plan import Plan, PlanOptions, make
from hptctl.sweep.queue import Queue
from hptctl.sweep.space import parse

LOOKS = 5


def optunas(kind: str, folder: Path) -> optuna.Study:
    """A study in Optuna's storage of a kind, as its documentation has it."""
    path = folder / f"optuna.{kind}"
    storage = JournalStorage(JournalFileBackend(str(path))) if kind == "journal" else f"sqlite:///{path}"
    return optuna.create_study(
        study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler(), load_if_exists=True
    )


def claim_optunas(kind: str, folder: Path, plan: Plan, barrier: Barrier) -> list[int]:
    """Numbers of the trials that this process was given by Optuna's `ask`, as long as trials wait."""
    study, mine = optunas(kind, folder), []
    barrier.wait()
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        trial: Trial = study.ask()
        mine.append(trial.number)
        try:
            value = trial.suggest_float("lr", 0, 1)
            for look in range(LOOKS):
                trial.report(value, look)
            study.tell(trial, value)
        except (ValueError, RuntimeError):  # another process has ended this very trial
            continue
    return mine


def claim_ours(kind: str, folder: Path, plan: Plan, barrier: Barrier) -> list[int]:
    """Numbers of the trials that this process claimed from the queue."""
    queue, mine = Queue("s", folder, plan, None if kind == "journal" else f"sqlite:///{folder / 'ours.db'}"), []
    _ = queue.study
    barrier.wait()
    while (claim := queue.claim("worker", folder)) is not None:
        mine.append(claim.number)
        value = claim.params()["lr"]
        for look in range(LOOKS):
            claim.look(value, 2 * (look + 1))
        claim.complete(value)
    return mine


def work(
    claim: Callable[[str, Path, Plan, Barrier], list[int]],
    kind: str,
    folder: Path,
    plan: Plan,
    barrier: Barrier,
    answers: multiprocessing.Queue[list[int]],
) -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    answers.put(claim(kind, folder, plan, barrier))


def measure(name: str, kind: str, processes: int, trials: int) -> dict[str, float]:
    space, _ = parse("finetune", "tiny", flags={"lr": "0.1..0.2", "schedule": "1-steps"})
    plan = make("finetune", EvaluateConfig(kind="finetune", weights="", dataset=""), space, PlanOptions(trials=trials))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if name == "optuna":
            study = optunas(kind, folder)
            for _ in range(trials):
                study.enqueue_trial({})
        else:
            Queue("s", folder, plan, None if kind == "journal" else f"sqlite:///{folder / 'ours.db'}").create()
        barrier, answers = context.Barrier(processes + 1), context.Queue()
        claim = claim_optunas if name == "optuna" else claim_ours
        started = [
            context.Process(target=work, args=(claim, kind, folder, plan, barrier, answers)) for _ in range(processes)
        ]
        for process in started:
            process.start()
        barrier.wait()
        start = time.perf_counter()
        claims = Counter(number for _ in started for number in answers.get())
        seconds = time.perf_counter() - start
        for process in started:
            process.join()
    return {
        "twice": float(sum(count > 1 for number, count in claims.items() if number < trials)),
        "never": float(trials - sum(number < trials for number in claims)),
        "extra": float(sum(number >= trials for number in claims)),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = {
        f"{name} {kind}": measure(name, kind, options.processes, options.trials)
        for name in ("optuna", "ours")
        for kind in ("journal", "sqlite")
    }
    for name, row in found.items():
        print(f"{name:16}" + "".join(f"{value:8.0f} {key}" for key, value in row.items()))
    if options.json:
        options.json.write_text(json.dumps({"medians": found}, indent=1))


if __name__ == "__main__":
    main()
