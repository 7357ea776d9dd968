"""What a run's folder records: `run.json` (what the run is), `status.json` (how it goes), and the keys of both.

Tags and facts are stored as text by plain names, in the folder and as MLflow's tags alike, so that a reader can filter
by `tags.strategy = "hpt"`. In the program they are typed: whoever writes or reads one names an attribute, which the
type check knows. What another version recorded besides is kept as it is, and named (`unknown`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_serializer, model_validator
from pydantic_core import to_json

from hpt.errors import RunError

Kind = Literal["pretrain", "linear", "knn", "finetune", "detection", "segmentation", "sweep", "study"]
State = Literal["created", "running", "finished", "failed", "interrupted", "killed", "pruned"]
T = TypeVar("T")
R = TypeVar("R", bound="Recorded")
Channels = Annotated[
    tuple[float, ...],
    BeforeValidator(lambda value: tuple(map(float, value.split())) if isinstance(value, str) else value),
]


class Recorded(BaseModel):
    """Values that are stored as text, by declared names; None is what was not recorded.

    A dictionary `name` is stored as one value for each of its keys, `name_<key>`.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """What this program records itself.

        Raises:
            KeyError: a name is not declared.
        """
        if unknown := [key for key in values if not cls.declares(key)]:
            raise KeyError(f"{cls.__name__} has no field for {', '.join(unknown)}")
        return cls.model_validate(values)

    @classmethod
    def among(cls, values: Mapping[str, str]) -> Self:
        """What is declared here of values that have others among them.

        Raises:
            ValueError: one of them is not of its type.
        """
        return cls.model_validate({key: value for key, value in values.items() if cls.declares(key)})

    @classmethod
    @cache  # a store's runs have the same names, 10,000 times
    def declares(cls, key: str) -> bool:
        """Whether a value may be stored by this name."""
        return key in cls.model_fields or any(key.startswith(f"{name}_") for name in cls._dictionaries())

    @property
    def unknown(self) -> dict[str, str]:
        """What another version of the program recorded besides."""
        return {key: str(value) for key, value in (self.model_extra or {}).items()}

    def text(self) -> dict[str, str]:
        """As stored, in the order of the declaration; what is unknown comes last."""
        stored: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, dict):
                stored |= {f"{name}_{key}": _text(each) for key, each in value.items()}
            elif value is not None:
                stored[name] = _text(value)
        return stored | self.unknown

    @classmethod
    @cache
    def _dictionaries(cls) -> tuple[str, ...]:
        return tuple(name for name, field in cls.model_fields.items() if isinstance(field.default, dict))

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not (names := cls._dictionaries()):
            return given
        values = dict(given)
        for name in names:
            ours = {key: values.pop(key) for key in given if key.startswith(f"{name}_")}
            if ours:
                values[name] = {key.removeprefix(f"{name}_"): value for key, value in ours.items()}
        return values

    @model_serializer
    def _as_text(self) -> dict[str, str]:
        return self.text()


class Tags(Recorded):
    """What a run is, known before it starts."""

    dataset: str | None = None
    """Name of the dataset; of a study, all of them."""
    seed: int | None = None
    preset: str | None = None
    backbone: str | None = None
    image_size: int | None = None
    """Side of a view, pixels."""
    version: str | None = None
    """Of the program."""
    commit: str | None = None
    """Of the program's source, where it runs from a checkout."""
    weights: str | None = None
    """What the run starts from or evaluates, as it was named."""
    weights_file: str | None = None
    """The file that this name stood for."""
    strategy: str | None = None
    """Of the pretraining itself, or of the one behind the backbone under test; `weights` for a file without a run."""
    steps: int | None = None
    """Pretraining steps behind the backbone; 0 for `base` and for a file without a run."""
    of_steps: int | None = None
    """The length of the pretraining, where the backbone under test was kept on its way."""
    pretrain_dataset: str | None = None
    """Dataset of the pretraining behind the backbone under test."""
    pretrain_seed: int | None = None
    """Its seed."""
    trial: int | None = None
    """Number of the sweep's trial that the run is, or belongs to."""


