"""What a sweep varies, as data: fields of a configuration, each with the values or the range that it may take.

0.01,0.001          values
1e-4..1e-1          a range; learning rates are drawn on a logarithmic scale, other fields on a linear one
16..256:log         a range on a logarithmic scale (:linear for the other)
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError, model_validator

from hpt import toml_file
from hpt.config import PRESETS, Config, EvaluateConfig, LinearConfig, PretrainConfig, check, field_kind, fields, merge
from hpt.errors import ConfigError, did_you_mean

Target = Literal["finetune", "linear", "detection", "segmentation", "pretrain"]
Params = Mapping[str, Any]
"""A point of a space: values by name."""

MODELS: dict[Target, type[EvaluateConfig] | type[PretrainConfig]] = {
    "finetune": EvaluateConfig,
    "linear": EvaluateConfig,
    "detection": EvaluateConfig,
    "segmentation": EvaluateConfig,
    "pretrain": PretrainConfig,
}
SHORT: dict[Target, dict[str, str]] = {
    "finetune": {"lr": "finetune.lr", "schedule": "finetune.schedule"},
    "linear": {"lr": "linear.lrs"},
    "detection": {"lr": "detection.lr", "steps": "detection.steps"},
    "segmentation": {"lr": "segmentation.lr", "steps": "segmentation.steps"},
    "pretrain": {"lr": "optimizer.lr"},
}
"""Short names of the fields that are swept most; the others go by their dotted names."""
LOGARITHMIC = {"finetune.lr", "linear.lrs", "optimizer.lr", "moco_v3.lr", "detection.lr", "segmentation.lr"}
FIXED = {
    "kind": "name it after `hptctl sweep`",
    "seed": "--repeats draws seeds, and takes their mean",
    "preset": "sweep the fields that it sets",
    "dataset": "figures on other images do not compare",
    "metric": "other figures do not compare",
    "data.split_seed": "figures on other images do not compare",
    "device": "--workers shares the devices",
    "processes": "--workers shares the devices",
    "test": "the winner alone is tested",
}
"""Fields that no sweep may vary, and what to do instead."""
SCHEDULE = "finetune.schedule"
"""The field in which finetunings may differ and still share their first steps."""
MOST_CELLS = 1000
"""The largest grid whose cells are checked one by one before anything starts; of a larger one each value is."""

# The protocol's grid and, for the smaller presets, what a laptop can do of it. A probe's learning rates are tried in
# one pass by `hptctl evaluate linear` too, and a pretraining's one grid in the publication is its length.
_LRS = (0.01, 0.001)
PROTOCOL: dict[Target, dict[str, dict[str, tuple[Any, ...]]]] = {
    "finetune": {
        "paper": {"lr": _LRS, "schedule": ("2500-steps", "90-epochs")},
        "small": {"lr": _LRS, "schedule": ("500-steps", "10-epochs")},
        "tiny": {"lr": _LRS, "schedule": ("60-steps", "5-epochs")},
    },
    "linear": {
        preset: {"lr": LinearConfig.model_validate(changes["evaluate"].get("linear", {})).lrs}
        for preset, changes in PRESETS.items()
    },
    "detection": {
        "paper": {"lr": (0.005, 0.01, 0.02)},
        "small": {"lr": (0.01, 0.02, 0.04)},
        "tiny": {"lr": (0.02, 0.04)},
    },
    "segmentation": {
        "paper": {"lr": (0.003, 0.01, 0.03)},
        "small": {"lr": (0.01, 0.02, 0.04)},
        "tiny": {"lr": (0.02, 0.05)},
    },
    "pretrain": {
        "paper": {"steps": (50, 500, 5000, 50000)},
        "small": {"steps": (100, 300, 1000)},
        "tiny": {"steps": (25, 50, 100)},
    },
}


class Choice(Config):
    """One of some values; a value of a field that takes several (`linear.lrs`) is a list."""

    field: str
    """Dotted name of the field of the configuration."""
    values: tuple[Any, ...]
    """The values, at least one."""

    def encoded(self) -> tuple[Any, ...]:
        """The values as Optuna takes them: scalars; lists become JSON."""
        return tuple(json.dumps(value) if isinstance(value, list | tuple) else value for value in self.values)

    def ends(self) -> tuple[Any, ...]:
        """The values that must each fit the configuration."""
        return self.values

    def in_words(self) -> str:
        """The values as text: `0.01, 0.001`."""
        return ", ".join(short(value) for value in self.values)


class Range(Config):
    """Every number between two ends, which belong to it."""

    field: str
    """Dotted name of the field of the configuration."""
    low: float
    """The smallest value."""
    high: float
    """The largest value."""
    log: bool = False
    """Whether values are drawn on a logarithmic scale."""
    whole: bool = False
    """Whether only whole numbers are drawn."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        ends = f"{self.low:g}..{self.high:g}"
        if not self.low < self.high:
            raise ValueError(f"the range {ends} is empty: the smaller end comes first")
        if self.log and self.low <= 0:
            raise ValueError(f"the range {ends} has no logarithmic scale: it must start above 0")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(f"the range {ends} must have whole ends")
        return self

    def ends(self) -> tuple[Any, ...]:
        """The values that must each fit the configuration."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def in_words(self) -> str:
        """The range as text: `0.0001..0.1 (log)`."""
        return f"{self.low:g}..{self.high:g}" + (" (log)" if self.log else "")


class Space(Config):
    """The dimensions of a sweep by name, in order."""

    dimensions: dict[str, Choice | Range]
    """What each field may take, by its short name (`lr`) or dotted name."""

    def ranges(self) -> list[str]:
        """Names of the dimensions that are ranges rather than lists of values."""
        return [name for name, dimension in self.dimensions.items() if isinstance(dimension, Range)]

    def cells(self) -> list[dict[str, Any]]:
        """The cells of the grid of a space without ranges, in order. Cells that differ in their schedule alone lie far
        apart, so that the steps that they share are made before the second one begins."""
        slowest_first = dict(sorted(self.dimensions.items(), key=lambda named: named[1].field != SCHEDULE))
        values = [dimension.values for dimension in slowest_first.values() if isinstance(dimension, Choice)]
        cells = [dict(zip(slowest_first, cell, strict=True)) for cell in itertools.product(*values)]
        return [{name: cell[name] for name in self.dimensions} for cell in cells]

    def size(self) -> int:
        """The number of cells of the grid."""
        return math.prod(len(dimension.ends()) for dimension in self.dimensions.values())

    def apply(self, base: Mapping[str, Any], params: Params, model: type[BaseModel]) -> dict[str, Any]:
        """A configuration's values with those of a point over them."""
        values = dict(base)
        for name, value in params.items():
            field = self.dimensions[name].field
            if field == "augment.policy":  # its row decides what was not set by hand: it would lie below `base` else
                defaults = PretrainConfig.model_fields["augment"].default.model_dump(mode="json")
                kept = {k: v for k, v in values.get("augment", {}).items() if v != defaults[k]}
                values["augment"] = kept
            listed = field_kind(model, field) is tuple and not isinstance(value, list | tuple)
            values = merge(values, _nested(field, [value] if listed else value))
        return values


