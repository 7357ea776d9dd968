"""What each process of a run executes: read `run.json`, load the data, call the library, record how it ended.

One process runs in the command itself; several are started as `accelerate launch -m hptctl.worker RUN-FOLDER`, which
also suits people with a launcher of their own (`torchrun`, `srun`): each process joins those that it was started with.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpt import cores, floor, remarks, weights
from hpt.callbacks import RESUMABLE, Callbacks, Log
from hpt.config import DENSE, UNTRAINED, DataConfig, EvaluateConfig, PretrainConfig, fingerprint
from hpt.data import thumbnails
from hpt.data.dataset import Dataset, load, load_streamed
from hpt.data.images import Images
from hpt.data.stream import StreamedImages
from hpt.data.thumbnails import Matches
from hpt.errors import ConfigError, HptError, Interrupted, RunError
from hpt.files import replacing, write_text
from hpt.pretrain import pretrain
from hpt.processes import Compute, Processes
from hptctl import __version__, collector, console, deadline, environment
from hptctl.console import Display
from hptctl.runs import Run, ancestry
from hptctl.runs.children import end_with_command
from hptctl.runs.energy import Meter
from hptctl.runs.record import Facts, merged, recorded
from hptctl.runs.signals import COMMAND_VARIABLE, held_back, raise_on_signals
from hptctl.runs.weights import absent, find_weights, read_weights
from hptctl.secrets import mask_tracebacks
from hptctl.tracking import tracked

# What evaluates is imported where a run does: a pretraining takes its first step 0.2 s sooner.
if TYPE_CHECKING:
    from hpt.dense.dataset import DenseDataset
    from hpt.dense.views import Normalisation
    from hpt.evaluate import Common

PRETRAINED_ON = "pretrained-on.npy"
"""In a run's folder: digests of the files that it saw, 16 bytes each, whatever their names and places."""
PRETRAINED_ON_THUMBNAILS = "pretrained-on-thumbnails.npy"
"""And thumbnails of the images, 256 bytes each, by which copies in other files are known."""
FEATURES = "features.npz"
"""What `--features` leaves in the folder that it was given."""
EXAMPLES = 3
"""The number of images that a message names."""