class Facts(Recorded):
    """What a run found on its way."""

    data_fingerprint: str | None = None
    """Hash of the images, their names and labels."""
    split_fingerprint: str | None = None
    """Hash of which image is in which split."""
    split_counts: str | None = None
    """`train=1260 val=180 test=360`"""
    quarantined: int | None = None
    """Images that could not be read and were left out."""
    mean: Channels | None = None
    """Mean of the train images by channel, in [0, 1]: what views are normalised by."""
    std: Channels | None = None
    """Standard deviation, likewise."""
    pixels: str | None = None
    """How files became pixels, where not plainly: channels, intensity windows, bits."""
    images: int | None = None
    """Images that a pretraining sees."""
    streamed: str | None = None
    """How a pretraining streamed them, and what `mean` and `std` are of then; None where they came from the cache."""
    hardware: str | None = None
    """What the run computed on."""
    precision: str | None = None
    """What it computed in, fp32 or bf16, whatever was asked for."""
    near_copies: int | None = None
    """Of an evaluation: the test images that are near copies of images pretrained on, where it was allowed all the
    same."""
    weights_sha256: str | None = None
    """Of the weights file that the run started from or evaluated."""
    fingerprint: str | None = None
    """Hash of all that the result rests on (`hpt.config.fingerprint`)."""
    energy_of: str | None = None
    """What the energy was counted of."""
    backbone_sha256_at: dict[int, str] = {}
    """Of the backbones that a pretraining kept on its way, by steps."""
    method: str | None = None
    """What pretrained a backbone that is no plain ResNet: `moco-v2` or `moco-v3`."""
    best_step: int | None = None
    """Of the look that the pretraining favours."""
    best_by: str | None = None
    """The figure that it was favoured by."""
    best_figure: float | None = None
    kept_step: int | None = None
    """The steps behind the run's backbone, where that is the favoured one."""
    worse_at: int | None = None
    """The step at which a pretraining ended because it had fallen below its base."""
    base_figure: float | None = None
    """The base's own figure then, and its noise, by which it was judged."""
    base_noise: float | None = None
    backbone_sha256: str | None = None
    """Of the run's backbone."""
    metric: str | None = None
    """The headline figure of an evaluation, by which val chose."""
    labels: str | None = None
    """Training labels asked for: `all`, `1000`, `10%`, `5-per-class`."""
    labels_used: int | None = None
    labels_fingerprint: str | None = None
    """Hash of the names of the images whose labels were used."""
    chosen: str | None = None
    """What val chose, in words."""
    shared_steps: int | None = None
    """Steps of a finetuning that another one of its sweep had made."""
    chosen_steps: str | None = None
    """Of a linear probe: the step at which each rerun was best on val."""
    tried: str | None = None
    """Of a linear probe: the learning rates and their figures on val."""
    lr_at_edge: str | None = None
    """Of a linear probe whose best learning rate is the smallest (`low`) or the largest (`high`) that was tried."""
    val_images: int | None = None
    val_left_out: str | None = None
    """Classes that a figure on val leaves out, for want of images with and without them."""
    test_images: int | None = None
    test_left_out: str | None = None
    winner: str | None = None
    """Of a sweep: the run that val chose."""
    seeds: int | None = None
    """Of a sweep: the seeds that its figures are means of, where there are several."""

    def images_of(self, split: str) -> int | None:
        """Images of a split that was evaluated."""
        return {"val": self.val_images, "test": self.test_images}[split]

    def left_out(self, split: str) -> str | None:
        """Classes that a split's figures leave out."""
        return {"val": self.val_left_out, "test": self.test_left_out}[split]


class Document(BaseModel):
    """A file of a run's folder; fields that another version of the program wrote are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def unknown(self) -> tuple[str, ...]:
        """The names of such fields."""
        return tuple(self.model_extra or ())

    def stored(self) -> str:
        """As the file has it.

        Tags and facts become text here and not in pydantic's serializer, which would call a signal that comes in the
        middle of it a fault of the program.
        """
        fields = {key: value.text() if isinstance(value, Recorded) else value for key, value in self}
        return to_json(fields, indent=1, inf_nan_mode="null").decode()


class Spec(Document):
    """`run.json`: what the run is. Nothing in it changes once the run has started."""

    kind: Kind
    name: str
    experiment: str
    created: float
    command: str
    config: dict[str, Any]
    source: str | None = None
    """Name of the pretraining whose backbone the run starts from or evaluates."""
    source_folder: str | None = None
    """Its folder."""
    parent: str | None = None
    """Name of the sweep that the run is a trial of, or of the study that asked for it."""
    tags: Tags = Tags()
    log_backbone: bool = False
    """Store `backbone.safetensors` in MLflow too."""


class Status(Document):
    """`status.json`: how the run goes."""

    state: State = "created"
    pid: int = 0
    host: str = ""
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    """One line: why it failed or stopped."""
    exit_code: int = 0
    results: dict[str, float] = {}
    """The figures that the run ended with."""
    facts: Facts = Facts()


def merged(*records: R) -> R:
    """Records as one; what a later one has wins."""
    first, *_ = records
    values: dict[str, str] = {}
    for record in records:
        values |= record.text()
    return type(first).model_validate(values)


def recorded(value: T | None, what: str) -> T:
    """A value that the runs of this version have.

    Raises:
        RunError: the run has not recorded it.
    """
    if value is None:
        raise RunError(f"the run has not recorded {what}", "make it again with this version of hptctl")
    return value


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{each:.4f}" for each in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
