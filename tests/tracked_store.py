"""A tracking store that holds every situation that a report must tell apart, written as the program writes it."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpt import predictions
from hpt.config import EvaluateConfig, PretrainConfig, fingerprint, resolve
from hpt.evaluate.results import write_per_class
from hpt.predictions import Predictions
from hptctl import runs, tracking
from hptctl.report.findings import Findings
from hptctl.report.results import Result

ODD = "<script>alert(1)</script> $x^ & 图"
T0 = 1_760_000_000.0
HOUR = 3600.0


IMAGES = 400
CLASSES = np.array(["corn <field>", "forest", "river | sea", "town"])
LABELS = np.arange(IMAGES) % 4


def predictions_of(right: Sequence[int]) -> Predictions:
    """Each rerun has the first so many of 400 images right, and takes the others for the next class."""
    taken = [np.where(np.arange(IMAGES) < count, LABELS, (LABELS + 1) % 4) for count in right]
    scores = np.stack([10 * np.eye(4, dtype=np.float32)[each] for each in taken])
    names = np.array([f"{number:03d}.png" for number in range(IMAGES)])
    return Predictions(names, LABELS, scores, CLASSES)


class Store:
    """Writes runs into the store of the working folder as the program does: run folder, then MLflow."""

    def __init__(self, clock: float = T0, hardware: str = "1 x 2-core x86_64 (cpu)") -> None:
        self.clock, self.hardware = clock, hardware
        self.ids: dict[str, str] = {}

    def run(
        self,
        kind: runs.Kind,
        name: str,
        config: dict[str, Any],
        tags: dict[str, Any],
        metrics: dict[int, dict[str, float]],
        state: runs.State = "finished",
        facts: dict[str, str] | None = None,
        kept: Predictions | None = None,
        **spec: Any,
    ) -> str:
        self.clock += HOUR
        run = runs.create(
            kind,
            name,
            "",
            experiment="test",
            command=f"hptctl {kind} --name '{name}'",
            config=config,
            tags={key: str(value) for key, value in tags.items()},
            **spec,
        )
        run.start()
        if kept is not None:
            predictions.write(run.path, "test", kept)
            write_per_class(run.path, "test", kept)
        with tracking.tracked(run) as tracker:
            for step, values in metrics.items():
                tracker.log(values, step)
            if state != "running":
                run.write_status(state=state, ended=self.clock, facts=facts or {})
        self.ids[name] = runs.tracked_id(run) or ""
        assert self.ids[name], "the store has not taken the run"
        return name

    def pretrain(
        self,
        strategy: str,
        dataset: str,
        steps: int,
        seed: int = 0,
        state: runs.State = "finished",
        *,
        sets: tuple[str, ...] = (),
        source: str | None = None,
        looks: bool = False,
    ) -> str:
        name = "-".join([strategy, re.sub(r"[^a-z_]+", "", dataset), str(steps), str(seed)])
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join([name, *sets, *([f"from-{source}"] if source else [])]))
        weights = None if strategy == "target" else source or "moco-v2-800ep"
        config = resolve(
            PretrainConfig,
            sets=["preset=small", f"seed={seed}", *sets],
            flags={"strategy": strategy, "dataset": dataset, "weights": weights, "steps": steps or None},
        )
        tags = {
            "strategy": strategy,
            "dataset": dataset,
            "steps": steps,
            "seed": seed,
            "preset": "small",
            "weights": weights or "",
            "weights_sha256": "a1b2c3d4e5f60718",
            "data_fingerprint": "feedc0ffee112233",
            "split_fingerprint": "5ca1ab1e00112233",
        }
        loss = {
            step: {"loss": 7.5 * (step + 5) ** -0.18 + 0.1 * seed, "lr": 0.03, "images_per_second": 128.0}
            for step in sorted({round(steps * i / 30) for i in range(1, 31)})
            if step
        }
        for step in (steps // 2, steps) if looks else ():
            loss.setdefault(step, {})
            loss[step] |= {"probe/knn_top1": 0.5 + step / 1e5, "probe/alignment": 0.4 - step / 1e5}
        facts = {"images": "2240", "hardware": self.hardware, "fingerprint": self.fingerprint(config, source)}
        dumped = config.model_dump(mode="json")
        return self.run("pretrain", name, dumped, tags, loss, state, facts, **self.link(source))

    def fingerprint(self, config: PretrainConfig | EvaluateConfig, source: str | None) -> str:
        """As a run records it; the fingerprint of what it starts from stands for its weights."""
        weights = runs.get(source).status().facts.fingerprint or "" if source else ""
        return fingerprint(config, data=config.dataset, split="5ca1ab1e00112233", weights=weights, precision="fp32")

    def link(self, source: str | None) -> dict[str, str]:
        """The fields of a run that say what it starts from."""
        return {"source": source, "source_folder": str(runs.get(source).path.resolve())} if source else {}

    def evaluate(
        self,
        kind: runs.Kind,
        source: str,
        dataset: str,
        test: float | None,
        *,
        name: str | None = None,
        val: float | None = None,
        metric: str = "top1",
        labels: str = "all",
        images: int = 1000,
        seed: int = 0,
        state: runs.State = "finished",
        parent: str | None = None,
        sets: tuple[str, ...] = (),
        right: Sequence[int] = (),
    ) -> str:
        """`right`: how many of the first of 400 images each rerun has right, which gives the figures."""
        trained = runs.get(source).spec().tags.text()
        config = resolve(
            EvaluateConfig,
            sets=["preset=small", *sets],
            flags={"kind": kind, "weights": source, "dataset": dataset, "labels": labels, "seed": seed},
        )
        tags = {
            "strategy": trained["strategy"],
            "dataset": dataset,
            "pretrain_dataset": trained["dataset"],
            "steps": trained["steps"],
            "pretrain_seed": trained["seed"],
            "seed": seed,
            "preset": "small",
            "labels": labels,
            "source_id": self.ids[source],
            "metric": metric,
            "split_fingerprint": "5ca1ab1e00112233",
        }
        if right:
            test, images = statistics.fmean(right) / IMAGES, IMAGES
        metrics = {} if val is None and test is None else {1: {f"val/{metric}": test if val is None else val}}  # type: ignore[dict-item]
        if test is not None:
            metrics[1] |= {f"test/{metric}": test, f"test/{metric}_std": 0.002}
        facts = {"test_images": str(images), "fingerprint": self.fingerprint(config, source)}
        name = name or f"{kind}-{labels}-{source}"
        kept = predictions_of(right) if right else None
        dumped = config.model_dump(mode="json")
        return self.run(kind, name, dumped, tags, metrics, state, facts, kept, parent=parent, **self.link(source))

    def sweep(self, source: str, dataset: str, vals: dict[tuple[str, str], float], test: float) -> None:
        trained = runs.get(source).spec().tags.text()
        name = f"sweep-{source}"
        best = max(vals, key=lambda cell: vals[cell])
        trial = {cell: f"{name}-{i}" for i, cell in enumerate(vals)}
        tags = {
            "strategy": trained["strategy"],
            "dataset": dataset,
            "steps": trained["steps"],
            "pretrain_seed": trained["seed"],
            "metric": "top1",
            "labels": "1000",
            "winner": trial[best],
        }
        space = {"space": {"lr": [0.01, 0.001], "schedule": ["2500-steps", "90-epochs"]}}
        metrics = {1: {"val/top1": vals[best], "test/top1": test}}
        self.run("sweep", name, space, tags, metrics, source=source)
        for (lr, schedule), val in vals.items():
            self.evaluate(
                "finetune",
                source,
                dataset,
                test if (lr, schedule) == best else None,
                val=val,
                name=trial[lr, schedule],
                labels="1000",
                parent=name,
                sets=(f"finetune.lr={lr}", f"finetune.schedule={schedule}"),
            )


def fill(store: Store) -> None:
    elsewhere = store.pretrain("target", "tiny_imagenet", 5000)
    base = store.pretrain("base", "flowers", 0)
    store.evaluate("linear", base, "flowers", 0.712)
    store.evaluate("knn", base, "flowers", 0.583)
    store.evaluate("linear", elsewhere, "flowers", 0.655)
    hpt = [store.pretrain("hpt", "flowers", 5000, seed) for seed in range(3)]
    store.evaluate("linear", hpt[0], "flowers", 0.5, name="linear-of-an-older-day")
    for source, test in zip(hpt, (0.842, 0.851, 0.846), strict=True):
        store.evaluate("linear", source, "flowers", test)
    # The longer pretraining is better on test and worse on val: the table must not pick it.
    longer = store.pretrain("hpt", "flowers", 50000)
    store.evaluate("linear", longer, "flowers", 0.861, val=0.80)
    store.evaluate("linear", store.pretrain("hpt", "flowers", 500), "flowers", 0.801)
    store.evaluate("knn", hpt[0], "flowers", 0.671)
    for steps, test in ((5000, 0.601), (50000, 0.741)):
        store.evaluate("linear", store.pretrain("target", "flowers", steps), "flowers", test)
    store.evaluate("linear", store.pretrain("hpt-bn", "flowers", 5000), "flowers", 0.838)
    grid = {
        ("0.01", "2500-steps"): 0.62,
        ("0.01", "90-epochs"): 0.644,
        ("0.001", "2500-steps"): 0.58,
        ("0.001", "90-epochs"): 0.571,
    }
    store.sweep(hpt[0], "flowers", grid, 0.639)
    store.evaluate("finetune", base, "flowers", 0.6, labels="1000")

    chest = [store.pretrain("base", "chest", 0), store.pretrain("hpt", "chest", 5000)]
    store.evaluate("linear", chest[0], "chest", 0.913, metric="auroc", images=618)
    store.evaluate("linear", chest[1], "chest", 0.921, metric="auroc", images=618)
    store.evaluate("finetune", chest[1], "chest", None, name="gave-up", state="failed")
    store.evaluate("finetune", chest[1], "chest", 0.99, name="stopped", state="killed", metric="auroc")
    store.evaluate("finetune", chest[1], "chest", None, name="on-its-way", state="running")

    odd = [
        store.pretrain("base", ODD, 0),
        store.pretrain("hpt", ODD, 500),
        store.pretrain("target", ODD, 5000),
    ]
    for source, test in zip(odd, (0.93, 0.72, 0.66), strict=True):
        store.evaluate("linear", source, ODD, test, images=786)

    # Images with predictions: differences have intervals here, and variants of the method have been tried.
    base = store.pretrain("base", "aerial", 0)
    store.evaluate("linear", base, "aerial", None, right=(240, 240))
    for seed, right in enumerate(((300, 304), (302, 306), (304, 308))):
        source = store.pretrain("hpt", "aerial", 5000, seed, looks=True)
        store.evaluate("linear", source, "aerial", None, right=right)
    for steps, right in ((5000, (200, 200)), (50000, (280, 280)), (100000, (310, 310))):
        store.evaluate("linear", store.pretrain("target", "aerial", steps), "aerial", None, right=right)
    store.evaluate("linear", store.pretrain("hpt-bn", "aerial", 5000), "aerial", None, right=(309, 305))
    for name, right in (("augment.policy=crop-only", (260, 260)), ("share=0.1", (303, 303))):
        source = store.pretrain("hpt", "aerial", 5000, sets=(name,))
        store.evaluate("linear", source, "aerial", None, right=right)
    store.evaluate("linear", store.pretrain("hpt", "aerial", 5000, source=hpt[0]), "aerial", None, right=(330, 330))


def result(findings: Findings, arm: str, steps: int, target: str = "aerial") -> Result:
    return next(
        c for c in findings.every
        if (c.target, c.evaluation, c.arm, c.steps) == (target, "linear probe", arm, steps)
    )  # fmt: skip