class Watcher(Protocol):
    """Follows a run that is one of many: the trial of a sweep."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """As the run logs them; may raise Pruned, which ends the run."""

    def progress(self, done: int, total: int, what: str) -> None:
        """As the run makes it."""

    def stop(self, seconds: float) -> int:
        """The number of a signal that asks the run to stop, rather than so many seconds later; or 0."""


class Materials:
    """Datasets, read once by a process that does many runs on them, and weights."""

    def __init__(self, common: Callable[[EvaluateConfig], Common | None] = lambda _: None) -> None:
        self.common = common
        """What a finetuning has in common with other runs."""
        self._datasets: dict[tuple[str, DataConfig, int], Dataset] = {}
        self._dense: dict[tuple[str, str, DataConfig, int], DenseDataset] = {}
        self._compared: dict[tuple[Path, int, bytes], Matches] = {}
        self._untrained: dict[str, dict[str, Tensor]] = {}

    def dataset(self, config: PretrainConfig | EvaluateConfig, display: Display) -> Dataset:
        """The dataset of a run, decoded for its image size."""
        if isinstance(config, EvaluateConfig) and config.kind in DENSE:
            return self.dense(config, display).dataset
        streamed = isinstance(config, PretrainConfig) and config.data.stream
        settings = config.data if streamed else config.data.model_copy(update={"stream": False})
        key = config.dataset, settings, config.data.side(config.image_size)
        if key not in self._datasets:
            read = load_streamed if streamed else load
            self._datasets[key] = read(key[0], key[1], side=key[2], progress=display.progress)
        return self._datasets[key]

    def dense(self, config: EvaluateConfig, display: Display) -> DenseDataset:
        """The images of a dense evaluation, with their boxes or masks."""
        from hpt.dense.dataset import load
        from hpt.dense.targets import TASK_OF

        task = TASK_OF[config.kind]
        key = task, config.dataset, config.data, config.side
        if key not in self._dense:
            self._dense[key] = load(config.dataset, task, config.data, side=config.side, progress=display.progress)
        return self._dense[key]

    def compared(self, testing: Images, source: Run) -> Matches | None:
        """The test images that seem to be among those of a pretraining, compared once; None where it kept none, as an
        evaluation, or a run of version 0.1."""
        file = source.path / PRETRAINED_ON_THUMBNAILS
        if (seen := _of_seen(source, file.name, thumbnails.SIDE**2)) is None:
            return None
        key = file, file.stat().st_mtime_ns, testing.digests.tobytes()
        if key not in self._compared:
            self._compared[key] = thumbnails.find(testing.thumbnails, seen)
        return self._compared[key]

    def state_of(self, run: Run, config: EvaluateConfig, display: Display) -> tuple[Mapping[str, Tensor], str | None]:
        """The backbone that an evaluation is of, and the sha256 of its file; None for one that was never trained."""
        if run.spec().tags.strategy != UNTRAINED:
            loaded = self.weights_of(run, config)
            return loaded.state, loaded.sha256
        key = config.model_dump_json(include={"dataset", "data", "backbone", "pooling", "image_size", "seed", "device"})
        if key not in self._untrained:
            self._untrained = {key: floor.untrained(config, self.dataset(config, display), display.progress)}
        return self._untrained[key], None

    def weights_of(self, run: Run, config: PretrainConfig | EvaluateConfig) -> weights.Loaded:
        """The file that the run starts from or evaluates, read; where it is gone, what its name stands for now: known
        weights lie in each machine's own cache.

        Raises:
            RunError: these are not the weights that the run began with. WeightsError: there are none.
        """
        spec = run.spec()
        file = Path(recorded(spec.tags.weights_file, "which file its weights are"))
        if not file.exists() and spec.tags.weights is not None:
            file, _ = find_weights(spec.tags.weights)
        loaded = read_weights(file, backbone=config.backbone, allow_partial=config.allow_partial)
        began = run.status().facts.weights_sha256 if spec.kind != "sweep" else None  # a sweep has its winner's
        if began not in (None, loaded.sha256):
            raise RunError(
                f"{file} has other weights than run '{run.name}' began with (sha256 {loaded.sha256[:10]}, not"
                f" {str(began)[:10]})",
                "bring those back, or start a new run",
            )
        return loaded


def work(run: Run, *, materials: Materials | None = None, watcher: Watcher | None = None) -> None:
    """Do the run in this process, as one of its processes, and record its end in `status.json` whatever it is.

    With a watcher the run is silent, and leaves signals to it.

    Raises:
        Interrupted: after the state was saved, or after the run had finished. HptError: what went wrong.
    """
    materials = materials or Materials()
    config = config_of(run)
    processes = Processes(config.processes, config.device)
    asked = _Asked(watcher)
    display = Display(silent=not processes.main or watcher is not None, follow=asked.progress)
    with ExitStack() as open_things:
        open_things.callback(processes.leave)
        if processes.main:
            open_things.enter_context(run.working())
            run.start()
        tracker = open_things.enter_context(tracked(run)) if processes.main else None

        def log(metrics: dict[str, float], step: int) -> None:
            if tracker is not None:
                tracker.log(metrics, step)
                display.metrics(metrics)
            if watcher is not None:
                watcher.log(metrics, step)

        try:
            with display:
                if isinstance(config, PretrainConfig):
                    results, facts = _pretrain(run, config, processes, log, display, materials, asked)
                else:
                    results, facts = _evaluate(run, config, processes, log, display, materials, asked)
        except BaseException as error:
            run.write_failure(error)
            raise
        if processes.main:
            found = merged(run.status().facts, facts)
            run.write_status(state="finished", ended=time.time(), results=results, facts=found)
        if signum := asked.signal():
            raise Interrupted(signum, f"stopped when run '{run.name}' had finished")


def config_of(run: Run) -> PretrainConfig | EvaluateConfig:
    """The configuration of a pretraining or an evaluation."""
    return run.config(PretrainConfig) if run.spec().kind == "pretrain" else run.config(EvaluateConfig)


class _Asked:
    """Whether a run is asked to stop: by its watcher, or else by a signal or the end of the time given."""

    def __init__(self, watcher: Watcher | None) -> None:
        self.watcher = watcher
        self.signal: Callable[[], int] = lambda: 0
        """The signal that was held back."""
        self._work, self._since, self._longest = "", 0.0, 0.0
        """The work that progresses, when it did last, and the longest that it took to."""

    def stop(self, seconds: float) -> int:
        """As `Callbacks.stop`."""
        if self.watcher is not None:
            return self.watcher.stop(seconds)
        return self.signal() or deadline.passes_in(seconds)

    def progress(self, done: int, total: int, what: str) -> None:
        """Tell the watcher; work that nothing of is saved on its way ends here when it is asked to stop."""
        if self.watcher is not None:
            self.watcher.progress(done, total, what)
        if what in RESUMABLE:
            return
        now = time.monotonic()
        self._longest = max(self._longest, now - self._since) if what == self._work else 0.0
        self._work, self._since = what, now
        if (done < total or not total) and (signum := self.stop(self._longest)):
            raise deadline.starts_again(signum, done, total, what)

    @contextmanager
    def held_back(self, saves: bool) -> Iterator[None]:
        """A block whose work is asked to stop; signals interrupt it where it does not save its state."""
        if self.watcher is not None or not saves:
            yield
            return
        with held_back() as self.signal:
            yield


def _pretrain(
    run: Run,
    config: PretrainConfig,
    processes: Processes,
    log: Log,
    display: Display,
    materials: Materials,
    asked: _Asked,
) -> tuple[dict[str, float], Facts]:
    dataset = materials.dataset(config, display)
    images = dataset.pretraining_images(config.share, config.seed)
    facts = data_facts(dataset)
    facts.images, facts.hardware = len(images), hardware(processes.device, processes.count)
    facts.streamed = dataset.streamed or None
    compute = Compute.of(config, processes.device)
    facts.precision = compute.precision
    refuse_other_images(run, dataset, facts)
    refuse_other_precision(run, facts)
    refuse_disagreement(processes, dataset, facts)

    def base() -> dict[str, Tensor]:
        """The weights to start from, which are the main process's: another machine may not have them."""
        loaded = materials.weights_of(run, config)
        facts.weights_sha256 = loaded.sha256
        if not display.silent:
            console.note(loaded.summary())
            for line in loaded.oddities():
                console.warn(line)
        return dict(loaded.state)

    start = processes.of_main(base) if config.weights is not None else None
    facts.fingerprint = fingerprint_of(config, facts)
    metered = _with_energy(run, log, processes, facts) if processes.main else log
    if processes.main:
        write_split(run, dataset)
        for name, rows in _seen(images).items():
            with replacing(run.path / name) as part, part.open("wb") as file:
                np.save(file, rows)
        run.write_status(facts=facts)
        if dataset.streamed and not display.silent:
            console.note(f"images are streamed {dataset.streamed}; evaluations decode them into the cache")
        for line in remarks.notes(config, len(images), images.form) if not display.silent else ():
            console.note(f"note: {line}")
    watch = None
    if processes.main and config.probe_interval:
        from hpt.evaluate.online import OnlineProbe

        watch = OnlineProbe(config, dataset, compute)
    # `base` has nothing to save, and is simply ended by a signal.
    with asked.held_back(saves=config.strategy != "base"):
        outcome = pretrain(
            config,
            images,
            start,
            run.path,
            processes=processes,
            callbacks=Callbacks(metered, display.progress, asked.stop),
            watch=watch,
        )
    found = Facts(backbone_sha256=outcome.sha256)
    if isinstance(images, StreamedImages) and processes.main and images.store.unreadable:  # which shows on the way
        unreadable = (*dataset.quarantined, *sorted(images.store.unreadable.items()))
        write_split(run, replace(dataset, quarantined=unreadable))
        found.quarantined = len(unreadable)
    return outcome.results, merged(Facts.of(outcome.facts), found)


