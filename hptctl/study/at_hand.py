"""The base of a study that takes the best at hand: real weights, or one of the user's own, or a toy.

It is chosen once, by the first `run`, and kept in the study's folder: a study that goes on starts from the same base,
whatever has been trained or fetched since.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hpt.data.embedded import TOY, is_toy
from hpt.data.names import find, name_of
from hpt.errors import ConfigError, DataError, WeightsError
from hpt.files import write_text
from hptctl import console, runs
from hptctl.runs import Run
from hptctl.study.definition import Study

BEST_AT_HAND = "best-at-hand"
"""What a study names in place of weights."""
REAL = {"gpu": "moco-v2-800ep", "cpu": "imagenet-supervised-resnet18"}
"""The known weights that suit a machine: a CPU does not bear a ResNet-50."""
KEPT = "base.json"
"""In a study's folder."""


@dataclass(frozen=True)
class Choice:
    """The base that a study starts from."""

    weights: str
    """As `--weights` names it, or the name of a base of the study."""
    why: str
    toy: bool = False
    """Whether it is pretrained by the study itself, so that its figures are worth nothing."""

    def in_words(self) -> str:
        """A line for the user; the banner stands on one of its own."""
        return f"base: {self.weights}, {self.why} (--weights takes another)" + (f"\n{TOY}" if self.toy else "")


Kind = Literal["gpu", "cpu"]
"""What a machine computes on."""


def choose(study: Study, *, fetch: bool, on: Kind | None = None) -> Choice | None:
    """The base that a study has begun with, or else the best at hand; None for a study that names its weights.

    Only with `fetch` is anything downloaded; without it the choice is what `fetch` would try first. `on` is what the
    study computes on, where that is not this machine.

    Raises:
        ConfigError: nothing is at hand, and the study has no base of its own.
    """
    if not any(BEST_AT_HAND in part.weights for part in study.parts()):
        return None
    if (kept := _kept(study)) is not None:
        return kept
    return _real(study, fetch=fetch, on=on) or _own(study) or _toy(study)


def settled(study: Study, choice: Choice | None) -> Study:
    """The study with the chosen base in place of the best at hand."""
    if choice is None:
        return study

    def named(weights: Any) -> tuple[str, ...]:
        return tuple(choice.weights if each == BEST_AT_HAND else each for each in weights)

    grids = tuple(grid | ({"weights": named(grid["weights"])} if "weights" in grid else {}) for grid in study.grids)
    return study.model_copy(update={"weights": named(study.weights), "grids": grids})


def keep(run: Run, choice: Choice | None) -> None:
    """Write down what a study starts from, in its folder."""
    if choice is not None and not (run.path / KEPT).exists():
        write_text(run.path / KEPT, json.dumps(asdict(choice)))


def _kept(study: Study) -> Choice | None:
    """What this study began with, here and on these images; a study that has grown since is the same one."""
    for run in reversed(runs.all_runs()):
        spec, file = run.spec(), run.path / KEPT
        if spec.kind != "study" or not file.exists():
            continue
        if (spec.config["name"], tuple(spec.config["datasets"])) == (study.name, study.datasets):
            return Choice(**json.loads(file.read_text(encoding="utf-8")))
    return None


def _real(study: Study, *, fetch: bool, on: Kind | None) -> Choice | None:
    """Published weights that suit the machine, in the cache or to be fetched; None where they cannot be fetched."""
    from hpt.known_weights import KNOWN, locate

    kind = on or kind_here(str(study.set.get("device", "auto")))
    name = REAL[kind]
    size = f"real weights that suit a {kind.upper()}"
    if KNOWN[name].path.exists():
        return Choice(name, f"{size}, in the cache")
    if not fetch:
        return Choice(name, f"{size}, which a run fetches first; if that fails, a base of your own, or a toy")
    try:
        with console.Display() as display:
            locate(name, progress=display.progress, patient=False)
    except WeightsError as error:
        console.note(f"note: {name} is not to be had ({error.what}): the study takes another base")
        return None
    return Choice(name, f"{size}, fetched for this study")


def kind_here(device: str) -> Kind:
    """What a device of this machine is."""
    from hpt.processes import choose_device

    return "cpu" if choose_device(device).type == "cpu" else "gpu"


def _own(study: Study) -> Choice | None:
    """The user's newest pretraining on other images than the study's."""
    targets = set()
    for dataset in study.datasets:
        try:
            targets.add(name_of(find(dataset)))
        except DataError:  # which is said of its cells
            continue
    names = {base.name for base in study.bases}
    for run in reversed(runs.all_runs()):
        spec, status = run.spec(), run.status()
        if spec.kind != "pretrain" or status.state != "finished" or run.name in names or runs.is_trial(run):
            continue
        parent = runs.find(spec.parent) if spec.parent else None
        if parent is not None and parent.spec().config.get("name") == study.name:
            continue
        if is_toy(spec.tags.dataset or ""):  # a toy, whoever made it
            continue
        if spec.tags.strategy in {"target", "hpt"} and spec.tags.dataset not in targets and run.backbone.exists():
            return Choice(run.name, f"your newest pretraining on other images ({spec.tags.dataset})")
    return None


def _toy(study: Study) -> Choice:
    """The base that the study pretrains itself."""
    if not study.bases:
        raise ConfigError(f"the study '{study.name}' has no base of its own, and none is at hand", "give --weights")
    first = study.bases[0]
    return Choice(first.name, f"a toy that the study pretrains on {first.dataset}: no other base is at hand", toy=True)
