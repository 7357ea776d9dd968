"""A network as a folder of the Hugging Face hub, in timm's layout: `config.json` and `model.safetensors`.

timm writes it and loads it again (`timm.create_model("local-dir:FOLDER", pretrained=True)`, or `hf-hub:ORG/NAME` once
it is uploaded), and what it then computes is checked before the folder takes its place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from hpt.architectures.networks import quiet, takes_size
from hpt.config import RESNETS, Pooling
from hpt.errors import ConfigError, HptError

FILES = {"config.json", "model.safetensors", "README.md"}


def check_folder(path: Path) -> None:
    """
    Raises:
        ConfigError: it has other files than such a folder has, or is a file.
    """
    if path.exists() and (not path.is_dir() or {each.name for each in path.iterdir()} - FILES):
        raise ConfigError(f"{path} is there and is no folder of a model", "choose another --out")


def model_of(
    state: Mapping[str, Tensor], name: str, *, channels: int, classes: int, image_size: int | None, pooling: Pooling
) -> Any:
    """timm's own network with these weights: the encoder's, and a classifier's where there are classes.

    Raises:
        ConfigError: timm has no such pooling.
    """
    if pooling == "both":
        raise ConfigError("timm has no pooling of both class token and patches", "use --layout onnx")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    if image_size is not None and name not in RESNETS and takes_size(name):
        options["img_size"] = image_size
    with quiet():
        model: Any = timm.create_model(name, pretrained=False, **options)
        if pooling != "own" and name not in RESNETS:
            model.reset_classifier(classes, "avg" if pooling == "average" else "token")
    model.load_state_dict(dict(state), strict=True)
    return model.eval()


def write(
    state: Mapping[str, Tensor],
    name: str,
    path: Path,
    *,
    channels: int,
    labels: Sequence[str],
    image_size: int,
    pooling: Pooling,
    normalisation: tuple[Sequence[float], Sequence[float]] | None,
) -> str:
    """Write the folder; returns the line of Python that loads it.

    Args:
        labels: the names of the classes of a classifier; none of an encoder.
        normalisation: mean and standard deviation of the images by channel, which timm's transforms then use.

    Raises:
        ConfigError: as `check_folder` and `model_of`. HptError: timm does not read it as it was.
    """
    check_folder(path)
    model = model_of(state, name, channels=channels, classes=len(labels), image_size=image_size, pooling=pooling)
    about: dict[str, Any] = {"input_size": [channels, image_size, image_size], "crop_pct": 224 / 256}
    about |= {"interpolation": "bilinear"}
    if normalisation is not None:
        about |= {"mean": list(normalisation[0]), "std": list(normalisation[1])}
    config: dict[str, Any] = {"pretrained_cfg": about} | ({"label_names": list(labels)} if labels else {})
    arguments = {"in_chans": channels} if channels != 3 else {}
    if takes_size(name) and name not in RESNETS:
        arguments["img_size"] = image_size
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}-") as beside:
        made = Path(beside) / "model"
        with quiet():
            timm.models.save_for_hf(
                model, str(made), model_config=config, model_args=arguments or None, safe_serialization=True
            )
            again = timm.create_model(f"local-dir:{made}", pretrained=True).eval()
        images = torch.randn(2, channels, image_size, image_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            if not torch.equal(again(images), model(images)):
                raise HptError(f"timm reads another {name} from the folder than was written, so it is not kept")
        path.mkdir(exist_ok=True)
        for file in made.iterdir():
            shutil.move(file, path / file.name)
    return f"model = timm.create_model({f'local-dir:{path}'!r}, pretrained=True)"