def _seen(images: Images) -> dict[str, npt.NDArray[np.uint8]]:
    """What a run keeps of the images that it sees, by the name of the file; of streamed ones what is known without
    reading them."""
    if not images.streamed:
        return {
            PRETRAINED_ON: images.digests.view(np.uint8).reshape(-1, 16),
            PRETRAINED_ON_THUMBNAILS: images.thumbnails,
        }
    if isinstance(images, StreamedImages) and images.has_digests:
        return {PRETRAINED_ON: images.digests.view(np.uint8).reshape(-1, 16)}
    return {}


def _with_energy(run: Run, log: Log, processes: Processes, facts: Facts) -> Log:
    """`log`, with the energy that the run took so far where the hardware counts it, steps that were lost included."""
    meter = Meter(processes.device, processes.here)
    if not meter.of:
        return log
    facts.energy_of = meter.of if processes.here == processes.count else f"{meter.of} of the first machine"
    spent = max((line["energy_wh"] for line in run.metrics() if "energy_wh" in line), default=0.0)

    def metered(metrics: dict[str, float], step: int) -> None:
        energy = meter.watt_hours() if "images_per_second" in metrics else None
        log(metrics if energy is None else metrics | {"energy_wh": spent + energy}, step)

    return metered


def _evaluate(
    run: Run,
    config: EvaluateConfig,
    processes: Processes,
    log: Log,
    display: Display,
    materials: Materials,
    asked: _Asked,
) -> tuple[dict[str, float], Facts]:
    dataset = materials.dataset(config, display)
    facts = data_facts(dataset)
    facts.hardware = hardware(processes.device, processes.count)
    facts.precision = Compute.of(config, processes.device).precision
    refuse_other_images(run, dataset, facts)
    refuse_other_precision(run, facts)
    refuse_disagreement(processes, dataset, facts)

    def subject() -> tuple[dict[str, Tensor], str | None]:
        state, facts.weights_sha256 = materials.state_of(run, config, display)
        facts.fingerprint = fingerprint_of(config, facts)
        write_split(run, dataset)
        run.write_status(facts=facts)
        warn = console.warn if not display.silent else lambda _: None
        refuse_leak(ancestry(run), config, dataset, facts, materials, warn=warn)
        run.write_status(facts=facts)
        return dict(state), facts.weights_sha256

    state, _ = processes.of_main(subject)
    with asked.held_back(saves=config.kind != "knn"):
        callbacks = Callbacks(log, display.progress, asked.stop)
        if config.kind in DENSE:
            dense = materials.dense(config, display)
            from hpt.dense.evaluation import evaluate_dense

            # the runs that it was pretrained by lie with the main process
            normalisation = _normalisation(processes.of_main(lambda: pretrained_by(run)))
            found = evaluate_dense(config, dense, state, run.path, callbacks, normalisation, processes=processes)
        else:
            from hpt.evaluate import evaluate

            found = evaluate(
                config, dataset, state, run.path, callbacks, common=materials.common(config), processes=processes
            )
    log(found.metrics, final_step(run))
    results = Facts.of(found.facts)
    if results.lr_at_edge is not None and not display.silent:
        console.note(f"note: {remarks.lr_at_edge(config.linear.lrs, results.lr_at_edge)}")
    return found.metrics, results