def in_words(params: Params) -> str:
    """A point as text: `lr=0.01 schedule=60-steps`."""
    return " ".join(f"{name}={short(value)}" for name, value in params.items())


def short(value: Any) -> str:
    """A value as tables show it: numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse(
    target: Target,
    preset: str,
    *,
    file: Path | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, str | None],
) -> tuple[Space, list[str]]:
    """The space that the options ask for, and those of `sets` that fix a field for every trial.

    `flags` are the options named after dimensions (`--lr`). A file is the whole space, but for what `sets` and `flags`
    add. Without one, the protocol's grid for the preset stands for what is not given: of a finetuning each of its
    dimensions that is neither swept nor fixed, of the others all of it where nothing is swept.

    Raises:
        ConfigError: every problem at once.
    """
    dimensions: dict[str, Choice | Range] = {}
    fixed: list[str] = []
    problems: list[str] = []

    def add(name: str, value: Any) -> None:
        try:
            found = _dimension(target, name, value)
        except ConfigError as error:
            problems.append(str(error))
        else:
            dimensions[_name(target, found.field)] = found

    for name, value in _read(file).items():
        add(name, value)
    for text in sets:
        name, equals, value = text.partition("=")
        if equals and _sweeps(target, name.strip(), value.strip()):
            add(name.strip(), value.strip())
        else:
            fixed.append(text)
    for name, given in flags.items():
        if given is not None:
            add(name, given)
    if problems:
        raise ConfigError("; ".join(problems))
    held = {text.partition("=")[0].strip() for text in fixed}
    if file is None and (target == "finetune" or not dimensions):
        for name, values in PROTOCOL[target][preset].items():
            field = SHORT[target].get(name, name)
            if name not in dimensions and field not in held:
                dimensions[name] = Choice(field=field, values=values)
    if not dimensions:
        raise ConfigError("the sweep's space is empty", "give a field several values, or a range: --set field=a,b")
    order = [name for name in SHORT[target] if name in dimensions]
    return Space(dimensions={name: dimensions[name] for name in dict.fromkeys([*order, *dimensions])}), fixed


def check_space(space: Space, base: Mapping[str, Any], model: type[EvaluateConfig] | type[PretrainConfig]) -> None:
    """Check that every value, both ends of every range and every cell of a grid fit the configuration.

    Raises:
        ConfigError: every problem at once.
    """
    problems = dict.fromkeys(_problems(space, base, model))
    if problems:
        raise ConfigError("; ".join(problems))


def _problems(
    space: Space, base: Mapping[str, Any], model: type[EvaluateConfig] | type[PretrainConfig]
) -> Iterator[str]:
    first = {name: dimension.ends()[0] for name, dimension in space.dimensions.items()}
    points = [first | {name: end} for name, dimension in space.dimensions.items() for end in dimension.ends()]
    if not space.ranges() and space.size() <= MOST_CELLS:
        points = space.cells()
    for point in points:
        try:
            check(model, space.apply(base, point, model))
        except ConfigError as error:
            yield str(error)


def _name(target: Target, field: str) -> str:
    return next((name for name, known in SHORT[target].items() if known == field), field)


def _sweeps(target: Target, field: str, value: str) -> bool:
    """Whether a `--set` gives several values. For a field that takes several, commas belong to one value."""
    if field not in fields(MODELS[target]) or value[:1] in {"[", "{"}:
        return False
    kind = field_kind(MODELS[target], field)
    if kind is tuple:
        return False
    return "," in value or (kind is not str and ".." in value)


def _dimension(target: Target, name: str, value: Any) -> Choice | Range:
    field = SHORT[target].get(name, name)
    known = fields(MODELS[target])
    if field not in known:
        raise ConfigError(f"unknown field '{field}'{did_you_mean(field, [*known, *SHORT[target]])}")
    if field in FIXED:
        raise ConfigError(f"a sweep cannot vary {field}: {FIXED[field]}")
    kind = field_kind(MODELS[target], field)
    number = float if kind is tuple else kind
    try:
        if isinstance(value, Mapping):
            return Range(field=field, **({"log": field in LOGARITHMIC, "whole": kind is int} | dict(value)))
        if isinstance(value, str) and (ends := re.fullmatch(r"(.*[^.])\.\.([^.:].*?)(?::(\w+))?", value)):
            return _range(field, number, *ends.groups())
        values = value if isinstance(value, list) else str(value).split(",")
        return Choice(field=field, values=_values(field, number, values))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name}: {_why(error)}") from None


def _why(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return str(first.get("ctx", {}).get("error", first["msg"]))


def _range(field: str, kind: type, low: str, high: str, scale: str | None) -> Range:
    if kind not in (int, float):
        raise ValueError(f"{low}..{high} is a range, but {field} does not take numbers: list its values")
    if scale not in (None, "log", "linear"):
        raise ValueError(f"unknown scale ':{scale}' of the range {low}..{high}: choose :log or :linear")
    log = field in LOGARITHMIC if scale is None else scale == "log"
    try:
        ends = float(low), float(high)
    except ValueError:
        raise ValueError(f"{low}..{high} is not a range of numbers: write 1e-4..1e-1, or 1e-4..1e-1:log") from None
    return Range(field=field, low=ends[0], high=ends[1], log=log, whole=kind is int)


def _values(field: str, kind: type, values: Iterable[Any]) -> tuple[Any, ...]:
    texts = [value.strip() if isinstance(value, str) else value for value in values]
    kept = [value for value in texts if value != ""]
    if not kept:
        raise ValueError("no value is given")
    out: dict[str, Any] = {}  # by their JSON, since a list cannot be a key
    for value in kept:
        if isinstance(value, str) and value.lower() in {"none", "null"}:
            value = None
        elif isinstance(value, str) and kind in (int, float, bool):
            value = _read_number(field, kind, value)
        out[json.dumps(value)] = value
    return tuple(out.values())


def _read_number(field: str, kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise ValueError(f"'{text}' is neither true nor false")
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number, as {field} requires") from None
    if kind is int and not number.is_integer():
        raise ValueError(f"'{text}' is not a whole number, as {field} requires")
    return int(number) if kind is int else number


def _read(file: Path | None) -> dict[str, Any]:
    """The dimensions of a space file by name.

    A line is `lr = [0.1, 0.01]`, `lr = "0.01..0.1"` or `lr = {low = 0.01, high = 0.1, log = true}`; tables nest.
    """
    if file is None:
        return {}
    document = toml_file.read(file, "space file", "check --space")

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, Mapping) and not {"low", "high"} & set(value):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(walk(document, ""))


def _nested(field: str, value: Any) -> dict[str, Any]:
    for part in reversed(field.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]  # a field has one part at least
