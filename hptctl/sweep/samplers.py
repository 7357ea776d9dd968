"""How a sweep's points are chosen, and which trials are stopped on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpt.config import Config
from hptctl.sweep.plan import LOOKS, Plan

if TYPE_CHECKING:
    import optuna

STARTUP = 4
"""The least number of trials that are drawn at random before TPE learns, and that end before the median prunes."""


def sampler_of(plan: Plan, slot: int) -> optuna.samplers.BaseSampler:
    """The sampler of a slot, seeded by it, so that a point does not depend on which worker draws it, nor on how many
    there are; with TPE it also rests on which trials have ended before."""
    import optuna

    seed = (int(_seed(plan)) * 1_000_003 + slot) % 2**32
    if plan.sampler == "tpe":
        startup = min(10, max(STARTUP, plan.trials // 4))  # Optuna's 10 would be half of 20 trials
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)  # a grid's values are enqueued, and nothing is drawn


def pruner_of(plan: Plan) -> optuna.pruners.BasePruner:
    """The pruner of a plan, which judges a trial at tenths of its length."""
    import optuna

    if plan.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=0)
    if plan.pruner == "halving":  # asynchronous (arXiv 1810.05934): at 10, 20, 40 and 80 % the better half goes on
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=LOOKS, reduction_factor=3)
    return optuna.pruners.NopPruner()


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of the objective's variance that each parameter explains (PED-ANOVA, arXiv 2304.10255); empty where
    the complete trials are too few or too alike to say."""
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(done) < STARTUP or len({trial.value for trial in done}) < 2:
        return {}
    try:
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):
        return {}


def _seed(plan: Plan) -> int:
    base: Config = plan.base
    return int(getattr(base, "seed", 0))
