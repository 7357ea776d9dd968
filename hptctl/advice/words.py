"""What was measured, in sentences and tables; a page and a terminal say the same."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpt.evaluate.label_efficiency import Estimate, LabelCount
from hpt.metrics import in_words
from hpt.processes import Compute
from hptctl.advice.measured import Measured, Rung, Worth
from hptctl.format import count, energy, hours, interval, listed, percent, points, roughly, signed, thousands

UNKNOWN = "expected gain: unknown"
FROZEN = {"linear": "a linear head on frozen features", "knn": "nearest neighbours on frozen features"}
COLUMNS = (">labels", ">base", ">adapted", ">points (95 %)", ">base needs")


def answer(found: Measured) -> Iterator[str]:
    """What adaptation is worth, a line or two for each that was measured; else that it is unknown, and why."""
    if found.no_curves:
        yield f"{UNKNOWN}: {found.no_curves}"
    elif found.opened.base is None:
        yield f"{UNKNOWN}: there is no base at hand to measure it from"
    elif not found.worths:
        yield f"{UNKNOWN}: no adaptation to these images has been measured yet"
    for worth in found.worths:
        yield from sentences(found, worth)


def sentences(found: Measured, worth: Worth) -> Iterator[str]:
    """What one adaptation is worth in labels, or that no gain was seen."""
    assert found.curves is not None
    first, *_, every = found.curves.rungs
    name, gain = worth.backbone.name, worth.gain
    all_labels = f"all {thousands(every)} labels"
    size = f"{signed(gain.value)} points of {found.metric} ({interval(gain.low, gain.high)})"
    enough = labels_in_words(worth.enough, first, every)
    if worth.verdict == "none":
        yield f"{name}: no gain seen; with {all_labels} {size}"
    elif worth.verdict == "loss":
        yield f"{name} is a loss: with {all_labels} {size}; the base is as good with {enough}"
    else:
        yield (
            f"{name} is worth {saved_in_words(worth.enough, first, every)}: with {enough} it is as good as the base"
            f" with all {thousands(every)}"
        )
        yield f"With {all_labels}: {size}; for that the base would need more than all of them"


def saved_in_words(enough: LabelCount, first: int, every: int) -> str:
    """The labels that are not needed: `1,050 labels (880 to 1,140)`."""

    def saved(end: float) -> str:
        return thousands(max(0, every - _two_digits(min(max(end, first), every))))

    bound = "at least " if enough.value < first else "about "
    return f"{bound}{saved(enough.value)} labels ({saved(enough.high)} to {saved(enough.low)})"


def labels_in_words(
    labels: LabelCount, first: int, every: int, *, most: str = "more than {}", least: str = "{} or fewer"
) -> str:
    """A number of labels and its interval: `82 (50 to 140)`, `more than 1,260`, `35 or fewer`."""

    def end(value: float) -> str:
        if value == 0:
            return least.format(thousands(first))
        return most.format(thousands(every)) if math.isinf(value) else thousands(_two_digits(value))

    value, low, high = map(end, (labels.value, labels.low, labels.high))
    return value if low == high == value else f"{value} ({low} to {high})"


def _two_digits(labels: float) -> float:
    """A number of labels as it was interpolated, which tells no more: `1043.2` -> `1000`."""
    return round(labels, min(0, 1 - math.floor(math.log10(labels))))


def row(found: Measured, rung: Rung) -> tuple[str, str, str, str, str]:
    """A rung, by `COLUMNS`."""
    assert found.curves is not None
    first, *_, every = found.curves.rungs
    return (
        thousands(rung.labels),
        percent(rung.base.value),
        percent(rung.adapted.value),
        f"{signed(rung.gain.value)} ({interval(rung.gain.low, rung.gain.high)})",
        labels_in_words(rung.base_needs, first, every, most="> {}", least="≤ {}"),
    )


def base_row(found: Measured, rung: int) -> tuple[str, str]:
    """The base's figure at a rung, where there is no adaptation: labels, figure with its interval."""
    assert found.curves is not None
    return thousands(found.curves.rungs[rung]), estimate(found.curves.figure(found.reference, rung))


def estimate(figure: Estimate) -> str:
    """A figure and its interval: `71.4 % (68.0 to 74.9)`."""
    return f"{percent(figure.value)} ({points(figure.low)} to {points(figure.high)})"


