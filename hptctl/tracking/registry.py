"""A backbone in the store's model registry."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hptctl.runs import Run
from hptctl.tracking.store import client, experiment_id, readable, uri

if TYPE_CHECKING:
    from torch import Tensor


def register(name: str, run: Run, state: Mapping[str, Tensor], about: Mapping[str, object], card: str) -> str:
    """Put a backbone into the store's model registry, as a model that embeds images; its `models:/` address.

    `about` has `backbone`, `image_size`, `pooling`, and `mean` and `std` of the images that it was trained on.

    Raises:
        RunError: the store cannot be used, or has no registry.
    """
    from safetensors.torch import save_file

    with readable(), tempfile.TemporaryDirectory() as folder:
        mlflow_client = client()
        import mlflow

        mlflow.set_tracking_uri(uri())
        mlflow.set_registry_uri(uri())
        mlflow.set_experiment(experiment_id=experiment_id(mlflow_client, run.spec().experiment))
        files = {"backbone": Path(folder) / "backbone.safetensors", "about": Path(folder) / "about.json"}
        save_file(dict(state), files["backbone"])
        files["about"].write_text(json.dumps(dict(about)))
        logged = mlflow.pyfunc.log_model(
            name=re.sub(r"[^A-Za-z0-9_-]+", "-", run.name),
            python_model=str(Path(__file__).with_name("embedder.py")),
            artifacts={key: str(path) for key, path in files.items()},
            pip_requirements=["torch", "torchvision", "timm", "safetensors"],
        )
        version = mlflow.register_model(logged.model_uri, name)
        mlflow_client.update_model_version(name, version.version, description=card)
        mlflow_client.set_model_version_tag(name, version.version, "run", run.name)
    return f"models:/{name}/{version.version}"
