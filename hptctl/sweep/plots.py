"""The plots of a finished sweep, which are kept among its artifacts."""

from __future__ import annotations

from hptctl.charts import sweep as charts
from hptctl.runs import Run
from hptctl.sweep.queue import Queue
from hptctl.sweep.samplers import importances


def draw(sweep: Run, queue: Queue) -> None:
    """Draw the plots of a sweep; one that cannot be drawn costs a warning."""
    folder = sweep.path / "artifacts"
    folder.mkdir(exist_ok=True)
    points = [
        charts.DrawnTrial(t.number, t.state, t.params, t.value, t.worker, t.started, t.ended) for t in queue.trials()
    ]
    dimensions = queue.plan.space.dimensions
    log = [name for name, dimension in dimensions.items() if getattr(dimension, "log", False)]
    charts.write(folder, points, list(dimensions), importances(queue.study), log=log)
