"""The tracking store as it is read."""

from __future__ import annotations

from pathlib import Path

from tracked_store import Store

from hptctl import tracking


def test_what_a_run_under_way_logs_is_no_change(workplace: Path) -> None:
    store = Store()
    source = store.pretrain("hpt", "flowers", 50)
    watch = tracking.StoreWatch()
    assert watch.changed()
    assert not watch.changed()
    running = store.evaluate("linear", source, "flowers", None, state="running")
    assert watch.changed()
    from hptctl import runs

    run = runs.get(running)
    run.append_metrics({"val/top1": 0.5}, 7)
    tracking.sync(run)
    assert not watch.changed()
    run.write_status(state="finished", ended=1_770_000_000.0)
    tracking.sync(run)
    assert watch.changed()
