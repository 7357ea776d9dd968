"""A study as data: a grid of pretrainings and of evaluations, and the cells that it comes to.

A cell is one run: a pretraining, or the evaluation of a backbone. Where prefixes are shared, one pretraining feeds the
cells of several lengths with the backbones that it keeps on its way.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain, count, product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from hpt import toml_file
from hpt.config import (
    DEFAULT_WEIGHTS,
    UNTRAINED,
    Config,
    EvaluateConfig,
    Policy,
    Pooling,
    Preset,
    PretrainConfig,
    Seed,
    check,
    fields,
    merge,
    resolve,
)
from hpt.errors import ConfigError, did_you_mean
from hpt.strategies import STRATEGIES, StrategyName
from hptctl.cluster.settings import TABLE, Cluster
from hptctl.format import weights_name

Length = Annotated[int, Field(ge=1)]
INHERITED = {"backbone", "pooling", "image_size", "preset", "device", "precision", "data"}
"""What an evaluation takes over from the pretraining before it."""
OF_THE_GRID = {
    "strategy": "strategies",
    "dataset": "datasets",
    "weights": "weights",
    "steps": "steps",
    "seed": "seeds",
    "share": "shares",
    "preset": "preset",
    "kind": "evaluations",
    "labels": "evaluations",
    "save_at": "prefixes",
    "keep_best": "prefixes",
    "augment.policy": "policies",
    "test": "evaluations",
}
"""Fields of configurations that the grid decides, and the field of the study that decides each."""
CHOSEN = {"finetune", "sweep"}
"""Evaluations of the one length that the linear probes choose, with `lengths = "best-by-linear"`."""
OPTIONS = {
    "datasets": "--dataset",
    "weights": "--weights",
    "steps": "--steps",
    "seeds": "--seeds",
    "preset": "--preset",
}
"""Fields of the study that the command line can replace, and by which option."""


class Base(Config):
    """A base that the study pretrains itself and that `weights` may name: a source between the base and the target."""

    name: str
    dataset: str
    """The dataset that it is pretrained on."""
    strategy: StrategyName = "hpt"
    """The strategy of its pretraining."""
    weights: str | None = None
    """What it starts from; None for MoCo-v2's weights after 800 epochs, and for random weights with `target`."""
    steps: Length | None = None
    """Its length; None for the preset's."""


class StudyEvaluation(Config):
    """One way to evaluate every backbone of the grid."""

    kind: Literal["linear", "knn", "finetune", "sweep", "detection", "segmentation"]
    """How it evaluates; `sweep` finetunes at the protocol's learning rates and schedules, of which val chooses."""
    labels: str | None = None
    """Training labels used: `all`, a number, `10%` or `5-per-class`; None for the evaluation's default."""
    dataset: str | None = None
    """The dataset to evaluate on; None for that of the pretraining."""


class Reference(Config):
    """Weights that are evaluated as they are, beside the study's own backbones: does pretraining beat them?"""

    weights: str
    """Their name: `timm:NAME`, `hf-hub:ORG/NAME`, a known base, a run or a file."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """The side of their views in pixels; None for that of the study's own backbones."""
    pooling: Pooling = "own"
    """How a transformer's tokens become one feature."""


def _by_name(given: Any, field: str = "kind") -> Any:
    return [{field: each} if isinstance(each, str) else each for each in given] if isinstance(given, list) else given


def _by_strategy(given: Any) -> Any:
    return dict.fromkeys(STRATEGIES, given) if isinstance(given, list | tuple) else given