def test(run: Run) -> None:
    """Compute the test figures of an evaluation that left the test images alone, and add them to the run.

    Raises:
        RunError: it came from another machine without what it fitted.
    """
    from hpt.evaluate import MODEL

    config = run.config(EvaluateConfig)
    if config.kind != "knn" and not (run.path / MODEL).exists():
        raise absent(run)
    with Display() as display:
        materials = Materials()
        dataset, (state, _) = materials.dataset(config, display), materials.state_of(run, config, display)
        callbacks = Callbacks(progress=display.progress)
        if config.kind in DENSE:
            dense = materials.dense(config, display)
            from hpt.dense.evaluation import score_dense_on_test

            found = score_dense_on_test(config, dense, state, run.path, callbacks, _normalisation(pretrained_by(run)))
        else:
            from hpt.evaluate import score_on_test

            found = score_on_test(config, dataset, state, run.path, callbacks)
    status = run.status()
    run.append_metrics(found.metrics, final_step(run))
    run.write_status(results=status.results | found.metrics, facts=merged(status.facts, Facts.of(found.facts)))


def pretrained_by(run: Run) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The mean and deviation, by channel, of the images that the backbone under test was pretrained on; None where no
    run recorded them."""
    source = next(iter(ancestry(run)), None)
    facts = source.status().facts if source is not None else Facts()
    return (tuple(facts.mean), tuple(facts.std)) if facts.mean and facts.std else None


def _normalisation(statistics: tuple[tuple[float, ...], tuple[float, ...]] | None) -> Normalisation | None:
    from hpt.dense.views import Normalisation

    return Normalisation(*statistics) if statistics is not None else None


def refuse_other_images(run: Run, dataset: Dataset, facts: Facts) -> None:
    """A RunError when a run that goes on would see other images, or another split, than it began with."""
    before = run.status().facts
    began = before.data_fingerprint, before.split_fingerprint
    if began not in {(None, None), (facts.data_fingerprint, facts.split_fingerprint)}:
        raise RunError(
            f"the images of '{dataset.name}' are not those that run '{run.name}' began with",
            "bring them back, or start a new run",
        )


def refuse_other_precision(run: Run, facts: Facts) -> None:
    """A RunError when a run that goes on would compute in another precision than it began with, as `auto` does on
    another device."""
    before = run.status().facts.precision
    if before not in (None, facts.precision):
        raise RunError(
            f"run '{run.name}' began in {before} and would go on in {facts.precision} on this device",
            f"go on where it began, or start a new run with --precision {facts.precision}",
        )


def refuse_disagreement(processes: Processes, dataset: Dataset, facts: Facts) -> None:
    """A RunError, on every process, when some see other images or compute otherwise than the main one: they are on
    several machines then, each with files and programs of its own."""
    said = {
        "host": socket.gethostname(),
        "images": f"{len(dataset.images):,} images ({str(facts.data_fingerprint)[:10]})",
        "split": f"{facts.split_counts} ({str(facts.split_fingerprint)[:10]})",
        "program": f"hptctl {__version__}, torch {'.'.join(torch.__version__.split('.')[:2])}",
        "compute": f"{processes.device.type} in {facts.precision}",
    }
    mend = {
        "images": f"bring the same files of '{dataset.name}' to each machine",
        "split": f"bring the same files of '{dataset.name}', and lists of splits, to each machine",
        "program": "install the same versions on each machine",
        "compute": "give --device and --precision that each machine has",
    }
    first, *others = (json.loads(each) for each in processes.everyones(json.dumps(said)))
    for rank, other in enumerate(others, 1):
        for key, fix in mend.items():
            if other[key] != first[key]:
                raise RunError(
                    f"process {rank} on {other['host']} has {other[key]}, and process 0 on {first['host']} has"
                    f" {first[key]}",
                    fix,
                )


def refuse_leak(
    sources: Iterable[Run],
    config: EvaluateConfig,
    dataset: Dataset,
    facts: Facts,
    materials: Materials | None = None,
    *,
    warn: Callable[[str], None] = console.warn,
) -> None:
    """A RunError when one of the pretrainings `sources` saw test images: the split was cut by another seed there, or
    the same pictures were in the images of another dataset, as equal files or encoded again or resized. Pictures that
    are merely likely to be the same are warned of."""
    materials = materials or Materials()
    testing = dataset.images.subset(dataset.splits["test"])
    for source in sources:
        streamed = bool(source.spec().config["data"].get("stream"))
        same_place = streamed and source.spec().config["dataset"] == config.dataset
        if source.status().facts.data_fingerprint == facts.data_fingerprint or same_place:
            leaked = _same_names(testing, source)
            fix = f"use its split: --set data.split_seed={source.spec().config['data']['split_seed']}"
        else:
            leaked = _same_files(testing, source)
            fix = f"evaluate on others, or pretrain without them (its images: {source.spec().config['dataset']})"
        if leaked:
            raise RunError(f"run '{source.name}' was pretrained on {leaked} of the {len(testing)} test images", fix)
        if source.status().facts.data_fingerprint == facts.data_fingerprint or same_place:
            continue  # `datasets check` finds what is alike within a dataset
        if streamed:
            what = "near copies of" if (source.path / PRETRAINED_ON).exists() else "the same pictures as"
            warn(f"run '{source.name}' was streamed: whether it saw {what} the test images is not known")
            continue
        matches = materials.compared(testing, source)
        if matches is None:
            continue
        if len(matches.certain):
            said = (
                f"run '{source.name}' was pretrained on near copies of {len(matches.certain)} of the {len(testing)}"
                f" test images, encoded again or resized: {_some(testing, matches, matches.certain)}"
            )
            if not config.allow_near_copies:
                raise RunError(said, f"{fix}; where they are different images, --set allow_near_copies=true")
            facts.near_copies = (facts.near_copies or 0) + len(matches.certain)
            warn(said)
        if len(matches.likely):
            warn(
                f"{len(matches.likely)} of the {len(testing)} test images are much like images that run '{source.name}'"
                f" was pretrained on, as different images of one kind may be: {_some(testing, matches, matches.likely)}"
            )


def _same_names(testing: Images, source: Run) -> int:
    split = source.path / "split.json"
    if not split.exists():
        return 0
    try:
        before = json.loads(split.read_bytes())
        seen = {*before["train"], *before["val"]}
    except (ValueError, KeyError, TypeError):
        raise _unknown_what_it_saw(split, source) from None
    return len(set(testing.names) & seen)


def _same_files(testing: Images, source: Run) -> int:
    seen = _of_seen(source, PRETRAINED_ON, 16)
    return 0 if seen is None else int(np.isin(testing.digests, np.array(seen).view("V16").ravel()).sum())


def _of_seen(source: Run, name: str, width: int) -> npt.NDArray[np.uint8] | None:
    """[n, width] what a pretraining kept of the images that it saw, mapped from its file; None where it kept none, as
    an evaluation, or a run from before this was kept.

    Raises:
        RunError: the file is damaged, so that nobody can tell whether test images are among them.
    """
    try:
        seen: npt.NDArray[np.uint8] = np.load(source.path / name, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except OSError:  # which is not the file's fault
        raise
    except Exception:  # ValueError, TokenError, ..., by what of the header is damaged
        seen = np.empty(0, dtype=np.uint8)
    if seen.dtype != np.uint8 or seen.shape[1:] != (width,):
        raise _unknown_what_it_saw(source.path / name, source)
    return seen


def _unknown_what_it_saw(file: Path, source: Run) -> RunError:
    return RunError(
        f"{file} is damaged, by which test images that run '{source.name}' saw are known",
        "copy the run's folder anew from where it is whole, or pretrain again",
    )


def _some(testing: Images, matches: Matches, rows: npt.NDArray[np.int64]) -> str:
    """The first few of the images, each with its likeness."""
    named = ", ".join(f"{testing.names[row]} ({matches.likeness[row]:.4f})" for row in rows[:EXAMPLES].tolist())
    return named if len(rows) <= EXAMPLES else f"{named}, ..."


def final_step(run: Run) -> int:
    """The step of a run's final figures: its last one."""
    return int(max((line["step"] for line in run.metrics()), default=0))


