"""What of a run's record names places."""

from __future__ import annotations

from hptctl.runs import Spec, places
from hptctl.runs.record import Tags


def test_the_longest_of_the_moves_is_made_and_nothing_else_of_a_record_changes() -> None:
    config = {
        "dataset": "/home/me/x-rays",
        "grids": [{"datasets": ["/home/me/x-rays/", "flowers", "/home/me/x-rays-2"]}],
        "steps": 5,
        "weights": "own",
    }
    tags = Tags(dataset="x-rays", weights="own", weights_file="/home/me/work/runs/own/backbone.safetensors")
    spec = Spec(kind="pretrain", name="a", experiment="e", created=1.5, command="in /home/me", config=config, tags=tags)
    found = places.moved(spec, [("/home/me", "/new"), ("/home/me/x-rays/", "/data/x"), ("/home/me/work/runs", "/r")])
    assert found.config == {
        "dataset": "/data/x",
        "grids": [{"datasets": ["/data/x/", "flowers", "/new/x-rays-2"]}],
        "steps": 5,
        "weights": "own",
    }
    assert found.tags.weights_file == "/r/own/backbone.safetensors"
    assert places.without_places(found.config) == places.without_places(config) != found.config
    assert list(places.images_of({"evaluate": found.config})) == ["/data/x"]
    assert places.moved(found, []) == found
    assert found.model_dump(exclude={"config", "tags"}) == spec.model_dump(exclude={"config", "tags"})