class Study(Config):
    """A grid of runs. Every combination of the fields that list several values is a cell."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
    about: str = ""
    """What the study asks, in one line."""
    datasets: tuple[str, ...] = ()
    """The target datasets: names in the catalogue, folders, zip files or lists."""
    strategies: tuple[StrategyName, ...] = ("base", "target", "hpt", "hpt-bn")
    weights: Annotated[tuple[str, ...], Field(min_length=1)] = (DEFAULT_WEIGHTS,)
    """The bases: known weights, files, runs, or names of `bases`."""
    bases: tuple[Base, ...] = ()
    """Bases that the study pretrains itself; one that no pretraining starts from is left out."""
    steps: Annotated[dict[StrategyName, tuple[Length, ...]], BeforeValidator(_by_strategy)] = Field(default={})
    """Lengths of pretraining, for all strategies or by strategy; the preset's length where none is given."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Seeds of the pretrainings and evaluations."""
    policies: Annotated[tuple[Policy, ...], Field(min_length=1)] = ("baseline",)
    """Augmentation policies of the pretrainings."""
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (1.0,)
    """Shares of the pretraining images that are used."""
    references: Annotated[tuple[Reference, ...], BeforeValidator(partial(_by_name, field="weights"))] = ()
    """Weights that are evaluated as they are, once for each dataset, seed and evaluation, as arms of their own."""
    evaluations: Annotated[tuple[StudyEvaluation, ...], BeforeValidator(_by_name)] = (StudyEvaluation(kind="linear"),)
    floor: bool = True
    """Whether a network that was never trained is evaluated too, once for each dataset, seed, evaluation and backbone:
    what lies below it has learned nothing. Sweeps are left out, since their floor costs as much as they do."""
    equal_length: bool = True
    """Whether `target` is also trained for as long as a base of the study and `hpt` together, where that base is a
    `target` itself: `hpt` has then no more training than what it is compared with."""
    preset: Preset = "paper"
    prefixes: Literal["shared", "separate"] = "shared"
    """How several lengths are run. `shared` runs the longest, and takes the backbones that it kept on its way for the
    others, although their learning rate had not decayed yet; `separate` is a run for each, as in the publication."""
    lengths: Literal["all", "best-by-linear"] = "all"
    """The lengths of pretraining that are finetuned: `best-by-linear` takes of each strategy the one whose linear probe
    (the first of `evaluations`) is best on val. Other evaluations are of all lengths."""
    set: dict[str, Any] = Field(default={})
    """Values of fields of the pretrainings' and evaluations' configurations."""
    cluster: Cluster = Field(default=Cluster(), exclude=True)
    """What its jobs ask of a cluster, where they go to one: no part of what the study is."""
    grids: tuple[dict[str, Any], ...] = ()
    """Several grids in one study, each given by the fields in which it differs from the study itself."""

    def parts(self) -> tuple[Study, ...]:
        """The study's grids, each as a study of one grid; the study itself where it has none."""
        if not self.grids:
            return (self,)
        common = self.model_dump(exclude={"grids"})
        return tuple(check(Study, common | grid) for grid in self.grids)

    @property
    def probe(self) -> StudyEvaluation | None:
        """The linear probe by which lengths are chosen."""
        return next((each for each in self.evaluations if each.kind == "linear"), None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [base.name for base in self.bases]
        if len({*names}) < len(names):
            raise ValueError("two of the study's bases have the same name")
        if UNTRAINED in names:
            raise ValueError(f"a base cannot be called '{UNTRAINED}', which means a network that was never trained")
        if self.lengths == "best-by-linear" and self.probe is None:
            raise ValueError("lengths = 'best-by-linear' takes a linear probe among the evaluations")
        return self


@dataclass(frozen=True)
class Backbone:
    """What a cell starts from or evaluates: the outcome of a pretraining of the study."""

    cell: str
    step: int | None = None
    """Steps after which the backbone was kept; None for the backbone at the end of the run."""


@dataclass(frozen=True)
class Candidate:
    """A backbone that may be the one of a cell, and the cell of its linear probe, whose figure on val decides."""

    backbone: Backbone
    probe: str


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    id: str
    config: PretrainConfig | EvaluateConfig
    """The configuration, complete but for `weights` where they come from another cell."""
    backbone: Backbone | None = None
    """The backbone of another cell that `config.weights` stands for, if any."""
    among: tuple[Candidate, ...] = ()
    """What that backbone is chosen from, where val does so as the study goes; of two equal ones the first is taken."""
    sweep: bool = False
    """Whether the cell is a sweep of finetunings instead of a single one."""
    feeds: int = 1
    """Number of the grid's lengths that a pretraining serves."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The cells that have to be done before this one."""
        return (self.backbone.cell,) if self.backbone else tuple(each.probe for each in self.among)

    @property
    def kind(self) -> str:
        return "sweep" if self.sweep else getattr(self.config, "kind", "pretrain")


def load(text: str, changes: Mapping[str, Any] | None = None, sets: Iterable[str] = ()) -> Study:
    """Load a study by its file (TOML) or by the name of a built-in one; `changes` and `sets` override what it says.

    Raises:
        ConfigError: no such study, or one with unknown fields or values: all problems at once.
    """
    builtin = builtins()
    path = Path(text)
    if text in builtin:
        values = tomllib.loads(builtin[text])
    elif path.suffix == ".toml" or path.is_file():
        values = toml_file.read(path, "the study", "check the path")
    else:
        raise ConfigError(
            f"there is no study '{text}'{did_you_mean(text, builtin)}",
            f"name a TOML file, or one of {', '.join(builtin)}",
        )
    values = {"name": re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "study"} | values
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    values |= given
    if isinstance(grids := values.get("grids"), list):  # what else it may be, `check` refuses
        values["grids"] = [
            {k: v for k, v in grid.items() if k not in given} if isinstance(grid, dict) else grid for grid in grids
        ]
    in_file = values.get("set", {})
    on_line: dict[str, str] = {}
    for each in sets:
        key, equals, value = each.partition("=")
        if not equals:
            raise ConfigError(f"--set {each!r} is not of the form field=value", "for example --set linear.steps=1000")
        on_line[key.strip()] = value.strip()
    if isinstance(grids, list) and any(isinstance(grid, dict) and TABLE in grid for grid in grids):
        raise ConfigError(f"a grid of the study {text} has a [{TABLE}] of its own", "give the study one for all")
    study = check(Study, values | {"set": in_file | on_line if isinstance(in_file, dict) else in_file})
    study.parts()
    if taken := [key for key in study.set if key in OF_THE_GRID]:
        where = {key: "--set" if key in on_line else "[set]" for key in taken}
        raise ConfigError(
            "; ".join(f"{where[key]} {key} is not for a study, whose cells differ in it" for key in taken),
            f"use {', '.join(dict.fromkeys(_instead(key, on_line.get(key)) for key in taken))}",
        )
    known = ({*fields(PretrainConfig)} | {*fields(EvaluateConfig)}) - OF_THE_GRID.keys()
    if odd := [key for key in study.set if key not in known]:
        raise ConfigError("; ".join(f"unknown field '{key}'{did_you_mean(key, known)}" for key in odd))
    return study


def _instead(key: str, value: str | None) -> str:
    """What decides a field of the grid, in place of the `--set` that gave it a value or of the file's own `set`."""
    field = OF_THE_GRID[key]
    if value is None:
        return field
    return f"{OPTIONS[field]} {shlex.quote(value)}" if field in OPTIONS else f"{field} in the study's file"


def builtins() -> dict[str, str]:
    """The studies that come with the program: the TOML of each by its name."""
    folder = resources.files("hptctl.study") / "builtin"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {f.name.removesuffix(".toml"): f.read_text(encoding="utf-8") for f in files if f.name.endswith(".toml")}


def cells(study: Study, backbone_of: Callable[[str], str]) -> list[Cell]:
    """Every run of the study, each after those that it needs; `backbone_of` tells the architecture of weights.

    Raises:
        ConfigError: the grid is empty, or a cell that no run would accept.
    """
    made: dict[str, Cell] = {}
    for part in study.parts():
        _Grid(part, made, backbone_of).add()
    return list(made.values())


@dataclass(frozen=True)
class _Point:
    """What the pretrainings at one point of a grid have in common, whatever their strategy and length."""

    dataset: str
    weights: str
    policy: Policy
    share: float
    seed: int


class _Grid:
    """One grid, whose cells are added to those that are made already."""

    def __init__(self, study: Study, made: dict[str, Cell], backbone_of: Callable[[str], str]) -> None:
        self.study, self.made, self.backbone_of = study, made, backbone_of

    def add(self) -> None:
        """Make the cells: the bases, then each pretraining and the evaluations of it, so that a study which is stopped
        leaves figures of what it has pretrained.

        Raises:
            ConfigError: the grid is empty, or a cell that no run would accept.
        """
        study = self.study
        if not study.datasets:
            raise ConfigError(f"the study '{study.name}' has no dataset", "give --dataset, or datasets in its file")
        for base in study.bases:
            if any(base.name in weights for weights in (study.weights, [b.weights for b in study.bases])):
                self.made[base.name] = self._base(base)
        choose = study.lengths == "best-by-linear"
        served: dict[tuple[str, str], list[tuple[str, Backbone]]] = {}
        for place in product(study.datasets, study.weights, study.policies, study.shares, study.seeds):
            point = _Point(*place)
            for strategy in study.strategies:
                for cell, lengths in [*self._pretrainings(strategy, point), *self._equal_length(strategy, point)]:
                    # Once, since `target` starts from no weights and `base` knows no policy; another grid may have it.
                    made = self.made.setdefault(cell.id, cell)
                    if (cell.id, point.dataset) not in served and made.config != cell.config:
                        raise ConfigError(
                            f"two grids of the study '{study.name}' have different runs called '{cell.id}'",
                            "give both the same settings and lengths, or prefixes = 'separate'",
                        )
                    if (cell.id, point.dataset) not in served:
                        served[cell.id, point.dataset] = lengths
                        now = [each for each in study.evaluations if not (choose and each.kind in CHOSEN)]
                        self._add_evaluations(now, lengths, point.dataset, made.config)
        if choose:
            self._add_chosen(served)
        for pretraining, dataset in served:
            config = self.made[pretraining].config
            assert isinstance(config, PretrainConfig)
            for evaluation in study.evaluations:
                for reference in study.references:
                    self._add_reference(reference, evaluation, dataset, config)
                if study.floor and evaluation.kind != "sweep":
                    self._add_unpretrained(
                        evaluation, UNTRAINED, self._evaluated(evaluation, UNTRAINED, dataset, config)
                    )

    def _base(self, base: Base) -> Cell:
        flags = {"strategy": base.strategy, "dataset": base.dataset, "steps": base.steps}
        weights = base.weights or (DEFAULT_WEIGHTS if STRATEGIES[base.strategy].starts_from_weights else None)
        return self._pretraining(base.name, flags, weights)

    def _pretrainings(self, strategy: StrategyName, point: _Point) -> Iterator[tuple[Cell, list[tuple[str, Backbone]]]]:
        """The runs of one strategy, each with the names and backbones of the grid's lengths that it serves."""
        trains = STRATEGIES[strategy].trains != "running-statistics"
        lengths = sorted({*self.study.steps.get(strategy, ())}) if trains else []
        yield from self._of_lengths(strategy, point, lengths, shared=self.study.prefixes == "shared")

    def _equal_length(self, strategy: StrategyName, point: _Point) -> Iterator[tuple[Cell, list[tuple[str, Backbone]]]]:
        """The run of `target` that is as long as the base and the longest `hpt` together, always one of its own."""
        base = self.made.get(point.weights)
        if strategy != "target" or base is None or not self.study.equal_length:
            return
        own, hpt = base.config, self.study.steps.get("hpt", ())
        if isinstance(own, PretrainConfig) and own.strategy == "target" and "hpt" in self.study.strategies:
            preset = {"strategy": strategy, "dataset": point.dataset, "preset": self.study.preset}
            further = max(hpt) if hpt else resolve(PretrainConfig, flags=preset).steps
            yield from self._of_lengths(strategy, point, [own.steps + further], shared=False)

    def _of_lengths(
        self, strategy: StrategyName, point: _Point, lengths: list[int], *, shared: bool
    ) -> Iterator[tuple[Cell, list[tuple[str, Backbone]]]]:
        row = STRATEGIES[strategy]
        name = f"{strategy}-{_slug(point.dataset)}"
        if row.starts_from_weights and len(self.study.weights) > 1:
            name += f"-from-{_slug(point.weights)}"
        flags: dict[str, Any] = {"strategy": strategy, "dataset": point.dataset, "seed": point.seed}
        trains = row.trains != "running-statistics"
        if trains and point.policy != "baseline":
            name, flags["augment"] = f"{name}-{point.policy}", {"policy": point.policy}
        if point.share < 1:
            name, flags["share"] = f"{name}-{100 * point.share:g}pct", point.share
        name += f"-s{point.seed}"
        start = point.weights if row.starts_from_weights else None
        if shared and len(lengths) > 1:
            longest, earlier = lengths[-1], lengths[:-1]
            cell = self._pretraining(name, flags | {"steps": longest, "save_at": earlier}, start, feeds=len(lengths))
            yield cell, [(f"{name}@{step}", Backbone(cell.id, step if step != longest else None)) for step in lengths]
            return
        wanted: list[int | None] = [*lengths] or [None]
        for length in wanted:
            id = name if length is None else f"{name}@{length}"
            cell = self._pretraining(id, flags | {"steps": length}, start)
            yield cell, [(id, Backbone(cell.id))]

    def _pretraining(self, id: str, flags: Mapping[str, Any], weights: str | None, *, feeds: int = 1) -> Cell:
        base = self.made.get(weights) if weights else None
        inherited: dict[str, Any] = {}
        if base is not None:
            assert isinstance(base.config, PretrainConfig)
            inherited = {"backbone": base.config.backbone}
        elif weights is not None:
            inherited = {"backbone": self.backbone_of(weights)}
        given = {key: value for key, value in flags.items() if value is not None}
        own = {"weights": weights, "preset": self.study.preset}
        config = resolve(
            PretrainConfig, inherited=inherited, flags=merge(_nested(self.study, PretrainConfig), given, own)
        )
        return Cell(id, config, Backbone(base.id) if base else None, feeds=feeds)

    def _evaluation(
        self, evaluation: StudyEvaluation, name: str, backbone: Backbone, dataset: str, trained: PretrainConfig
    ) -> Cell:
        elsewhere = f"-on-{_slug(evaluation.dataset)}" if evaluation.dataset else ""
        config = self._evaluated(evaluation, f"the backbone of {name}", dataset, trained)
        return Cell(f"{_words(evaluation)}-{name}{elsewhere}", config, backbone, sweep=evaluation.kind == "sweep")

    def _add_evaluations(
        self,
        evaluations: Iterable[StudyEvaluation],
        lengths: Iterable[tuple[str, Backbone]],
        dataset: str,
        trained: PretrainConfig | EvaluateConfig,
    ) -> None:
        assert isinstance(trained, PretrainConfig)
        for name, backbone in lengths:
            for evaluation in evaluations:
                cell = self._evaluation(evaluation, name, backbone, dataset, trained)
                self.made[cell.id] = cell

    def _add_chosen(self, served: Mapping[tuple[str, str], list[tuple[str, Backbone]]]) -> None:
        """The finetunings of each strategy at the length that its linear probes will choose."""
        by_strategy: dict[tuple[str, str], list[tuple[str, Backbone]]] = {}
        for (_, dataset), lengths in served.items():
            for name, backbone in lengths:
                by_strategy.setdefault((name.partition("@")[0], dataset), []).append((name, backbone))
        probe = self.study.probe
        assert probe is not None
        for (strategy, dataset), lengths in by_strategy.items():
            config = self.made[lengths[0][1].cell].config
            assert isinstance(config, PretrainConfig)
            probes = [self._evaluation(probe, name, backbone, dataset, config).id for name, backbone in lengths]
            among = tuple(Candidate(backbone, id) for (_, backbone), id in zip(lengths, probes, strict=True))
            for evaluation in self.study.evaluations:
                if evaluation.kind in CHOSEN:
                    name = strategy if len(among) > 1 else lengths[0][0]
                    cell = self._evaluation(evaluation, name, among[0].backbone, dataset, config)
                    self.made[cell.id] = replace(cell, backbone=None, among=among) if len(among) > 1 else cell

    def _add_reference(
        self, reference: Reference, evaluation: StudyEvaluation, dataset: str, trained: PretrainConfig
    ) -> None:
        """Evaluate weights as they are, at the size and with the settings of a pretraining."""
        changes: dict[str, Any] = {"backbone": self.backbone_of(reference.weights), "pooling": reference.pooling}
        changes |= {} if reference.image_size is None else {"image_size": reference.image_size}
        config = self._evaluated(evaluation, reference.weights, dataset, trained, changes)
        self._add_unpretrained(evaluation, _slug(reference.weights), config)

    def _add_unpretrained(self, evaluation: StudyEvaluation, name: str, config: EvaluateConfig) -> None:
        """Evaluate what no pretraining of the study made: once for all of them that have these settings."""
        id = f"{_words(evaluation)}-{name}-{_slug(config.dataset)}-s{config.seed}"
        further = (f"{id}-{config.backbone}-{config.image_size}px-{number}" for number in count(2))
        for each in chain((id, f"{id}-{config.backbone}", f"{id}-{config.backbone}-{config.image_size}px"), further):
            if self.made.setdefault(each, Cell(each, config, sweep=evaluation.kind == "sweep")).config == config:
                return

    def _evaluated(
        self,
        evaluation: StudyEvaluation,
        weights: str,
        dataset: str,
        trained: PretrainConfig,
        changes: Mapping[str, Any] | None = None,
    ) -> EvaluateConfig:
        alone = {"processes": 1} if evaluation.kind == "sweep" else {}  # whatever the pretrainings have
        return resolve(
            EvaluateConfig,
            inherited=trained.model_dump(include=INHERITED) | dict(changes or {}),
            flags=_nested(self.study, EvaluateConfig)
            | alone
            | {"kind": "finetune" if evaluation.kind == "sweep" else evaluation.kind, "weights": weights}
            | {"dataset": evaluation.dataset or dataset, "labels": evaluation.labels, "seed": trained.seed},
        )


def _nested(study: Study, model: type[PretrainConfig] | type[EvaluateConfig]) -> dict[str, Any]:
    """The values that the study sets of a configuration, nested by section."""
    known = fields(model)
    out: dict[str, Any] = {}
    for key, value in study.set.items():
        if key in known:
            *parents, leaf = key.split(".")
            inner = out
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[leaf] = value
    return out


def _words(evaluation: StudyEvaluation) -> str:
    """An evaluation as a part of a cell's name."""
    return f"{evaluation.kind}-{evaluation.labels}" if evaluation.labels else evaluation.kind


_FILES = {".zip", ".csv", ".txt", ".tsv", ".pth", ".pt", ".safetensors"}


def _slug(text: str) -> str:
    """The name of a dataset or of weights as a part of a cell's name."""
    path = Path(weights_name(text))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem if path.suffix in _FILES else path.name)