def write_split(run: Run, dataset: Dataset) -> None:
    """`split.json`: which image is in which split, and which could not be read and why."""
    names = dataset.images.names
    split: dict[str, object] = {key: [names[i] for i in rows] for key, rows in dataset.splits.items()}
    split["quarantined"] = dict(dataset.quarantined)
    write_text(run.path / "split.json", json.dumps(split, indent=0, ensure_ascii=False))


def data_facts(dataset: Dataset) -> Facts:
    """Hashes and counts of a dataset."""
    return Facts(
        data_fingerprint=dataset.fingerprint,
        split_fingerprint=dataset.split_fingerprint,
        split_counts=" ".join(f"{key}={len(rows)}" for key, rows in dataset.splits.items()),
        quarantined=len(dataset.quarantined),
        pixels=dataset.images.form.in_words() or None,
        mean=tuple(dataset.images.mean),
        std=tuple(dataset.images.std),
    )


def fingerprint_of(config: PretrainConfig | EvaluateConfig, facts: Facts) -> str:
    """What the run's result rests on (`hpt.config.fingerprint`)."""
    data, split = facts.data_fingerprint, facts.split_fingerprint
    weights, precision = facts.weights_sha256 or "", recorded(facts.precision, "the precision that it computed in")
    return fingerprint(config, data=data or "", split=split or "", weights=weights, precision=precision)


