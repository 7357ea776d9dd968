"""What a sweep is, in full: `run.json` of its folder and the study in its storage both hold it."""

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
"""Of a sweep that is no grid, unless `--trials` says otherwise."""
LOOKS = 10
"""Looks at a trial on its way, of which a pruner may judge: at each tenth of its own length, so that schedules of
different lengths meet."""
COMMON = "common"
"""In a sweep's folder while it goes on: states that trials have in common."""
# Where the data and the weights lie, and what computes, may differ between the machines of one sweep.
_OF_A_MACHINE = ("dataset", "weights", "device", "precision")


class Plan(Config):
    """A sweep."""

    target: Target = "finetune"
    """What each trial does."""
    evaluate: dict[str, Any] | None = None
    """The EvaluateConfig whose fields are varied."""
    pretrain: dict[str, Any] | None = None
    """The PretrainConfig, likewise."""
    space: Space
    """Which fields, and over what."""
    sampler: Sampler = "grid"
    """How points are chosen."""
    pruner: Pruner = "none"
    """Whether trials that do badly on the way are stopped."""
    trials: Positive
    """Points; of a grid, its cells."""
    repeats: Positive = 1
    """Seeds per point; their mean is the objective."""
    objective: Objective = "knn"
    """Of a pretraining: the evaluation whose figure on val is the objective."""
    storage: Annotated[str, Field(min_length=1)] | None = None
    """A SQL database, its password left out. None: a journal file in the sweep's folder."""
    workers: Positive = 1
    """Processes on the machine that began it; any other number may go on with it."""

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

    def fingerprint(self, *, data: str, split: str, weights: str) -> str:
        """Hex over all that the winner rests on (`hpt.config.fingerprint`)."""
        method = {"target", "space", "sampler", "pruner", "trials", "repeats", "objective"}
        search = self.model_dump(mode="json", include=method)
        return fingerprint(self.base, data=data, split=split, weights=weights, search=search)

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
    """What may be asked of a sweep besides its space; None for what was not."""

    sampler: str | None = None
    """None: a grid where every dimension lists its values, else TPE."""
    pruner: str | None = None
    trials: int | None = None
    repeats: int | None = None
    objective: str | None = None
    storage: str | None = None
    workers: int | None = None


def make(
    target: Target, base: EvaluateConfig | PretrainConfig, space: Space, asked: PlanOptions = PlanOptions()
) -> Plan:
    """A checked plan.

    Raises:
        ConfigError: every problem of the space at once, or options that do not go together.
    """
    check_space(space, base.model_dump(mode="json"), MODELS[target])
    if isinstance(base, PretrainConfig) and base.processes > 1:
        raise ConfigError("a sweep's trials train in one process each", "drop --processes, and use --workers")
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
    """A sweep over the protocol's learning rates and schedules, in their preset's size."""
    space, _ = parse("finetune", config.preset, flags={})
    return make("finetune", config, space)


def configs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The finetunings that a sweep over the protocol's space comes to."""
    plan = protocol(config)
    found = [plan.config(cell) for cell in plan.space.cells()]
    return [each for each in found if isinstance(each, EvaluateConfig)]


def difference(there: Plan, here: Plan) -> list[str]:
    """What tells two plans apart, `field is A there, B here`; where data and weights lie and who computes play no
    part."""
    found = []
    kept, given = _comparable(there), _comparable(here)
    for key in dict.fromkeys([*kept, *given]):
        if kept.get(key) != given.get(key):
            found.append(f"{key} is {kept.get(key, 'not there')} there, {given.get(key, 'not there')} here")
    return found


def refuse_other(there: Plan, here: Plan, name: str, where: str) -> None:
    """A RunError with the difference when a sweep of that name was made by another configuration."""
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
    """The winner in words; a schedule says itself what it is."""
    return in_words(params).replace("schedule=", "")