def method(found: Measured) -> str:
    """How the curves were measured."""
    assert found.curves is not None
    heads = {
        "linear": "a ridge head on frozen features, its penalty by leave-one-out on the labels",
        "knn": f"{found.opened.config.knn.k} nearest neighbours on frozen features",
    }
    return (
        f"{in_words(found.metric)} on {count(found.curves.images, 'val image')}, by {heads[found.head]};"
        f" {count(found.draws, 'draw')} of the labels, the same for all; the base {found.how}"
    )


def caveats(found: Measured) -> Iterator[str]:
    """What the figures do not say, a line each."""
    if any(worth.backbone.run for worth in found.worths):
        yield (
            "Val's images were in the adaptation, without their labels; test images were left alone, and are for the"
            " last word"
        )
        yield "One pretraining each: intervals cover the chance in images and labels, not another seed's pretraining"
    if len(found.worths) > 1:
        yield "Each interval is of itself alone, and several adaptations are compared"
    if others := [each.name for each in found.opened.adapted if each.other_start]:
        yield f"Started from other weights than this base: {', '.join(others)}"
    if found.copies.across and found.curves is not None:
        yield "Copies across splits flatter every figure here"


def images(found: Measured) -> Iterator[tuple[str, str]]:
    """What the images say without labels: (what, in words)."""
    twice, dataset = found.copies, found.opened.dataset
    sizes = ", ".join(f"{thousands(len(rows))} {split}" for split, rows in dataset.splits.items())
    classes = f"; {count(len(dataset.classes), 'class', 'classes')}" if dataset.classes else "; no class labels"
    yield "images", f"{thousands(twice.images)} ({sizes}){classes}"
    near = "near copies not looked for" if twice.near is None else count(twice.near, "near copy", "near copies")
    across = f"{thousands(twice.across)} across splits"
    yield "copies", f"{count(twice.equal, 'equal file')}, {near}; {across}"
    if found.ranks:
        each = ", ".join(f"{name} {rank:.1f}" for name, rank in found.ranks.items())
        yield "effective rank", f"{each} (features of {count(found.ranked, 'image')})"
    if found.distance is not None:
        yield (
            "domain distance",
            f"{found.distance.mean:.3f} standard deviations between the base's BatchNorm means and those of"
            f" {count(found.distance.images, 'image')}; {found.distance.mean_of_halves:.3f} between two halves of them",
        )
    else:
        yield "domain distance", f"cannot be measured: {found.no_distance}"
    if found.dense:
        yield "targets", f"{listed(['boxes' if each == 'detection' else 'masks' for each in found.dense])}"


def costs(found: Measured) -> Iterator[tuple[str, str]]:
    """What each adaptation cost, and this measurement: (what, in words)."""
    for each in found.opened.adapted:
        if each.cost is None:
            yield each.name, "not known: it is no run"
            continue
        took = hours(each.cost.hours) or "time not known"
        spent = f", {energy(each.cost.watt_hours)}" if not math.isnan(each.cost.watt_hours) else ""
        where = f" on {each.cost.hardware.partition(', torch')[0]}" if each.cost.hardware else ""
        yield (
            each.name,
            f"{count(each.cost.steps, 'step')}, {roughly(each.cost.images)} images, {took}{spent}{where}",
        )
    heads = " and fitting heads" if found.curves is not None else ""
    if found.opened.base is not None:
        yield "this measurement", f"{hours(found.seconds / 3600)}: embedding the images{heads}"


def provenance(found: Measured) -> Iterator[tuple[str, str]]:
    """What the figures rest on: (what, by which numbers)."""
    dataset, config = found.opened.dataset, found.opened.config
    yield "images", f"{dataset.name}, fingerprint {dataset.fingerprint}, split {dataset.split_fingerprint}"
    if found.curves is not None:
        yield "labels", f"drawn by seeds {config.seed} to {config.seed + found.draws - 1}"
    yield "views", f"{config.image_size} px, test views, {config.backbone}, {Compute.of(config).precision}"
    for each in (found.opened.base, *found.opened.adapted):
        if each is not None:
            yield each.name, f"sha256 {each.sha256}"
