"""The plan of a sweep: everything that defines it. `run.json` and the study in the storage each hold a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from hpt.config import Config, EvaluateConfig, Positive, PretrainConfig, check, fingerprint, flatten, resolve
from hpt.errors import ConfigError, RunError, did_you_mean
from hptctl.sweep.space import MODELS, Params, Space, Target, check_space, in_words, parse

Sampler = Literal["grid", "tpe", "random"]
Pruner = Literal["none", "median", "halving", "hyperband"]
Objective = Literal["knn", "linear"]

TRIALS = 20
"""Points of a sweep that is not a grid, unless `--trials` says otherwise."""
LOOKS = 10
"""How often a pruner may judge a trial: at each tenth of its own length, so that schedules of different lengths can be
compared."""
COMMON = "common"
"""A folder in a sweep's own, while the sweep goes on: training states that several trials have in common."""
# Where the data and the weights lie, and what computes, may differ between the machines of one sweep.
_OF_A_MACHINE = ("dataset", "weights", "device", "precision")


class Plan(Config):
    """Everything that defines a sweep."""

    target: Target = "finetune"
    """What each trial does: finetune, probe or pretrain."""
    evaluate: dict[str, Any] | None = None
    """The EvaluateConfig whose fields are varied; None where pretrainings are swept."""
    pretrain: dict[str, Any] | None = None
    """The PretrainConfig whose fields are varied; None where evaluations are swept."""
    space: Space
    """The fields that are varied, and the values or ranges that they may take."""
    sampler: Sampler = "grid"
    """How the points are chosen: every cell of a grid, by TPE, or at random."""
    pruner: Pruner = "none"
    """How trials that do badly on the way are stopped early, if at all."""
    trials: Positive
    """Number of points; for a grid, its number of cells."""
    repeats: Positive = 1
    """Seeds per point; the mean over them is the objective."""
    objective: Objective = "knn"
    """The evaluation whose figure on val is the objective, where pretrainings are swept."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """Address of a SQL database, without its password; None for a journal file in the sweep's folder."""
    workers: Positive = 1
    """Worker processes on the machine that began the sweep; any other number may go on with it."""

    @property
    def base(self) -> EvaluateConfig | PretrainConfig:
        """The configuration whose fields are varied."""
        if self.pretrain is not None:
            return PretrainConfig.model_validate(self.pretrain)
        return EvaluateConfig.model_validate(self.evaluate)

    def config(self, params: Params, repeat: int = 0) -> EvaluateConfig | PretrainConfig:
        """The configuration of a point, with the test images left alone.

        Raises:
            ConfigError: values that do not go together.
        """
        model = MODELS[self.target]
        values = self.space.apply(self.pretrain or self.evaluate or {}, params, model)
        values["seed"] += repeat
        if model is EvaluateConfig:
            values["test"] = False
        config = check(model, values)
        if isinstance(config, PretrainConfig) and self.pruner != "none" and config.probe_every is None:
            config = config.model_copy(update={"probe_every": max(1, config.steps // LOOKS)})
        return config

    def fingerprint(self, *, data: str, split: str, weights: str, precision: str) -> str:
        """Hash of everything that the winner rests on (`hpt.config.fingerprint`), in hex."""
        method = {"target", "space", "sampler", "pruner", "trials", "repeats", "objective"}
        search = self.model_dump(mode="json", include=method)
        found = {"data": data, "split": split, "weights": weights, "precision": precision}
        return fingerprint(self.base, **found, search=search)

    def evaluation(self, pretraining: str) -> EvaluateConfig:
        """The evaluation of a pretraining that gives its objective, with the test images left alone."""
        from hptctl.runs.weights import evaluated_defaults

        assert self.pretrain is not None
        return resolve(
            EvaluateConfig,
            inherited=evaluated_defaults(pretraining),
            flags={"kind": self.objective, "weights": pretraining, "seed": self.pretrain["seed"], "test": False},
        )


@dataclass(frozen=True)
class PlanOptions:
    """What a user may ask of a sweep besides its space; None for an option that was not given."""

    sampler: str | None = None
    """None for a grid where every dimension lists its values, and for TPE otherwise."""
    pruner: str | None = None
    trials: int | None = None
    repeats: int | None = None
    objective: str | None = None
    storage: str | None = None
    workers: int | None = None


def make(
    target: Target, base: EvaluateConfig | PretrainConfig, space: Space, asked: PlanOptions = PlanOptions()
) -> Plan:
    """Make a plan, and check it.

    Raises:
        ConfigError: every problem of the space at once, or options that do not go together.
    """
    check_space(space, base.model_dump(mode="json"), MODELS[target])
    if base.processes > 1:
        raise ConfigError("a sweep's trials have one process each", "drop --processes, and use --workers")
    sampler = _one_of("--sampler", asked.sampler or ("tpe" if space.ranges() else "grid"), Sampler)
    trials = TRIALS if asked.trials is None else asked.trials
    if sampler == "grid":
        if ranges := space.ranges():
            raise ConfigError(
                f"--sampler grid cannot take the range of {', '.join(ranges)}",
                "list its values, or use --sampler tpe or random",
            )
        if asked.trials not in (None, space.size()):
            raise ConfigError(
                f"a grid does all of its {space.size()} cells, but --trials is {asked.trials}",
                "drop --trials, or use --sampler tpe or random",
            )
        trials = space.size()
    values = {
        "target": target,
        "pretrain" if isinstance(base, PretrainConfig) else "evaluate": base.model_dump(mode="json"),
        "space": space,
        "sampler": sampler,
        "pruner": _one_of("--pruner", asked.pruner or "none", Pruner),
        "trials": trials,
        "repeats": 1 if asked.repeats is None else asked.repeats,
        "objective": _one_of("--objective", asked.objective or "knn", Objective),
        "storage": asked.storage,
        "workers": 1 if asked.workers is None else asked.workers,
    }
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option, message = ".".join(map(str, first["loc"])), str(first["msg"])
        raise ConfigError(f"--{option} {first['input']}: {message[:1].lower()}{message[1:]}") from None


def protocol(config: EvaluateConfig) -> Plan:
    """The plan of a sweep over the protocol's learning rates and schedules, in the preset's size."""
    space, _ = parse("finetune", config.preset, flags={})
    return make("finetune", config, space)


def configs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The finetunings that a sweep over the protocol's space comes to."""
    plan = protocol(config)
    found = [plan.config(cell) for cell in plan.space.cells()]
    return [each for each in found if isinstance(each, EvaluateConfig)]


def difference(there: Plan, here: Plan) -> list[str]:
    """The differences of two plans, each as `field is A there, B here`; the places of data and weights and the devices
    are not compared."""
    found = []
    kept, given = _comparable(there), _comparable(here)
    for key in dict.fromkeys([*kept, *given]):
        if kept.get(key) != given.get(key):
            found.append(f"{key} is {kept.get(key, 'missing')} there, {given.get(key, 'missing')} here")
    return found


def refuse_other(there: Plan, here: Plan, name: str, where: str) -> None:
    """Raise a RunError that names the differences when a sweep of that name was made by another configuration."""
    if found := difference(there, here):
        named = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise RunError(
            f"sweep '{name}' {where} was made by another configuration: {named}",
            "choose another --name, or give the same options",
        )


def _comparable(plan: Plan) -> dict[str, Any]:
    values = plan.model_dump(mode="json", exclude={"storage", "workers", "space", "evaluate", "pretrain"})
    config: Mapping[str, Any] = plan.evaluate or plan.pretrain or {}
    values |= {key: value for key, value in flatten(config).items() if key not in _OF_A_MACHINE}
    for name, dimension in plan.space.dimensions.items():
        values[f"the space of {name}"] = dimension.in_words()
    return values


def _one_of(option: str, given: str, choices: Any) -> str:
    known = get_args(choices)
    if given not in known:
        raise ConfigError(
            f"unknown {option} '{given}'{did_you_mean(given, known)}", f"choose one of {', '.join(known)}"
        )
    return given


def chosen(params: Params) -> str:
    """The winner's point in words; a schedule is clear without its name."""
    return in_words(params).replace("schedule=", "")