def hardware(device: torch.device, processes: int = 1) -> str:
    """What a run computes on."""
    kind = device.type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else f"{cores.installed()}-core {platform.machine()}"
    return f"{processes} x {name} ({kind}), torch {torch.__version__}"


def embed(run: Run, splits: Sequence[str]) -> None:
    """As one of several processes: the features of all images in some splits, as `features.npz` in the run's folder.

    Raises:
        DataError: there are no images. HptError: a feature is NaN or infinite.
    """
    from hpt.evaluate import embeddings

    config, materials = run.config(EvaluateConfig), Materials()
    processes, asked = Processes(config.processes, config.device), _Asked(None)
    try:
        with Display(silent=not processes.main, follow=asked.progress) as display:
            dataset = materials.dataset(config, display)
            facts = data_facts(dataset)
            facts.precision = Compute.of(config, processes.device).precision
            refuse_disagreement(processes, dataset, facts)
            state = processes.of_main(lambda: dict(materials.state_of(run, config, display)[0]))
            found = embeddings.extract(config, dataset, state, splits, display.progress, processes)
        if processes.main:
            embeddings.write(run.path / FEATURES, found, {})
            run.write_status(state="finished")
    finally:
        processes.leave()


def main() -> None:
    """`python -m hptctl.worker RUN-FOLDER`, once per process; with `--features SPLIT...` as `embed`."""
    collector.spare()
    environment.keep_warnings_warnings()
    environment.follow_no_accelerate()
    mask_tracebacks()
    raise_on_signals()
    end_with_command()
    own_launcher = COMMAND_VARIABLE not in os.environ
    if not own_launcher:
        console.err.file = sys.stdout  # standard error is the launchers', who say much there
    if os.environ.get("RANK", "0") == "0":
        console.show_library_notes()
    folder, *words = sys.argv[1:]
    run = Run(Path(folder))
    try:
        refuse_other_number(run)
        if own_launcher and run.status().state == "finished":
            console.note(f"run '{run.name}' is finished already")
        elif words[:1] == ["--features"]:
            embed(run, words[1:])
        else:
            work(run)
    except HptError as error:
        run.write_failure(error)  # also what failed before there was a lock to work under
        if own_launcher and os.environ.get("LOCAL_RANK", "0") == "0":
            console.error(str(error))
        sys.exit(error.exit_code)
    except BaseException as error:
        run.write_failure(error)
        raise
    if os.environ.get("RANK", "0") != "0":
        # It has written nothing that is still to be flushed, and gloo aborts now and then as an interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def refuse_other_number(run: Run) -> None:
    """A ConfigError where a launcher has started several processes of a run that has one: each would do all of it."""
    wanted, started = config_of(run).processes, int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1 < started:
        raise ConfigError(
            f"run '{run.name}' has one process, but the launcher started {started}",
            f"have it start one, or make the run with --processes {started}",
        )


if __name__ == "__main__":
    main()
